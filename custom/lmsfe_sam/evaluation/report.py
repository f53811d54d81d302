"""``report.html``: the tables, plots and pictures of a run in one self-contained file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from lmsfe_sam.evaluation import plots, tables
from lmsfe_sam.evaluation.gallery import ImageReader, gallery
from lmsfe_sam.evaluation.protocol import CLICK_LIMIT, JITTER_PERCENTS, MATCHED_CONTROLS, NOC_TARGETS
from lmsfe_sam.evaluation.results import ImageResult
from lmsfe_sam.evaluation.summary import CurveSummary, Summary
from lmsfe_sam.evaluation.tables import figure, signed, title
from lmsfe_sam.files import atomic_write
from lmsfe_sam.prompts.simulate import CONTROLS

STYLES = {
    "box": "series-1",
    "box_jitter_10": "series-2",
    "box_jitter_20": "series-3",
    "point": "series-4",
    "clicks_5": "series-5",
    "none": "series-6",
}
"""Colour of each mode of the network; every control is dashed and grey."""


def write_report(
    summary: Summary, results: Sequence[ImageResult], path: Path, read: ImageReader, cases: int
) -> None:
    """Write the report.

    Args:
        summary: the run's figures.
        results: one an image.
        path: of the file.
        read: loads an image by its name, for the gallery.
        cases: how many best, median and worst cases a mode the gallery shows; 0 for no gallery.
    """
    info = summary.info
    sections = [
        _cards(summary),
        _section("Results by prompt", tables.mode_table(summary), _MODES_NOTE),
        _distributions(summary, results),
        _section("Network and control on the same box", tables.gain_table(summary.gains), _GAIN_NOTE)
        if summary.gains
        else "",
        _curves(summary.curves) if summary.curves else "",
        _reliability(summary, results) if summary.reliability else "",
        _section("By subgroup", tables.subgroup_tables(summary.subgroups), _SUBGROUP_NOTE)
        if summary.subgroups
        else "",
        _comparison(summary),
        _section(
            "Best, median and worst cases",
            gallery(results, list(results[0].masks), cases, read),
            _GALLERY_NOTE,
        )
        if cases and results[0].masks
        else "",
        _section("How this was measured", tables.facts(summary)),
    ]
    page = _text("report.html").substitute(
        title=escape(f"Evaluation on {info.dataset}"),
        subtitle=escape(
            f"{_split_words(info.split)} · {summary.n_images} images in {summary.n_groups} groups · "
            f"{info.checkpoint or 'controls only, no network'}"
        ),
        style=_text("report.css").template,
        body="\n".join(section for section in sections if section),
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


_MODES_NOTE = (
    "Means with bootstrap 95 % intervals. Controls need no network: they turn the very box that the "
    "network was shown into a mask. A method that does not beat the ellipse has not looked at the image. "
    "Distances are in pixels of the compared masks; an empty prediction counts with the image's diagonal."
)
_GAIN_NOTE = (
    "Network minus the ellipse inscribed in the same box, image by image. Wins are images on which the "
    "network is better."
)
_SUBGROUP_NOTE = "Mean Dice with its 95 % interval. Lesion sizes are tertiles of the images evaluated here."
_GALLERY_NOTE = (
    "By Dice. Truth is green, the prediction amber, a box blue and dashed, a click green on the lesion "
    "and red on background."
)


def _cards(summary: Summary) -> str:
    cards = []
    for mode, columns in summary.prompts.items():
        if mode in CONTROLS:
            continue
        dice = columns["dice"]
        below = f"{figure(dice.low)} to {figure(dice.high)}<br>"
        if mode in summary.gains:
            control = summary.prompts[MATCHED_CONTROLS[mode]]["dice"].mean
            below += f"ellipse {figure(control)} ({signed(dice.mean - control)})"
        else:
            below += f"HD {columns['hd'].mean:.1f} px"
        cards.append(
            f'<div class="card"><div class="title">Dice, {title(mode)}</div>'
            f'<div class="value">{figure(dice.mean)}</div><div class="below">{below}</div></div>'
        )
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def _distributions(summary: Summary, results: Sequence[ImageResult]) -> str:
    modes = tables.with_controls_below(list(summary.prompts))
    rows = [(title(mode), STYLES.get(mode, "control"), summary.prompts[mode]["dice"]) for mode in modes]
    shown = [mode for mode in modes if mode in STYLES or mode == "control_ellipse"]
    columns = [
        (title(mode), STYLES.get(mode, "control"), [result.scores[mode]["dice"] for result in results])
        for mode in shown or modes
    ]
    panels = [
        _panel("Mean Dice and its interval", plots.interval_plot("Mean Dice by prompt", "Dice", rows)),
        _panel(
            "All images, not the mean alone", plots.distribution_plot("Distribution of Dice", "Dice", columns)
        ),
    ]
    return f'<div class="plots" style="margin-top:16px">{"".join(panels)}</div>'


def _curves(curves: CurveSummary) -> str:
    clicks = range(1, CLICK_LIMIT + 1)
    jitter = plots.line_plot(
        "Dice against box jitter",
        "box jitter: each side moved by up to this % of its length",
        "Dice",
        [
            plots.Line("network", "series-1", JITTER_PERCENTS, curves.jitter),
            plots.Line("ellipse in the same box", "control", JITTER_PERCENTS, curves.jitter_ellipse),
        ],
    )
    clicking = plots.line_plot(
        "Dice and IoU against the number of clicks",
        "clicks, each in the largest error so far",
        "Dice, IoU",
        [
            plots.Line("Dice", "series-5", clicks, curves.click_dice),
            plots.Line("IoU", "series-4", clicks, curves.click_iou),
        ],
    )
    needed = "; ".join(
        f"{name} is <b>{curves.clicks_needed[name].mean:.2f}</b> clicks to an IoU of {target:.2f}, "
        f"reached on {curves.reached[name]:.0%} of the images"
        for name, target in NOC_TARGETS.items()
    )
    note = f'<p class="note">{needed}. An image that never gets there counts {CLICK_LIMIT} clicks.</p>'
    panels = _panel("Careless boxes", jitter) + _panel("More clicks", clicking + note)
    return _section("Robustness to the prompt", f'<div class="plots">{panels}</div>')


def _reliability(summary: Summary, results: Sequence[ImageResult]) -> str:
    panels = []
    for mode, own in summary.reliability.items():
        predicted = [result.predicted_iou[mode] for result in results]
        actual = [result.scores[mode]["iou"] for result in results]
        drawing = plots.calibration_plot(
            f"Predicted and actual IoU, {title(mode)}", predicted, actual, own.bins, STYLES[mode]
        )
        note = f"Spearman {figure(own.spearman)}, calibration error {figure(own.error)}"
        panels.append(_panel(title(mode), f'{drawing}<p class="note">{note}</p>'))
    note = (
        "A point is an image; the line joins the means of tenths of the predicted IoU. A reliable prediction "
        "follows the dashed diagonal, and ranks the images as their actual IoU does."
    )
    overall = summary.overall_reliability
    if overall is not None:
        note += f" All modes in one: Spearman {figure(overall.spearman)}, error {figure(overall.error)}."
    return _section(
        "Can the predicted IoU be trusted?", f'<div class="plots small">{"".join(panels)}</div>', note
    )


def _comparison(summary: Summary) -> str:
    comparison = summary.comparison
    if comparison is None:
        return ""
    note = (
        f"This run minus <code>{escape(str(comparison.path))}</code> on the {comparison.n_images} images "
        f"that both scored ({comparison.only_here} only here, {comparison.only_there} only there). Wins are "
        "images on which this run is better."
    )
    warning = (
        '<p class="warning">The controls of the two runs differ: they were not measured on the same masks, '
        "at the same size and with the same seed, so the differences mean little.</p>"
        if comparison.same_protocol is False
        else ""
    )
    shown = {mode: columns for mode, columns in comparison.differences.items() if mode not in CONTROLS}
    return _section(
        "Compared with another run", warning + tables.gain_table(shown or comparison.differences), note
    )


def _section(name: str, content: str, note: str = "") -> str:
    explained = f'<p class="note">{note}</p>' if note else ""
    return f"<section><h2>{name}</h2>{explained}{content}</section>"


def _panel(name: str, content: str) -> str:
    return f'<div class="panel"><h3>{name}</h3>{content}</div>'


def _split_words(split: str) -> str:
    return "all images" if split == "all" else f"split {split}"


def _text(name: str) -> Template:
    return Template(files(__package__).joinpath(name).read_text(encoding="utf-8"))
