"""``report.html``: tables, plots and pictures of a run in one self-contained file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Template

from lmsfe_sam.evaluation.comparison import Difference
from lmsfe_sam.evaluation.metrics import COLUMNS
from lmsfe_sam.evaluation.protocol import CLICK_LIMIT, JITTER_PERCENTS, NOC_TARGETS, is_control
from lmsfe_sam.evaluation.report import formatting, plots
from lmsfe_sam.evaluation.report.formatting import title
from lmsfe_sam.evaluation.report.gallery import ImageReader, make_gallery
from lmsfe_sam.evaluation.results import ImageResult
from lmsfe_sam.evaluation.statistics import Estimate
from lmsfe_sam.evaluation.summary import CurveSummary, SubgroupRow, Summary
from lmsfe_sam.files import atomic_write
from lmsfe_sam.pages import environment, style_sheet

FOLDER = Path(__file__).parent

STYLES = {
    "box": "series-1",
    "box_jitter_10": "series-2",
    "box_jitter_20": "series-3",
    "point": "series-4",
    "clicks_5": "series-5",
    "none": "series-6",
    "predictions": "series-1",
    "annotated_box": "series-2",
}
"""Colours of the network's modes. Every control is dashed and grey."""


@dataclass(frozen=True)
class SubgroupTable:
    """Mean Dice of each subgroup of one kind.

    Attributes:
        name: of the kind, such as "Lesion size".
        modes: columns of the table.
        lines: value, number of images and the estimates of ``modes``.
    """

    name: str
    modes: list[str]
    lines: list[tuple[str, int, list[Estimate]]]


def write_report(
    summary: Summary, results: Sequence[ImageResult], path: Path, read: ImageReader, cases: int
) -> None:
    """Write the report.

    Args:
        summary: of the run.
        results: one for each image.
        path: of the file.
        read: loads an image by its name, for the gallery.
        cases: how many best, median and worst cases of each mode the gallery shows; 0 for no gallery.
    """
    columns = [
        name for name in COLUMNS if any(not math.isnan(own[name].mean) for own in summary.prompts.values())
    ]
    page = _template().render(
        style=style_sheet(FOLDER / "report.css"),
        info=summary.info,
        summary=summary,
        modes=formatting.with_controls_below(list(summary.prompts)),
        columns=columns,
        plots=_plots(summary, results),
        targets=NOC_TARGETS,
        click_limit=CLICK_LIMIT,
        subgroups=subgroup_tables(summary.subgroups),
        compared=[(comparison, _of_networks(comparison.differences)) for comparison in summary.comparisons],
        gallery=make_gallery(results, list(results[0].masks), cases, read)
        if cases and results[0].masks
        else None,
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _of_networks(differences: dict[str, dict[str, Difference]]) -> dict[str, dict[str, Difference]]:
    """Return the modes without the controls, if there are any."""
    return {mode: own for mode, own in differences.items() if not is_control(mode)} or differences


@cache
def _template() -> Template:
    templates = environment(FOLDER)
    templates.filters |= {
        "title_of": title,
        "number": formatting.number,
        "signed": formatting.signed,
        "digits_of": formatting.digits_of,
        "verdict": formatting.verdict,
        "control_of": formatting.control_of,
        "px": "{:.1f}".format,
    }
    templates.tests |= {"nan": math.isnan, "control": is_control}
    return templates.get_template("report.html")


def subgroup_tables(rows: Sequence[SubgroupRow]) -> list[SubgroupTable]:
    """Return one table for each kind of subgroup, with the ellipse as the only control."""
    tables = []
    for kind in dict.fromkeys(row.subgroup for row in rows):
        own = [row for row in rows if row.subgroup == kind]
        modes = list(dict.fromkeys(row.prompt for row in own))
        shown = [mode for mode in modes if not is_control(mode) or mode == "control_ellipse"]
        lines = []
        for value in dict.fromkeys(row.value for row in own):
            by_mode = {row.prompt: row for row in own if row.value == value}
            count = next(iter(by_mode.values())).n_images
            lines.append((value, count, [by_mode[mode].estimates["dice"] for mode in shown]))
        name = title(kind)
        tables.append(SubgroupTable(name[:1].upper() + name[1:], shown, lines))
    return tables


def _plots(summary: Summary, results: Sequence[ImageResult]) -> dict[str, Any]:
    """Return the plots of the page by name."""
    modes = formatting.with_controls_below(list(summary.prompts))
    rows = [(title(mode), STYLES.get(mode, "control"), summary.prompts[mode]["dice"]) for mode in modes]
    shown = [mode for mode in modes if mode in STYLES or mode == "control_ellipse"]
    columns = [
        (title(mode), STYLES.get(mode, "control"), [result.scores[mode]["dice"] for result in results])
        for mode in shown or modes
    ]
    calibration = {
        mode: plots.calibration_plot(
            f"Predicted and actual IoU, {title(mode)}",
            [result.predicted_iou[mode] for result in results],
            [result.scores[mode]["iou"] for result in results],
            own.bins,
            STYLES[mode],
        )
        for mode, own in summary.reliability.items()
    }
    return {
        "intervals": plots.interval_plot("Mean Dice by prompt", "Dice", rows),
        "distribution": plots.distribution_plot("Distribution of Dice", "Dice", columns),
        "calibration": calibration,
        **(_curve_plots(summary.curves) if summary.curves else {}),
    }


def _curve_plots(curves: CurveSummary) -> dict[str, Any]:
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
    return {"jitter": jitter, "clicks": clicking}
