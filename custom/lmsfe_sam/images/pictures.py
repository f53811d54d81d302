"""Picture files: PNG, JPEG, BMP, TIFF and their kin, whatever their pixels are, the way viewers show them."""

from __future__ import annotations

import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from lmsfe_sam.errors import InputError
from lmsfe_sam.images import tiff
from lmsfe_sam.images.formats import other_content
from lmsfe_sam.images.image import LPS_TO_RAS, FileImage, Header, ImageFile, turn
from lmsfe_sam.images.limits import MAX_PIXELS, TooManyPixelsError, check_pixel_count

FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")
"""Formats of Pillow that are opened; it would run Ghostscript on a PostScript file named ``.png``."""

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the limit is `open_image`'s

ANIMATED = ("PNG", "GIF", "WEBP", "TIFF")
"""Formats whose frames count; the other pictures of an MPO are previews or a second eye's."""

MAX_PAGES = 10_000

_UNCONVERTED_MODES = frozenset({"1", "L", "LA", "RGB", "RGBA", "I", "I;16", "I;16B", "I;16L", "F"})
_BITS = {"1": 1, "I": 32, "F": 32, "I;16": 16, "I;16B": 16, "I;16L": 16}
_READ_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
)


def open_picture(path: str | Path, max_pixels: int = MAX_PIXELS) -> ImageFile:
    """Read the header of a picture file.

    Args:
        path: the file.
        max_pixels: of a page, or of a tile of a TIFF, which is decoded as a whole.

    Raises:
        TooManyPixelsError: the picture has more pixels.
        InputError: there is no such file, or it is no picture.
    """
    file = Path(path)
    _let_pillow_open(max_pixels)
    if tiff.is_for_tifffile(file):
        return tiff.open_tiff(file)
    with _opened(file) as picture:
        columns, rows = picture.size
        if orientation(picture) >= 5 and picture.format != "TIFF":  # Pillow turns TIFF itself
            columns, rows = rows, columns
        pages = _pages(picture)
        for page in pages if picture.format == "TIFF" else ():
            picture.seek(page)
            columns, rows = max(columns, picture.width), max(rows, picture.height)
            tags: Any = getattr(picture, "tag_v2", {})
            check_pixel_count(file, math.prod(max(1, int(tags.get(tag, 1))) for tag in tiff.TILE), max_pixels)
        header = Header(len(pages), rows, columns, len(picture.getbands()), _BITS.get(picture.mode, 8))

    def read(frame: int) -> FileImage:
        pixels = read_frame(file, pages[frame])
        size = (pixels.shape[1], pixels.shape[0])
        shape = size if len(pages) == 1 else (*size, len(pages))
        return FileImage(pixels, LPS_TO_RAS, shape, frame)

    return ImageFile(header, read)


def _let_pillow_open(max_pixels: int) -> None:
    """Raise Pillow's own limit, of twice this number, where it is below ours; it is never lowered."""
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = math.ceil(max_pixels / 2)


def read_frame(path: str | Path, page: int = 0) -> np.ndarray:
    """Read the pixels of a picture file's page, decoded to its last byte.

    Returns:
        (H, W) or (H, W, C) with C = 2 (grey, alpha), 3 or 4. bool for 1-bit files, uint8, uint16,
        int32 or float32 otherwise. Palettes, CMYK and YCbCr become RGB.

    Raises:
        InputError: there is no such file, or it is truncated or no picture.
    """
    with _opened(path) as picture:
        if page:
            picture.seek(page)
        _read_in_full(picture)
        turned = 1 if picture.format == "TIFF" else orientation(picture)
        tags: Any = getattr(picture, "tag_v2", {})
        min_is_white = tags.get(tiff.PHOTOMETRIC) == tiff.MIN_IS_WHITE
        if picture.mode not in _UNCONVERTED_MODES:
            clear = "transparency" in picture.info or picture.mode in ("PA", "La", "RGBa")
            pixels = np.array(picture.convert("RGBA" if clear else "RGB"))
        else:
            pixels = np.array(picture)
            if min_is_white and _BITS.get(picture.mode, 8) > 8:  # below, Pillow has turned them
                pixels = tiff.negative(pixels)
        return turn(pixels, turned)


def read_indices(path: str | Path) -> np.ndarray | None:
    """Read the palette indices (H, W) uint8 of a picture with a palette, turned as it is shown; else None.

    Raises:
        InputError: there is no such file, or it is truncated or no picture.
    """
    if tiff.is_for_tifffile(Path(path)):
        return None
    with _opened(path) as picture:
        if picture.mode != "P":
            return None
        _read_in_full(picture)
        turned = 1 if picture.format == "TIFF" else orientation(picture)
        return turn(np.array(picture), turned)


def brightest_value(path: str | Path) -> float | None:
    """Return the highest value of a grey picture; None of others, and of TIFF, whose 0 may be white.

    Raises:
        InputError: there is no such file, or it is truncated or no picture.
    """
    with _opened(path) as picture:
        if picture.format == "TIFF" or picture.mode not in ("1", "L", "I", "I;16", "F"):
            return None
        extrema: Any = picture.getextrema()
        return float(extrema[1])


def orientation(picture: Image.Image) -> int:
    """Return EXIF's orientation of an open picture, 1 to 8; 1 is as it is stored."""
    if picture.format == "PNG" and "exif" not in picture.info:
        path = getattr(picture, "filename", None)
        if not path or not _has_late_exif(Path(path)):
            return 1  # getexif would decode the picture
    try:
        stated = picture.getexif().get(tiff.ORIENTATION, 1)
    except _READ_ERRORS:
        return 1
    return stated if stated in range(1, 9) else 1


def stored_orientation(path: str | Path) -> int:
    """Return EXIF's orientation of a picture file, 1 to 8.

    Raises:
        InputError: there is no such file, or it is no picture.
    """
    if tiff.is_for_tifffile(Path(path)):
        return tiff.stored_orientation(Path(path))
    with _opened(path) as picture:
        return orientation(picture)


def _read_in_full(picture: Any) -> None:
    """Keep Pillow from mapping a file into memory: of a turned TIFF it would take rows for columns."""
    if picture.format == "TIFF":
        picture.filename = ""


def _has_late_exif(file: Path) -> bool:
    """Whether a PNG has an eXIf chunk; Pillow sees one behind the pixels only when it decodes them."""
    try:
        with file.open("rb") as stream:
            stream.seek(8)
            while len(head := stream.read(8)) == 8:
                if head[4:] == b"eXIf":
                    return True
                stream.seek(int.from_bytes(head[:4], "big") + 4, 1)
    except OSError:
        pass
    return False


def _pages(picture: Image.Image) -> list[int]:
    """Return the indices of a picture's frames.

    Reduced copies and masks in a TIFF are none, nor is what an APNG shows where it cannot be animated.
    """
    count = getattr(picture, "n_frames", 1) if picture.format in ANIMATED else 1
    if count > MAX_PAGES:
        name = getattr(picture, "filename", "")
        raise InputError(f"'{name}' has more than {MAX_PAGES} pages: save fewer of them.")
    if count == 1 or picture.format != "TIFF":
        return list(range(1 if count > 1 and picture.info.get("default_image") else 0, count))
    frames = []
    for index, page in enumerate(ImageSequence.Iterator(picture)):
        tags: Any = getattr(page, "tag_v2", {})
        if not int(tags.get(tiff.SUBFILE_TYPE, 0) or 0) & (tiff.REDUCED | tiff.MASK):
            frames.append(index)
    picture.seek(0)
    return frames or [0]


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path, formats=FORMATS) as picture:
            yield picture
    except FileNotFoundError as error:
        raise InputError(f"There is no file '{path}': check its name, or take it out of the list.") from error
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise TooManyPixelsError(
            f"'{path}' has more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels: "
            "make it smaller, or allow more with --max_pixels."
        ) from error
    except _READ_ERRORS as error:
        if other := other_content(Path(path), "a picture"):
            raise InputError(f"'{path}' {other}.") from error
        raise InputError(
            f"'{path}' cannot be read as a picture ({_reason(error)}): "
            "copy it again from its source, or take it out of the folder."
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "unknown format"
    reason = str(error).strip().splitlines()
    return reason[-1].rstrip(".")[:160] if reason else type(error).__name__
