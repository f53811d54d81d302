"""Masks: reading the files that hold them, drawing the outlines that stand for them, resizing.

A mask is (H, W) bool here. Files may be 1-bit, {0, 1}, {0, 255} or JPEG; outlines are COCO
segmentations, that is polygons or run lengths.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmsfe_sam.data.pictures import picture_size, read_picture
from lmsfe_sam.errors import InputError

THRESHOLD = 127
"""Pixels of a grey mask above this value are lesion."""

GREY_LOW, GREY_HIGH, GREY_SHARE = 32, 223, 0.01
"""A file is no mask where more than this share of its pixels lies from GREY_LOW to GREY_HIGH."""


def read_mask(path: str | Path) -> np.ndarray:
    """Read a mask file.

    Returns:
        (H, W) bool, with at least one pixel set.

    Raises:
        InputError: the file is unreadable, is no mask (too many grey pixels), or is all black.
    """
    return binarise(read_picture(path), str(path))


def binarise(pixels: np.ndarray, name: str) -> np.ndarray:
    """Turn the pixels of a mask picture into a mask.

    Args:
        pixels: (H, W) or (H, W, C), as `read_picture` gives them. Of colours the brightest channel
            counts, alpha is left out.
        name: the file's name, for the message.

    Returns:
        (H, W) bool, with at least one pixel set.

    Raises:
        InputError: it is no mask, or it is all black.
    """
    grey = _grey_levels(pixels)
    if grey.max(initial=0) <= 1:
        mask = grey > 0.5
    else:
        share = np.count_nonzero((grey >= GREY_LOW) & (grey <= GREY_HIGH)) / grey.size
        if share > GREY_SHARE:
            raise InputError(
                f"'{name}' is no mask: {share:.1%} of its pixels lie between {GREY_LOW} and {GREY_HIGH}, "
                f"and a mask has at most {GREY_SHARE:.0%}; save it with 255 inside the lesion and 0 outside."
            )
        mask = grey > THRESHOLD
    if not mask.any():
        raise InputError(
            f"The mask '{name}' is all black: "
            "draw the lesion with 255 (or 1), or take the image and its mask out."
        )
    return mask


def _grey_levels(pixels: np.ndarray) -> np.ndarray:
    """Bring any picture to one channel on the scale 0..255, or 0..1 where it holds nothing higher."""
    if pixels.ndim == 3:
        colours = pixels[..., :1] if pixels.shape[-1] == 2 else pixels[..., :3]
        pixels = colours.max(axis=-1)
    if pixels.dtype == np.bool_ or pixels.dtype == np.uint8:
        return pixels.astype(np.uint8)
    highest = pixels.max(initial=0)
    return pixels * (255.0 / highest) if highest > 255 else pixels


def union_mask(paths: Sequence[str | Path]) -> np.ndarray:
    """Unite the lesions of several mask files of one image.

    Raises:
        InputError: a file is no mask, or their sizes differ.
    """
    union = read_mask(paths[0])
    for path in paths[1:]:
        mask = read_mask(path)
        if mask.shape != union.shape:
            raise InputError(
                f"Two masks of one image differ in size: '{paths[0]}' is {_size(union.shape)} and "
                f"'{path}' is {_size(mask.shape)}; save both in the image's size."
            )
        union = union | mask
    return union


def record_mask(record: Mapping[str, Any]) -> np.ndarray:
    """Make the mask of a record: the union of its mask files, or of its drawn outlines.

    Args:
        record: with "mask", a path or a list of paths, or with "outlines", a JSON list of COCO
            segmentations, drawn in the size of the file "image".

    Returns:
        (H, W) bool, with at least one pixel set.

    Raises:
        InputError: as `union_mask` and `draw_outlines` do, or the record has neither.
    """
    paths = record.get("mask") or []
    if paths:
        return union_mask([paths] if isinstance(paths, str | Path) else paths)
    if not record.get("outlines"):
        raise InputError(
            f"The image '{record['image']}' has no mask: add one, or take the image out of the list."
        )
    return draw_outlines(record["outlines"], picture_size(record["image"]), str(record["image"]))


def draw_outlines(outlines: str, size: tuple[int, int], name: str) -> np.ndarray:
    """Draw COCO segmentations into one mask.

    Args:
        outlines: JSON list; each entry is a flat polygon [x0, y0, x1, y1, ...] or a dict of run
            lengths {"size": [H, W], "counts": list or compressed string}.
        size: the image's height and width.
        name: the image's name, for the message.

    Returns:
        (H, W) bool, with at least one pixel set.

    Raises:
        InputError: run lengths for another size, or nothing inside the image.
    """
    mask = np.zeros(size, dtype=bool)
    for outline in json.loads(outlines):
        if isinstance(outline, dict):
            lesion = decode_run_lengths(outline, name)
            if lesion.shape != size:
                raise InputError(
                    f"The outline of '{name}' is {_size(lesion.shape)} and the image {_size(size)}: "
                    "make the annotation anew on this image, or take the image out."
                )
            mask |= lesion
        else:
            mask |= draw_polygon(np.asarray(outline, dtype=float).reshape(-1, 2), size)
    if not mask.any():
        raise InputError(
            f"The outline of '{name}' encloses no pixel of it: draw it anew, or take the image out."
        )
    return mask


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


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a mask (H, W) to ``size`` by nearest neighbour, sampled at pixel centres as PIL does."""
    rows = nearest_indices(mask.shape[0], size[0])
    columns = nearest_indices(mask.shape[1], size[1])
    return mask[np.ix_(rows, columns)]


def nearest_indices(source: int, target: int) -> np.ndarray:
    """Return, for each of ``target`` pixels along an axis, the one of ``source`` under its centre.

    That is floor((i + 0.5) * source / target), in whole numbers so that no rounding enters.
    """
    return (2 * np.arange(target) + 1) * source // (2 * target)


def _size(shape: Sequence[int]) -> str:
    """A size as people say it: width x height."""
    return f"{shape[1]} x {shape[0]}"
