"""Masks of records: (H, W) bool, from mask files or drawn outlines; and their resizing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmsfe_sam.data.masks.files import empty_mask, filled, read_label_map
from lmsfe_sam.data.masks.outlines import draw_outline
from lmsfe_sam.errors import InputError
from lmsfe_sam.images.formats import PICTURE_SUFFIXES, known_suffix
from lmsfe_sam.images.image import turn
from lmsfe_sam.images.limits import pixel_limit
from lmsfe_sam.images.pictures import stored_orientation

MASK_KINDS = ("as_drawn", "filled", "inverted")
"""How masks are read: as they are, with what their lines enclose, or with black for lesion."""


class SizeMismatchError(InputError):
    """A mask of another size than its image."""


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
        named = [(str(path), value, mask) for path in paths for value, mask in _labels_of(path, record, size)]
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


def _labels_of(
    path: str | Path, record: Mapping[str, Any], size: tuple[int, int]
) -> list[tuple[int, np.ndarray]]:
    """Return each (label, mask) of a file, read as the record's ``masks`` says and turned as its image."""
    read = read_label_map(path, record.get("frame"), pixel_limit(record))
    kind = record.get("masks") or "as_drawn"
    if read.segments is not None and kind != "inverted":
        found = list(read.segments.within(size).items())
    else:
        labels = match_orientation(read.labels, path, record["image"], size)
        if kind == "inverted":
            labels = (labels == 0).astype(np.int32)
        found = [(int(value), labels == value) for value in np.unique(labels) if value > 0]
    if not found:
        raise empty_mask(str(path))
    return [(label, filled(mask)) for label, mask in found] if kind == "filled" else found


def match_orientation(
    labels: np.ndarray, path: str | Path, image: str | Path, size: tuple[int, int]
) -> np.ndarray:
    """Turn a label map (H, W) as EXIF turned its image, if the map was drawn on the stored pixels.

    Args:
        labels: as the mask's own orientation shows it.
        path: of the mask.
        image: its image's path.
        size: the image's height and width, as it is shown.

    Raises:
        InputError: the image is turned, and nothing tells whether the mask is.
    """
    turned = _orientation(image)
    if turned == 1 or _orientation(path) != 1:
        return labels
    if turned >= 5 and size[0] != size[1]:
        return turn(labels, turned) if labels.shape == size[::-1] else labels
    raise InputError(
        f"'{image}' has the EXIF orientation {turned}, and its mask '{path}' has none, which may be turned "
        "or not: save the image anew, as it is shown and without EXIF."
    )


def _orientation(path: str | Path) -> int:
    file = Path(path)
    is_picture = known_suffix(file) in PICTURE_SUFFIXES and file.is_file()
    return stored_orientation(file) if is_picture else 1


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
