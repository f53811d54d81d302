"""Uploaded files: a private copy under a harmless name, checked before anybody decodes it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lmsfe_sam.errors import InputError
from lmsfe_sam.inference.formats import known_suffix
from lmsfe_sam.inference.reading import read_image
from lmsfe_sam.label.faults import base_name
from lmsfe_sam.label.headers import MOST_PIXELS, check_file

RAW = ".bin"
"""Of labels without a header, as OHIF sends them."""


@contextmanager
def uploaded(file: IO[bytes], name: str | None) -> Iterator[str]:
    """Yield the path of a copy of an uploaded file, with its name's suffix; rewind the upload.

    The messages of `InputError`s name the file as the client did, not the copy.
    """
    shown_name = base_name(name, "upload.nii.gz")
    handle, path = tempfile.mkstemp(suffix=upload_suffix(name))
    try:
        with os.fdopen(handle, "wb") as copy:
            while chunk := file.read(1 << 20):
                copy.write(chunk)
        file.seek(0)
        yield path
    except InputError as error:
        raise type(error)(str(error).replace(path, shown_name)) from error
    finally:
        Path(path).unlink(missing_ok=True)


def upload_suffix(name: str | None) -> str:
    """Return the suffix for the copy of an upload: one that the readers know, or none."""
    plain = base_name(name, "upload.nii.gz").lower()
    return RAW if plain.endswith(RAW) else known_suffix(Path(plain))


def check_image(path: str | Path, most: int = MOST_PIXELS) -> None:
    """Check an image's header, then read it.

    Raises:
        InputError: it is too large, has its data elsewhere, or cannot be read.
    """
    check_file(path, most)
    read_image(path, 0)
