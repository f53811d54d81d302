"""Prompts made from a true mask: its tight or jittered box, and clicks.

Everything here is numpy on one mask; `docs/protocol.md` states the same rules in words. Pixel
coordinates are x to the right and y down; a box is ``x0, y0, x1, y1`` with x1 and y1 exclusive; a click
is the index of a pixel, whose centre lies half a pixel further.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmsfe_sam.errors import InputError

Mask = NDArray[np.bool_]
Box = NDArray[np.float64]
Click = tuple[int, int]


def tight_box(mask: NDArray[Any]) -> Box:
    """Return the smallest box around the non-zero pixels of ``mask (H,W)``.

    Raises:
        InputError: the mask has no non-zero pixel.
    """
    mask = _checked(mask)
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)


def jitter_box(box: ArrayLike, fraction: float, rng: np.random.Generator) -> Box:
    """Move each side of ``box (4,)`` by a uniform -fraction..fraction of its length along that axis.

    The result is not clipped to the image. ``rng`` is drawn from once, for x0, y0, x1, y1 in a row.
    """
    x0, y0, x1, y1 = np.asarray(box, dtype=np.float64)
    width, height = x1 - x0, y1 - y0
    moves = rng.uniform(-fraction, fraction, size=4)
    return np.array([x0, y0, x1, y1]) + moves * np.array([width, height, width, height])


def first_click(mask: NDArray[Any]) -> Click:
    """Return ``(x, y)`` of the pixel of ``mask (H,W)`` that lies farthest from its border.

    That is the maximum of the Euclidean distance transform with zeros outside the image; of several
    such pixels the first in row-major order.

    Raises:
        InputError: the mask has no non-zero pixel.
    """
    from scipy.ndimage import distance_transform_edt

    mask = _checked(mask)
    x0, y0, x1, y1 = tight_box(mask).astype(int)
    # The background pixel nearest to any mask pixel lies at most one pixel outside the tight box, so
    # its neighbourhood gives the same distances as the whole image, in a fraction of the time.
    depth = distance_transform_edt(np.pad(mask[y0:y1, x0:x1], 1))[1:-1, 1:-1]
    y, x = np.unravel_index(np.argmax(depth), depth.shape)
    return int(x0 + x), int(y0 + y)


def random_click(mask: NDArray[Any], rng: np.random.Generator) -> Click:
    """Return ``(x, y)`` of a non-zero pixel of ``mask (H,W)``, all equally likely.

    Raises:
        InputError: the mask has no non-zero pixel.
    """
    inside = np.flatnonzero(_checked(mask))
    y, x = divmod(int(inside[rng.integers(len(inside))]), mask.shape[1])
    return x, y


def largest_error(mask: NDArray[Any], prediction: NDArray[Any]) -> tuple[Mask, int] | None:
    """Return the largest wrong region of ``prediction (H,W)`` and the label of a click there.

    A region is 8-connected and of one kind, missed (label 1) or too much (label 0). Of equally large
    ones a missed region comes first, then the first in row-major order. None where nothing is wrong.
    """
    from scipy.ndimage import label

    mask, prediction = np.asarray(mask, dtype=bool), np.asarray(prediction, dtype=bool)
    best: tuple[Mask, int] | None = None
    largest = 0
    for kind, wrong in ((1, mask & ~prediction), (0, prediction & ~mask)):
        if np.count_nonzero(wrong) <= largest:
            continue
        x0, y0, x1, y1 = tight_box(wrong).astype(int)
        regions, _ = label(wrong[y0:y1, x0:x1], structure=np.ones((3, 3)))
        sizes = np.bincount(regions.ravel())
        sizes[0] = 0
        number = int(np.argmax(sizes))
        if sizes[number] > largest:
            largest = int(sizes[number])
            region = np.zeros_like(mask)
            region[y0:y1, x0:x1] = regions == number
            best = region, kind
    return best


def corrective_click(mask: NDArray[Any], prediction: NDArray[Any]) -> tuple[Click, int] | None:
    """Return the click ``((x, y), label)`` that corrects ``prediction (H,W)`` most.

    It lies in the largest wrong region (`largest_error`), placed there as `first_click` places the
    first one; its label is 1 where the mask was missed and 0 where the prediction is too much. None
    where prediction and mask agree.
    """
    error = largest_error(mask, prediction)
    if error is None:
        return None
    region, kind = error
    return first_click(region), kind


def _checked(mask: NDArray[Any]) -> Mask:
    mask = np.asarray(mask, dtype=bool)
    if mask.ndim != 2:
        raise InputError(
            f"A mask of shape {mask.shape} cannot be prompted: give one of shape (height, width)."
        )
    if not mask.any():
        raise InputError("An empty mask has no box and no click: leave it out or prompt it with nothing.")
    return mask
