"""Entries of a MONAI ``datalist.json``, read as records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmsfe_sam.data.layouts.folders import Record
from lmsfe_sam.errors import InputError, short_repr


def read_entry(entry: Any, folders: Sequence[Path], source: Path) -> Record:
    """Return the record of one entry, its paths absolute.

    Args:
        entry: of one of the file's sections.
        folders: that its paths may be relative to, in this order.
        source: the file, for the messages.

    Raises:
        InputError: it is no entry, or a file is not there.
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
        raise InputError(
            f"'{source}' has the entry {short_repr(entry)}: every entry needs an \"image\", a path."
        )
    label = entry.get("label", entry.get("mask")) or []
    masks = [label] if isinstance(label, str) else list(label)
    if not masks and not entry.get("outlines"):
        raise InputError(f"'{source}' lists the image '{entry['image']}' without a label: add its mask.")
    name = str(entry.get("name") or Path(entry["image"]).as_posix())
    record: Record = {
        "image": str(_locate(entry["image"], folders, source)),
        "label": [str(_locate(mask, folders, source)) for mask in masks],
        "name": name,
        "group": str(entry.get("group") or name),
        "subgroup": {str(key): str(value) for key, value in (entry.get("subgroup") or {}).items()},
    }
    if entry.get("outlines"):
        record["outlines"] = str(entry["outlines"])
    if entry.get("spacing"):
        record["spacing"] = _read_spacing(entry["spacing"], name, source)
    return record


def _read_spacing(spacing: Any, name: str, source: Path) -> list[float]:
    """Read the height and width of a pixel in mm, which the evaluation gives distances in mm by."""
    try:
        down, across = (float(length) for length in spacing)
        if min(down, across) <= 0:
            raise ValueError
    except (TypeError, ValueError) as error:
        raise InputError(
            f"'{source}' gives '{name}' the spacing {short_repr(spacing)}: "
            "write a pixel's height and width in mm, such as [0.1, 0.1]."
        ) from error
    return [down, across]


def _locate(name: str, folders: Sequence[Path], source: Path) -> Path:
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise InputError(
        f"'{source}' lists '{name}', which is not in {' or '.join(str(folder) for folder in folders)}: "
        "put the list into the data set's folder."
    )
