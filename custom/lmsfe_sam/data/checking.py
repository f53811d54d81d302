"""Check the files of a data set before training."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lmsfe_sam.data.masks.files import is_black, is_inverted, is_outline
from lmsfe_sam.data.masks.reading import record_mask
from lmsfe_sam.errors import InputError
from lmsfe_sam.images.image import SeveralFramesError
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
    drawn = [record for record in records if not record.get("normal")]
    if inverted and 2 * len(inverted) >= len(drawn):
        first = _mask_name(inverted[0])
        raise InputError(
            f"{len(inverted)} of {len(drawn)} masks, such as {first}, cover most of the picture and touch "
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
    try:
        return _check_files(record)
    except SeveralFramesError as error:
        raise InputError(several_slices(error)) from error


def several_slices(error: SeveralFramesError) -> str:
    """Return the sentence for a file of several slices in a data set, where no option chooses one."""
    return f"{error.fact}, and a data set takes files of one: save each slice as a file of its own."


def _check_files(record: Mapping[str, Any]) -> bool:
    height, width = read_image(record["image"], max_pixels=pixel_limit(record)).pixels.shape[:2]
    if record.get("normal"):
        if marked := next((path for path in record["label"] if not is_black(path)), None):
            raise InputError(
                f"'{record['image']}' is listed as normal, and its mask '{marked}' marks something: "
                'leave out "normal", or give an all-black mask or none.'
            )
        return False
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
