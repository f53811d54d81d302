"""Outlines: COCO segmentations, that is polygons or run lengths, drawn as masks (H, W) bool."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lmsfe_sam.data.masks.files import EmptyMaskError
from lmsfe_sam.errors import InputError, short_repr
from lmsfe_sam.images.limits import MAX_PIXELS
from lmsfe_sam.images.reading import read_header


def draw_outline(outline: Any, size: tuple[int, int], name: str) -> np.ndarray:
    """Draw one COCO segmentation, a polygon or run lengths, into a mask of the image's size.

    Raises:
        InputError: it is neither, or nothing of the image is inside.
    """
    try:
        if isinstance(outline, Mapping):
            mask = decode_run_lengths(outline, name)
        else:
            mask = draw_polygon(np.asarray(outline, dtype=float).reshape(-1, 2), size)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"An outline of '{name}' is {short_repr(outline)}: "
            "give [x0, y0, x1, y1, ...] or run lengths of COCO."
        ) from error
    if not mask.any():
        raise EmptyMaskError(f"An outline of '{name}' encloses no pixel of it: draw it anew, or take it out.")
    return mask


def outline_fault(outline: Any, image: Path) -> str:
    """Say what is wrong with an outline [x0, y0, ...] or run lengths on an image, or return "".

    Of an image that cannot be read nothing is said here: it is named when it is read.
    """
    try:
        header = read_header(image)
    except InputError:
        return ""
    size = (header.rows, header.columns)
    if isinstance(outline, dict):
        try:
            mask = decode_run_lengths(outline, image.name)
        except Exception:  # of values of any kind
            return "its run lengths are malformed"
        if mask.shape != size:
            return f"its run lengths are of {mask.shape[1]} x {mask.shape[0]} pixels"
        return "" if mask.any() else "it encloses no pixel"
    if not isinstance(outline, list) or not all(isinstance(value, float) for value in outline):
        return "its coordinates are no numbers"
    if len(outline) % 2 or len(outline) < 6 or not all(math.isfinite(value) for value in outline):
        return f"{len(outline)} coordinates make no polygon"
    corners = np.array(outline).reshape(-1, 2)
    low, high = corners.min(axis=0), corners.max(axis=0)
    if (high <= 0).any() or (low >= size[::-1]).any():
        return "it lies outside of the image"
    x, y = corners.T
    with np.errstate(over="ignore", invalid="ignore"):
        area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    inside = (low >= 0).all() and (high <= size[::-1]).all()
    if inside and area > 2 * (high - low).sum():
        return ""
    return "" if draw_polygon(corners, size).any() else "it encloses no pixel"


def draw_polygon(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Fill a polygon: a pixel belongs to it where the pixel's centre lies inside.

    Args:
        corners: (K, 2), x before y, in pixels, (0, 0) being the image's upper left corner.
        size: height and width.

    Returns:
        (H, W) bool.
    """
    from skimage.draw import polygon

    mask = np.zeros(size, dtype=bool)
    # Pixel (0, 0) has its centre at (0.5, 0.5), and skimage counts from centres.
    mask[polygon(corners[:, 1] - 0.5, corners[:, 0] - 0.5, shape=size)] = True
    return mask


def decode_run_lengths(code: Mapping[str, Any], name: str) -> np.ndarray:
    """Decode COCO run lengths, compressed or not.

    Runs alternate between outside and inside, starting outside, down the columns. The compressed
    form writes each run in groups of 5 bits plus a continuation bit, least significant first, as
    characters from "0" on; from the fourth run on as the difference to the run before the last.
    Source: cocoapi `common/maskApi.c`, rleFrString.

    Args:
        code: {"size": [H, W], "counts": list of int or str}.
        name: the image's name, for the message.

    Returns:
        (H, W) bool.

    Raises:
        InputError: the runs do not add up to H x W pixels.
    """
    height, width = (int(side) for side in code["size"])
    if not 0 < height * width <= MAX_PIXELS:
        raise InputError(f"The run lengths of '{name}' are of {width} x {height} pixels: export them again.")
    counts = code["counts"]
    runs = np.asarray(_decompress(counts) if isinstance(counts, str) else counts, dtype=np.int64)
    if (runs < 0).any() or runs.sum() != height * width:
        raise InputError(
            f"The run lengths of '{name}' cover {runs.sum()} pixels and not {height} x {width}: "
            "export them again."
        )
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape((height, width), order="F")


def _decompress(text: str) -> list[int]:
    runs: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - ord("0")
        value |= (group & 0x1F) << shift
        shift += 5
        if group & 0x20:
            continue
        if group & 0x10:  # the sign bit of the last group
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return runs
