"""Names of modes and columns, and numbers, as the report prints them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lmsfe_sam.evaluation.comparison import Difference
from lmsfe_sam.evaluation.metrics import HIGHER_IS_BETTER
from lmsfe_sam.evaluation.protocol import MATCHED_CONTROLS, is_control

TITLES = {
    "box": "tight box",
    "box_jitter_10": "box, jitter 10 %",
    "box_jitter_20": "box, jitter 20 %",
    "point": "one click",
    "clicks_5": "five clicks",
    "none": "no prompt",
    "annotated_box": "annotated box",
    "predictions": "masks of another program",
    "control_box": "control: filled box",
    "control_ellipse": "control: ellipse",
    "control_ellipse_jitter_10": "control: ellipse, jitter 10 %",
    "control_ellipse_jitter_20": "control: ellipse, jitter 20 %",
    "control_ellipse_annotated": "control: ellipse, annotated box",
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
"""Titles of prompt modes and columns."""


def title(name: str) -> str:
    """Return the title of a mode or column; other names are printed with spaces for underscores."""
    return TITLES.get(name, name.replace("_", " "))


def number(value: float, digits: int = 3) -> str:
    """Return a number with a real minus sign; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 3) -> str:
    """Return a number with its sign; a dash for NaN."""
    if math.isnan(value):
        return "–"
    rounded = round(float(value), digits)
    return f"{rounded:+.{digits}f}".replace("-", "−") if rounded else f"{0:.{digits}f}"


def digits_of(column: str) -> int:
    """Return the number of decimals of a column: three for shares, two for distances."""
    return 3 if column in HIGHER_IS_BETTER else 2


def verdict(difference: Difference, column: str) -> str:
    """Return "better" or "worse" where the interval of a difference excludes 0, otherwise an empty string."""
    value = difference.mean
    if not (value.low > 0 or value.high < 0):
        return ""
    is_better = (value.mean > 0) == (column in HIGHER_IS_BETTER)
    return "better" if is_better else "worse"


def control_of(mode: str) -> str | None:
    """Return the control that gets the same box as a mode of the network, or None."""
    return MATCHED_CONTROLS.get(mode)


def with_controls_below(modes: Sequence[str]) -> list[str]:
    """Return the modes of the network, each followed by the controls on its box, then the other modes."""
    ordered: list[str] = []
    for mode in modes:
        if not is_control(mode):
            beside = [control_of(mode), "control_box" if mode == "box" else None]
            ordered += [mode, *(name for name in beside if name in modes and name is not None)]
    return ordered + [mode for mode in modes if mode not in ordered]
