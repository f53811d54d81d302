"""Entries of a MONAI ``datalist.json``, read as records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from lmsfe_sam.data.layouts.folders import Record
from lmsfe_sam.errors import InputError, short_repr

Side = Annotated[float, Field(allow_inf_nan=False)]
Box = tuple[Side, Side, Side, Side]
"""x0, y0, x1, y1 in pixels of the image."""


class Entry(BaseModel):
    """One image of a list; whatever else an entry holds is left alone."""

    image: str
    label: str | list[str] | None = None
    mask: str | list[str] | None = None
    outlines: str | None = None
    name: str | int | None = None
    group: str | int | None = None
    subgroup: dict[str, Any] | None = None
    masks: Literal["as_drawn", "filled", "inverted"] | None = None
    boxes: list[Box] | None = None
    normal: bool | None = None


class Head(BaseModel):
    """What a list states about itself."""

    name: str | int | None = None
    grouping: str | None = None
    root: str | None = None
    seed: int | None = None
    training: list[Any] | None = Field(default_factory=list)
    validation: list[Any] | None = Field(default_factory=list)
    test: list[Any] | None = Field(default_factory=list)


def read_head(content: Any, source: Path) -> Head:
    """Return the head of a list, and the entries of its sections.

    Raises:
        InputError: an invalid value.
    """
    try:
        return Head.model_validate(content)
    except ValidationError as error:
        raise _malformed(error, f"'{source}'") from error


def read_entry(entry: Any, folders: Sequence[Path], source: Path) -> Record:
    """Return the record of one entry, its paths absolute.

    Args:
        entry: of one of the file's sections.
        folders: that its paths may be relative to, in this order.
        source: the file, for the messages.

    Raises:
        InputError: the entry is invalid, or a file does not exist.
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
        raise InputError(
            f"'{source}' has the entry {short_repr(entry)}: every entry needs an \"image\", a path."
        )
    try:
        read = Entry.model_validate(entry)
    except ValidationError as error:
        raise _malformed(error, f"'{source}', image '{entry['image']}'") from error
    label = read.label or read.mask or []
    masks = [label] if isinstance(label, str) else label
    if not masks and not read.outlines and not read.normal:
        raise InputError(f"'{source}' lists the image '{read.image}' without a label: add its mask.")
    name = str(read.name or Path(read.image).as_posix())
    record: Record = {
        "image": str(_locate(read.image, folders, source)),
        "label": [str(_locate(mask, folders, source)) for mask in masks],
        "name": name,
        "group": str(read.group or name),
        "subgroup": {key: str(value) for key, value in (read.subgroup or {}).items()},
    }
    if read.outlines:
        _check_outlines(read.outlines, name, source)
        record["outlines"] = read.outlines
    if read.masks:
        record["masks"] = read.masks
    if read.normal:
        record["normal"] = True
    if read.boxes is not None:
        record["boxes"] = [_checked_box(box, name, source) for box in read.boxes]
    if entry.get("spacing"):
        record["spacing"] = _read_spacing(entry["spacing"], name, source)
    return record


def _malformed(error: ValidationError, where: str) -> InputError:
    first = error.errors()[0]
    return InputError(f"{where} has {first['loc'][0]} {short_repr(first['input'])}: {first['msg']}.")


def _check_outlines(text: str, name: str, source: Path) -> None:
    try:
        is_list = isinstance(json.loads(text), list)
    except (ValueError, RecursionError):
        is_list = False
    if not is_list:
        raise InputError(
            f"'{source}' gives '{name}' the outlines {short_repr(text)}: "
            "write a JSON list of polygons as text."
        )


def _checked_box(box: Box, name: str, source: Path) -> list[float]:
    if box[0] >= box[2] or box[1] >= box[3]:
        raise InputError(
            f"'{source}' gives '{name}' the box {list(box)}, which has no area: write [x0, y0, x1, y1] with "
            "x0 < x1 and y0 < y1."
        )
    return list(box)


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
