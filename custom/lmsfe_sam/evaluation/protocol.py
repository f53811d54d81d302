"""The prompts that each image is evaluated with: prompt modes, controls, and the two curves.

`docs/protocol.md` states the same rules in words; `lmsfe_sam.prompts.simulate` says what coordinates mean.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmsfe_sam.errors import InputError
from lmsfe_sam.prompts.simulate import jitter_box, tight_box

MODES = (
    "box",
    "box_jitter_10",
    "box_jitter_20",
    "point",
    "clicks_5",
    "none",
    "control_box",
    "control_ellipse",
    "control_ellipse_jitter_10",
    "control_ellipse_jitter_20",
)
"""Prompt modes; a mode's place in this list is its index in `mode_rng`."""

CONTROLS = tuple(mode for mode in MODES if mode.startswith("control_"))
"""Those of them that are scored without a network."""

ANNOTATED_BOX, ANNOTATED_ELLIPSE = "annotated_box", "control_ellipse_annotated"
ANNOTATED_MODES = (ANNOTATED_BOX, ANNOTATED_ELLIPSE)
"""Modes of the boxes that come with a data set, and not from its masks: nothing in them is random."""

FOREIGN = "predictions"
"""The mode of masks that another program made, beside the controls and the network's modes."""

BOX_MODES = {"box": 0, "box_jitter_10": 10, "box_jitter_20": 20}
"""Modes of one box, and how far, in per cent of its length, each side of it moves at most."""

CONTROL_BOXES = {
    "control_box": "box",
    "control_ellipse": "box",
    "control_ellipse_jitter_10": "box_jitter_10",
    "control_ellipse_jitter_20": "box_jitter_20",
}
"""The mode whose box a control is drawn in."""

CLICK_MODES = {"point": 1, "clicks_5": 5}
"""Modes of clicks, and how many clicks each has. One chain of clicks serves all of them."""

JITTER_PERCENTS = (0, 5, 10, 15, 20, 25, 30)
"""The most that a side of a box on the jitter curve is moved, in per cent of its length."""

CLICK_LIMIT = 10
"""The length of the click curve, and the most clicks that noc@85 and noc@90 count."""

NOC_TARGETS = {"noc@85": 0.85, "noc@90": 0.90}
"""IoU to be reached, as in the literature on interactive segmentation."""

MATCHED_CONTROLS = {
    "box": "control_ellipse",
    "box_jitter_10": "control_ellipse_jitter_10",
    "box_jitter_20": "control_ellipse_jitter_20",
    ANNOTATED_BOX: ANNOTATED_ELLIPSE,
}
"""The control on the same box as a mode of the network."""

Mask = NDArray[np.bool_]
Box = NDArray[np.float64]


def parse_modes(value: str | Iterable[str] | None) -> tuple[str, ...]:
    """Return the prompt modes to run, in the order of `MODES`, then those of `ANNOTATED_MODES`.

    Args:
        value: the config key ``prompt_modes``: None or "all" for every one of `MODES`, names in a list, or
            names in a string with commas between them.

    Raises:
        InputError: a name is unknown, or there is none.
    """
    if value is None or value == "all":
        return MODES
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else list(value)
    known = (*MODES, *ANNOTATED_MODES)
    for name in names:
        if name not in known:
            raise InputError(f"prompt_modes names '{name}': choose from {', '.join(known)}.")
    if not names:
        raise InputError(f"prompt_modes is empty: name one or more of {', '.join(known)}, or say all.")
    return tuple(mode for mode in known if mode in names)


def is_control(mode: str) -> bool:
    """Whether a mode is scored without a network."""
    return mode.startswith("control_")


def network_modes(modes: Iterable[str]) -> tuple[str, ...]:
    """Return those of ``modes`` that need the network."""
    return tuple(mode for mode in modes if not is_control(mode))


def kind_of(mode: str) -> str | None:
    """Return what a mode prompts with, one of `lmsfe_sam.model.network.PROMPT_KINDS`; None for a control."""
    if is_control(mode):
        return None
    if mode in BOX_MODES or mode == ANNOTATED_BOX:
        return "box"
    return "clicks" if mode in CLICK_MODES else "none"


def mode_rng(seed: int, image_name: str, mode: str) -> np.random.Generator:
    """Return the random generator of one image in one prompt mode.

    Args:
        seed: the evaluation's seed, not negative.
        image_name: the image's path relative to the dataset's folder, with forward slashes.
        mode: one of `MODES`; a control with jitter gets the generator of the mode whose box it uses.

    Raises:
        InputError: ``mode`` is unknown.
    """
    return _rng(seed, image_name, MODES.index(_box_mode(mode)))


def mode_box(mode: str, mask: NDArray[Any], seed: int, image_name: str) -> Box | None:
    """Return the box that ``mode`` shows for ``mask (H,W)``, or None for a mode without one.

    Raises:
        InputError: ``mode`` is unknown, or the mask has no non-zero pixel.
    """
    percent = BOX_MODES.get(_box_mode(mode))
    if percent is None:
        return None
    box = tight_box(mask)
    return jitter_box(box, percent / 100, mode_rng(seed, image_name, mode)) if percent else box


def jittered_box(percent: int, mask: NDArray[Any], seed: int, image_name: str) -> Box:
    """Return the box (4,) around ``mask (H,W)`` whose sides are moved by up to ``percent`` of their length.

    Where a prompt mode has that jitter it is the mode's own box, so that the jitter curve passes through
    the modes' scores. The others have random numbers of their own.
    """
    for mode, own_percent in BOX_MODES.items():
        if percent == own_percent:
            box = mode_box(mode, mask, seed, image_name)
            assert box is not None
            return box
    # 100 + percent can be no mode's index.
    return jitter_box(tight_box(mask), percent / 100, _rng(seed, image_name, 100 + percent))


def filled_box(box: ArrayLike, shape: tuple[int, int]) -> Mask:
    """Return the mask ``shape = (H,W)`` of the pixels whose centre lies in ``box (4,)``."""
    x0, y0, x1, y1 = np.asarray(box, dtype=np.float64)
    y, x = _pixel_centres(shape)
    return (x >= x0) & (x < x1) & (y >= y0) & (y < y1)


def inscribed_ellipse(box: ArrayLike, shape: tuple[int, int]) -> Mask:
    """Return the mask ``shape = (H,W)`` of the pixels whose centre lies in the ellipse inscribed in ``box``.

    A box without area has no such pixel.
    """
    x0, y0, x1, y1 = np.asarray(box, dtype=np.float64)
    if not (x1 > x0 and y1 > y0):
        return np.zeros(shape, dtype=bool)
    y, x = _pixel_centres(shape)
    across = (2 * x - x0 - x1) / (x1 - x0)
    down = (2 * y - y0 - y1) / (y1 - y0)
    return across**2 + down**2 <= 1


def control_mask(mode: str, mask: NDArray[Any], seed: int, image_name: str) -> Mask:
    """Return what one of the `CONTROLS` predicts for ``mask (H,W)``: its box filled, or the ellipse in it.

    Raises:
        InputError: ``mode`` is not a control, or the mask has no non-zero pixel.
    """
    if mode not in CONTROLS:
        raise InputError(f"Prompt mode {mode!r} is not a control: choose one of {', '.join(CONTROLS)}.")
    box = mode_box(mode, mask, seed, image_name)
    assert box is not None
    fill = filled_box if mode == "control_box" else inscribed_ellipse
    return fill(box, (mask.shape[0], mask.shape[1]))


def _box_mode(mode: str) -> str:
    """Return the mode whose box and random numbers a mode uses, for most its own."""
    if mode not in MODES:
        raise InputError(f"Prompt mode {mode!r} is unknown: choose from {', '.join(MODES)}.")
    return CONTROL_BOXES.get(mode, mode)


def _rng(seed: int, image_name: str, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(image_name.encode("utf-8")), index])


def _pixel_centres(shape: tuple[int, int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return y (H,1) and x (1,W) of the pixel centres."""
    height, width = shape
    return np.arange(0.5, height)[:, None], np.arange(0.5, width)[None, :]
