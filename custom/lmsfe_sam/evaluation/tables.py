"""The report's tables as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from lmsfe_sam.evaluation.comparison import Difference
from lmsfe_sam.evaluation.metrics import COLUMNS, HIGHER_IS_BETTER
from lmsfe_sam.evaluation.protocol import MATCHED_CONTROLS
from lmsfe_sam.evaluation.statistics import Estimate
from lmsfe_sam.evaluation.summary import SubgroupRow, Summary
from lmsfe_sam.prompts.simulate import CONTROLS

TITLES = {
    "box": "tight box",
    "box_jitter_10": "box, jitter 10 %",
    "box_jitter_20": "box, jitter 20 %",
    "point": "one click",
    "clicks_5": "five clicks",
    "none": "no prompt",
    "control_box": "control: filled box",
    "control_ellipse": "control: ellipse",
    "control_ellipse_jitter_10": "control: ellipse, jitter 10 %",
    "control_ellipse_jitter_20": "control: ellipse, jitter 20 %",
    "dice": "Dice",
    "iou": "IoU",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "accuracy": "Accuracy",
    "hd": "HD (px)",
    "hd95": "HD95 (px)",
    "assd": "ASSD (px)",
    "hd_mm": "HD (mm)",
    "birads": "BI-RADS",
}
"""What prompt modes and columns are called in the report."""

GAIN_COLUMNS = ("dice", "iou", "hd", "hd95", "assd")


def title(name: str) -> str:
    """Return what a mode or column is called; other names stay as they are, escaped."""
    return TITLES.get(name, escape(name.replace("_", " ")))


def figure(value: float, digits: int = 3) -> str:
    """Return a number for a table; a dash for NaN."""
    return "–" if np.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 3) -> str:
    """Return a number with its sign, a real minus included."""
    if np.isnan(value):
        return "–"
    rounded = round(float(value), digits)
    return f"{rounded:+.{digits}f}".replace("-", "−") if rounded else f"{0:.{digits}f}"


def mode_table(summary: Summary) -> str:
    """Return means and intervals of every mode, each control below the modes that share its box."""
    columns = [
        name for name in COLUMNS if any(not np.isnan(own[name].mean) for own in summary.prompts.values())
    ]
    rows = []
    for mode in with_controls_below(list(summary.prompts)):
        cells = "".join(_estimate(summary.prompts[mode][name], _digits(name)) for name in columns)
        kind = ' class="control"' if mode in CONTROLS else ""
        rows.append(f"<tr{kind}><td>{title(mode)}</td>{cells}</tr>")
    return _table(["Prompt", *(title(name) for name in columns)], rows)


def gain_table(differences: Mapping[str, Mapping[str, Difference]]) -> str:
    """Return differences with intervals, and wins and losses, by mode."""
    rows = []
    for mode, columns in differences.items():
        cells = "".join(_difference(columns[name], name) for name in GAIN_COLUMNS)
        dice = columns["dice"]
        counts = f"<td>{dice.wins} : {dice.losses}<small>{dice.ties} alike</small></td>"
        rows.append(f"<tr><td>{title(mode)}</td>{cells}{counts}</tr>")
    return _table(["Prompt", *(title(name) for name in GAIN_COLUMNS), "Wins : losses (Dice)"], rows)


def subgroup_tables(rows: Sequence[SubgroupRow]) -> str:
    """Return, for each kind of subgroup, a table of mean Dice by value and mode."""
    parts = []
    for subgroup in dict.fromkeys(row.subgroup for row in rows):
        own = [row for row in rows if row.subgroup == subgroup]
        modes = list(dict.fromkeys(row.prompt for row in own))
        shown = [mode for mode in modes if mode not in CONTROLS or mode == "control_ellipse"]
        lines = []
        for value in dict.fromkeys(row.value for row in own):
            by_mode = {row.prompt: row for row in own if row.value == value}
            cells = "".join(_estimate(by_mode[mode].estimates["dice"], 3) for mode in shown)
            count = next(iter(by_mode.values())).n_images
            lines.append(f"<tr><td>{escape(value)}</td><td>{count}</td>{cells}</tr>")
        name = title(subgroup)
        name = name[:1].upper() + name[1:]
        parts.append(f"<h3>{name}</h3>{_table([name, 'Images', *(title(mode) for mode in shown)], lines)}")
    return "".join(parts)


def facts(summary: Summary) -> str:
    """Return what was evaluated and how, as a list of facts."""
    info = summary.info
    size = info.metric_size
    compared = (
        "at each image's own size"
        if size == "native"
        else f"after squashing image and mask to {size} x {size} pixels (no letterbox, nearest for masks)"
    )
    network = ", ".join(f"{key} {value}" for key, value in info.network.items())
    entries = {
        "Dataset": escape(
            f"{info.dataset}, {info.split}: {summary.n_images} images, {summary.n_groups} groups"
        ),
        "Checkpoint": f"<code>{escape(info.checkpoint or 'none: controls only')}</code>",
        "SHA-256": f"<code>{info.checkpoint_sha256 or '–'}</code>",
        "Network": escape(network) or "–",
        "Masks": f"compared {compared}; the object is the union of an image's lesions",
        "Intervals": f"95 %, percentile bootstrap over groups, {info.bootstrap} draws, seed {info.seed}",
        "Distances": "Euclidean, between border pixels (a mask minus its 4-neighbour erosion); HD95 is the "
        "larger of the two directed 95th percentiles, ASSD the mean over both borders",
        "Random boxes": "numpy.random.default_rng([seed, crc32(image), mode index]), not clipped",
        "Software": f"lmsfe_sam {info.version}; docs/protocol.md states the whole protocol",
    }
    return (
        '<div class="panel"><dl class="facts">'
        + "".join(f"<dt>{key}</dt><dd>{value}</dd>" for key, value in entries.items())
        + "</dl></div>"
    )


def with_controls_below(modes: Sequence[str]) -> list[str]:
    """Return the modes of the network, each followed by the controls on its box, then what is left."""
    ordered: list[str] = []
    for mode in modes:
        if mode not in CONTROLS:
            beside = [MATCHED_CONTROLS.get(mode), "control_box" if mode == "box" else None]
            ordered += [mode, *(name for name in beside if name in modes and name is not None)]
    return ordered + [mode for mode in modes if mode not in ordered]


def _digits(column: str) -> int:
    return 3 if column in HIGHER_IS_BETTER else 2


def _estimate(value: Estimate, digits: int) -> str:
    if np.isnan(value.mean):
        return "<td>–</td>"
    interval = f"{figure(value.low, digits)} to {figure(value.high, digits)}"
    return f"<td>{figure(value.mean, digits)}<small>{interval}</small></td>"


def _difference(difference: Difference, column: str) -> str:
    digits, value = _digits(column), difference.mean
    if np.isnan(value.mean):
        return "<td>–</td>"
    sign = 1 if column in HIGHER_IS_BETTER else -1
    certain = value.low > 0 or value.high < 0
    kind = ("better" if sign * value.mean > 0 else "worse") if certain else ""
    return (
        f'<td><span class="{kind}">{signed(value.mean, digits)}</span>'
        f"<small>{signed(value.low, digits)} to {signed(value.high, digits)}</small></td>"
    )


def _table(head: Sequence[str], rows: Sequence[str]) -> str:
    cells = "".join(f"<th>{name}</th>" for name in head)
    table = f"<table><thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="panel">{table}</div>'
