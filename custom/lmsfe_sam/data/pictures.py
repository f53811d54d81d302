"""Reading picture files: PNG, JPEG, BMP, TIFF and their kin, whatever their pixels are."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from lmsfe_sam.errors import InputError

PICTURE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".ppm"}
)
"""Endings, in lower case, of the files that count as pictures in a data folder."""

_KEPT_MODES = frozenset({"1", "L", "LA", "RGB", "RGBA", "I", "I;16", "I;16B", "I;16L", "F"})
_READ_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def read_picture(path: str | Path) -> np.ndarray:
    """Read the pixels of a picture file, decoded to its last byte.

    Args:
        path: the file; of several frames the first is taken.

    Returns:
        (H, W) or (H, W, C) with C = 2 (grey, alpha), 3 or 4. bool for 1-bit files, uint8, uint16,
        int32 or float32 otherwise. Palettes, CMYK and YCbCr become RGB.

    Raises:
        InputError: there is no such file, or it is truncated or no picture.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode not in _KEPT_MODES:
                return np.array(picture.convert("RGB"))
            return np.array(picture)
    except FileNotFoundError as error:
        raise InputError(f"There is no file '{path}': check its name, or take it out of the list.") from error
    except _READ_ERRORS as error:
        raise InputError(
            f"'{path}' cannot be read as a picture ({_reason(error)}): "
            "copy it again from its source, or take it out of the folder."
        ) from error


def picture_size(path: str | Path) -> tuple[int, int]:
    """Read (height, width) from a picture's header, without decoding it.

    Raises:
        InputError: there is no such file, or it is no picture.
    """
    try:
        with Image.open(path) as picture:
            return picture.height, picture.width
    except FileNotFoundError as error:
        raise InputError(f"There is no file '{path}': check its name, or take it out of the list.") from error
    except _READ_ERRORS as error:
        raise InputError(
            f"'{path}' cannot be read as a picture ({_reason(error)}): "
            "copy it again from its source, or take it out of the folder."
        ) from error


def list_pictures(folder: Path) -> list[Path]:
    """List the pictures directly in ``folder``, hidden files left out, sorted by name."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "unknown format"
    return str(error).strip().rstrip(".") or type(error).__name__
