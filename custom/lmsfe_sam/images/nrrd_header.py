"""The header of a NRRD file, also where a program wrote a field twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmsfe_sam.errors import InputError, short_repr
from lmsfe_sam.images.limits import MAX_HEADER


def read_nrrd_header(file: Path) -> tuple[Any, int]:
    """Read the header of a NRRD file.

    pynrrd refuses any field that stands there twice. Here one with the same value again is taken once, and of
    a key that a user gave two values (``key:=value``) the second is kept, as Teem does.

    Returns:
        pynrrd's header, and the number of bytes before what follows it.

    Raises:
        InputError: a field has two values, or the pixels are in several files.
    """
    import nrrd

    lines: dict[str, bytes] = {}
    values: dict[str, str] = {}
    with file.open("rb") as stream:
        magic = stream.readline(MAX_HEADER)
        while (line := stream.readline(MAX_HEADER)) and (text := line.decode("ascii", "ignore").rstrip()):
            if text.startswith("#"):
                continue
            field, _, value = text.partition(":")
            is_key = value.startswith("=")
            field = field.strip() if is_key else field.replace(" ", "")  # "data file" is "datafile", too
            if field == "datafile" and value.strip().upper().startswith("LIST"):
                raise InputError(f"'{file}' has its pixels in several files: save it as one .nrrd.")
            if field in values and values[field] != value and not is_key:
                both = " and ".join(short_repr(one.strip()) for one in (values[field], value))
                raise InputError(f"'{file}' states the field '{field}' twice, as {both}: save it again.")
            lines[field], values[field] = line, value
        size = stream.tell()
    return nrrd.read_header([magic, *lines.values()]), size
