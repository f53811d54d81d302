"""The prompts that each image is evaluated with: prompt modes, and the two curves.

The modes' own rules live in `lmsfe_sam.prompts.simulate`; `docs/protocol.md` states all of it in words.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmsfe_sam.errors import InputError
from lmsfe_sam.prompts.simulate import CONTROLS, MODES, jitter_box, mode_box, tight_box

BOX_MODES = {"box": 0, "box_jitter_10": 10, "box_jitter_20": 20}
"""Modes of one box, and how far, in per cent of its length, each side of it moves at most."""

CLICK_MODES = {"point": 1, "clicks_5": 5}
"""Modes of clicks, and how many clicks each has. One chain of clicks serves all of them."""

JITTER_PERCENTS = (0, 5, 10, 15, 20, 25, 30)
"""The same for the boxes of the jitter curve."""

CLICK_LIMIT = 10
"""The length of the click curve, and the most clicks that noc@85 and noc@90 count."""

NOC_TARGETS = {"noc@85": 0.85, "noc@90": 0.90}
"""IoU to be reached, as in the literature on interactive segmentation."""

MATCHED_CONTROLS = {
    "box": "control_ellipse",
    "box_jitter_10": "control_ellipse_jitter_10",
    "box_jitter_20": "control_ellipse_jitter_20",
}
"""The control on the same box as a mode of the network."""


def parse_modes(value: str | Iterable[str] | None) -> tuple[str, ...]:
    """Return the prompt modes to run, in the order of `MODES`.

    Args:
        value: the config key ``prompt_modes``: None or "all" for every mode, names in a list, or names
            in a string with commas between them.

    Raises:
        InputError: a name is unknown, or there is none.
    """
    if value is None or value == "all":
        return MODES
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else list(value)
    for name in names:
        if name not in MODES:
            raise InputError(f"prompt_modes names '{name}': choose from {', '.join(MODES)}.")
    if not names:
        raise InputError(f"prompt_modes is empty: name one or more of {', '.join(MODES)}, or say all.")
    return tuple(mode for mode in MODES if mode in names)


def network_modes(modes: Iterable[str]) -> tuple[str, ...]:
    """Return those of ``modes`` that need the network."""
    return tuple(mode for mode in modes if mode not in CONTROLS)


def kind_of(mode: str) -> str | None:
    """Return what a mode prompts with, one of `lmsfe_sam.model.network.PROMPT_KINDS`; None for a control."""
    if mode in CONTROLS:
        return None
    return "box" if mode in BOX_MODES else "clicks" if mode in CLICK_MODES else "none"


def jittered_box(percent: int, mask: NDArray[Any], seed: int, image_name: str) -> NDArray[np.float64]:
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
    rng = np.random.default_rng([seed, zlib.crc32(image_name.encode("utf-8")), 100 + percent])
    return jitter_box(tight_box(mask), percent / 100, rng)
