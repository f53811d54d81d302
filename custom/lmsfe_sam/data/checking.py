"""What is wrong with the files of a data set, found before any training; and images without a lesion."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lmsfe_sam.data.layouts.folders import NORMAL, FolderContents, Record
from lmsfe_sam.data.masks.files import is_black, is_inverted, is_outline
from lmsfe_sam.data.masks.reading import record_mask
from lmsfe_sam.errors import InputError
from lmsfe_sam.images.limits import pixel_limit
from lmsfe_sam.images.reading import read_image

logger = logging.getLogger(__name__)


def check_records(records: Sequence[Mapping[str, Any]]) -> None:
    """Read every image and mask once, so that a bad one is named before training starts.

    Phantoms are passed over. The first bad record in the list's order is the one named.

    Raises:
        InputError: a file is missing, truncated or no picture; a mask is all black, no mask, or an outline
            alone; an image and its mask differ in size; or most masks are inverted.
    """
    with ThreadPoolExecutor() as pool:
        inverted = [
            record for record, is_one in zip(records, pool.map(_check_record, records), strict=True) if is_one
        ]
    if inverted and 2 * len(inverted) >= len(records):
        first = _mask_name(inverted[0])
        raise InputError(
            f"{len(inverted)} of {len(records)} masks, such as {first}, cover most of the picture and touch "
            "all its borders: if the lesion is black in them, read them with --masks inverted, else with "
            "--masks as_drawn."
        )
    if inverted:
        logger.warning(
            "%d masks cover most of the picture and touch all its borders, such as %s: look at them.",
            len(inverted),
            _mask_name(inverted[0]),
        )


def _check_record(record: Mapping[str, Any]) -> bool:
    """Read an image and its mask; return whether the mask looks inverted."""
    if "phantom" in record:
        return False
    height, width = read_image(record["image"], max_pixels=pixel_limit(record)).pixels.shape[:2]
    mask = record_mask(record, (height, width))
    if record.get("masks") or record.get("outlines"):
        return False
    if is_outline(mask):
        raise InputError(
            f"The mask {_mask_name(record)} is an outline alone: read the masks with --masks filled, which "
            "fills outlines and leaves others, or with --masks as_drawn if the line itself is meant."
        )
    return is_inverted(mask)


def _mask_name(record: Mapping[str, Any]) -> str:
    label = record["label"]
    return f"'{label if isinstance(label, str | Path) else label[0]}'"


def exclude_normal_images(found: FolderContents, root: Path) -> None:
    """Take out the images whose masks are all black, and count them.

    Raises:
        InputError: every mask is.
    """
    with ThreadPoolExecutor() as pool:
        black = list(pool.map(_is_normal, found.records))
    if not any(black):
        return
    if all(black):
        raise InputError(
            f"every mask in '{root}' is all black: draw the lesions with 255 (or 1), or give other masks."
        )
    normal = {id(record) for record, empty in zip(found.records, black, strict=True) if empty}
    found.records = [record for record in found.records if id(record) not in normal]
    for part, records in (found.parts or {}).items():
        assert found.parts is not None
        found.parts[part] = [record for record in records if id(record) not in normal]
    found.skipped[NORMAL] = found.skipped.get(NORMAL, 0) + len(normal)


def _is_normal(record: Record) -> bool:
    return bool(record["label"]) and all(is_black(path) for path in record["label"])
