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

from lmsfe_sam.data.pictures import read_picture
from lmsfe_sam.errors import InputError

THRESHOLD = 127
"""Pixels of a grey mask above this value are lesion."""

GREY_LOW, GREY_HIGH, GREY_SHARE = 32, 223, 0.01
"""A file is no mask where more than this share of its pixels lies from GREY_LOW to GREY_HIGH."""


class EmptyMaskError(InputError):
    """A mask without a lesion."""


class SizeMismatchError(InputError):
    """A mask of another size than its image."""


def read_mask(path: str | Path) -> np.ndarray:
    """Read a mask file.

    Returns:
        (H, W) bool, with at least one pixel set.

    Raises:
        InputError: the file is unreadable, is no mask (too many grey pixels), or is all black.
    """
    return binarise(read_picture(path), str(path))


def read_labels(path: str | Path) -> list[tuple[int, np.ndarray]]:
    """Read each label of a mask file: each value of a label map, else 1 for all that the mask marks.

    A label map has whole numbers below `GREY_LOW`, with at least one above 1.

    Returns:
        At least one (label, mask), in the order of the labels; (H, W) bool, with at least one pixel set.

    Raises:
        InputError: as `read_mask`.
    """
    pixels = read_picture(path)
    grey = _grey_levels(pixels)
    if not (np.issubdtype(grey.dtype, np.integer) and 1 < grey.max(initial=0) < GREY_LOW):
        return [(1, binarise(pixels, str(path)))]
    return [(int(value), grey == value) for value in np.unique(grey) if value > 0]


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
    if grey.max(initial=0) < GREY_LOW:  # 0 and 1, or the values of a label map
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
        raise EmptyMaskError(
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


def record_mask(record: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Make the mask of a record: the union of all that its masks mark.

    Args:
        record: as `record_labels` takes it.
        size: the image's height and width.

    Returns:
        (H, W) bool, with at least one pixel set.

    Raises:
        InputError: as `record_labels`.
    """
    return np.logical_or.reduce([mask for _, mask in record_labels(record, size)])


def record_labels(record: Mapping[str, Any], size: tuple[int, int]) -> list[tuple[int, np.ndarray]]:
    """Make one mask for each label of a record: for each mask file, outline, or value of a label map.

    Args:
        record: with "label", a path or a list of paths, or with "outlines", a JSON list whose
            entries are COCO segmentations: a flat polygon [x0, y0, x1, y1, ...] or run lengths
            {"size": [H, W], "counts": list or compressed string}.
        size: the image's height and width.

    Returns:
        At least one (label, mask): the value in the only file, if that is a label map, else a number from 1
        up; (H, W) bool with at least one pixel set.

    Raises:
        InputError: a file is no mask or all black, an outline encloses nothing, a size is not the
            image's, or the record has no mask at all.
    """
    if record.get("label"):
        paths = [record["label"]] if isinstance(record["label"], str | Path) else record["label"]
        named = [(str(path), value, mask) for path in paths for value, mask in read_labels(path)]
        if len(paths) > 1:
            named = [(name, number, mask) for number, (name, _, mask) in enumerate(named, start=1)]
    elif record.get("outlines"):
        named = [
            (
                f"outline {number} of {record['image']}",
                number,
                draw_outline(outline, size, str(record["image"])),
            )
            for number, outline in enumerate(json.loads(record["outlines"]), start=1)
        ]
    else:
        raise InputError(f"The image '{record['image']}' has no mask: add its mask, or take the image out.")
    for name, _, mask in named:
        if mask.shape != size:
            raise SizeMismatchError(
                f"'{record['image']}' is {_text(size)} pixels and its mask '{name}' {_text(mask.shape)}: "
                "save both in one size, or take the image out."
            )
    return [(label, mask) for _, label, mask in named]


def draw_outline(outline: Any, size: tuple[int, int], name: str) -> np.ndarray:
    """Draw one COCO segmentation, a polygon or run lengths, into a mask of the image's size.

    Raises:
        InputError: bad run lengths, or nothing of the image inside.
    """
    if isinstance(outline, Mapping):
        mask = decode_run_lengths(outline, name)
    else:
        mask = draw_polygon(np.asarray(outline, dtype=float).reshape(-1, 2), size)
    if not mask.any():
        raise EmptyMaskError(f"An outline of '{name}' encloses no pixel of it: draw it anew, or take it out.")
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
    # torch's mode "nearest-exact" is the same rule, rounded: from 960 to 224 pixels it picks 2 wrong ones.
    return (2 * np.arange(target) + 1) * source // (2 * target)


def _text(shape: Sequence[int]) -> str:
    """A size as people say it: width x height."""
    return f"{shape[1]} x {shape[0]}"
