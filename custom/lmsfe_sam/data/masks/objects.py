"""The objects of an image's masks: their union, each label, or each connected part.

A record's ``objects`` says which:

- ``union``: everything that its masks mark is one object;
- ``labels``: each mask file, outline, or value of a label map is an object;
- ``parts``: each connected part (8 neighbours) of each of these is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from monai.data.box_utils import box_iou
from monai.transforms import generate_spatial_bounding_box
from numpy.typing import NDArray

from lmsfe_sam.data.masks.reading import record_labels, record_mask
from lmsfe_sam.errors import InputError
from lmsfe_sam.images.limits import pixel_limit
from lmsfe_sam.images.reading import read_header

SMALLEST_PART = 1e-4
"""A part below this share of the image's area is a speck and no object: 7 pixels of 256 x 256."""


class LabelledObject(NamedTuple):
    """One object of an image."""

    mask: NDArray[np.bool_]
    """(H, W), with at least one pixel set."""
    label: int
    """Its value in the label map, or the number of its mask file or outline, from 1."""
    largest: bool
    """Whether no other object of this label is larger."""


def record_objects(record: Mapping[str, Any], size: tuple[int, int]) -> list[LabelledObject]:
    """Return the objects of a record, at least one, by its key ``objects`` (default ``union``).

    Args:
        record: as `lmsfe_sam.data.masks.reading.record_mask` takes it.
        size: the image's height and width.

    Raises:
        InputError: a bad mask, or an unknown rule.
    """
    rule = record.get("objects", "union")
    if rule == "union":
        return [LabelledObject(record_mask(record, size), 1, True)]
    if rule not in ("labels", "parts"):
        raise InputError(f"objects is {rule!r}: give one of union, parts, labels.")
    objects = []
    for label, mask in record_labels(record, size):
        parts = connected_parts(mask) if rule == "parts" else [mask]
        objects += [LabelledObject(part, label, index == 0) for index, part in enumerate(parts)]
    return objects


def connected_parts(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Return the connected parts (8 neighbours) of a mask, the largest first, specks left out.

    Args:
        mask: (H, W), with at least one pixel set.

    Returns:
        At least one (H, W) bool, each of at least `SMALLEST_PART` of the area, or the largest alone.
    """
    from skimage.measure import label  # heavy, and of no use to a program that only predicts

    numbered = label(mask, connectivity=2)
    areas = np.bincount(numbered.ravel())[1:]
    order = np.argsort(-areas, kind="stable")
    large = [index for index in order if areas[index] >= SMALLEST_PART * mask.size]
    return [numbered == index + 1 for index in large or order[:1]]


def object_map(objects: Sequence[LabelledObject], name: str) -> NDArray[np.uint8]:
    """Return the label map (H, W) of several objects: k in the k-th; where they overlap, the smaller one's.

    Raises:
        InputError: more than 255 objects; the message has the image's ``name``.
    """
    if len(objects) > 255:
        raise InputError(
            f"'{name}' has {len(objects)} objects, and at most 255 can be told apart: unite some."
        )
    areas = [one.mask.sum() for one in objects]
    labels = np.zeros(objects[0].mask.shape, np.uint8)
    for index in np.argsort(-np.array(areas), kind="stable"):
        labels[objects[index].mask] = index + 1
    return labels


def separate_objects(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one record for each object of each of ``records``.

    A record of the rule ``union`` stays as it is. Another's objects get its name and ``#1``, ``#2``, ...,
    ``object`` with the same number, and the subgroups ``label`` and ``part`` (``largest`` of the label, or
    ``other``).

    Raises:
        InputError: an unreadable image or a bad mask.
    """
    with ThreadPoolExecutor() as pool:
        return [one for several in pool.map(_separated, records) for one in several]


def _separated(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    if record.get("objects", "union") == "union" or "phantom" in record:
        return [dict(record)]
    header = read_header(record["image"], pixel_limit(record))
    objects = record_objects(record, (header.rows, header.columns))
    boxes = record.get("boxes")
    return [
        {
            **record,
            **({} if boxes is None else {"boxes": matching_box(one.mask, boxes)}),
            "object": number,
            "name": f"{record['name']}#{number}",
            "subgroup": {
                **record.get("subgroup", {}),
                "label": str(one.label),
                "part": "largest" if one.largest else "other",
            },
        }
        for number, one in enumerate(objects, start=1)
    ]


def matching_box(mask: NDArray[np.bool_], boxes: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    """Return that of ``boxes`` (x0, y0, x1, y1) which overlaps the tight box of a mask (H, W) most, by IoU.

    Returns:
        A list of one, or of none where no box overlaps it.
    """
    if not boxes:
        return []
    (y0, x0), (y1, x1) = generate_spatial_bounding_box(mask[None])
    overlaps = box_iou(np.array([[x0, y0, x1, y1]], float), np.array(boxes, float))[0]
    best = int(np.argmax(overlaps))
    return [boxes[best]] if overlaps[best] > 0 else []
