"""Checks of image files before anything is decoded, and private copies of uploaded ones.

A file of a few megabytes can decompress to gigabytes, and some formats name other files as their data. The
readers behind this look at the same headers; here they are read with the libraries' own parsers where those
do not decode, and strictly where a line of text is all there is.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import re
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import nibabel as nib
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import generate_frames
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from lmsfe_sam.errors import InputError
from lmsfe_sam.images.formats import ITK_SUFFIXES, NIFTI_SUFFIXES, PICTURE_SUFFIXES, is_dicom, known_suffix
from lmsfe_sam.images.limits import check_runs
from lmsfe_sam.images.reading import read_image
from lmsfe_sam.label.checks import TooLargeError, base_name

MAX_PIXELS = 2**27
"""Of an image, or voxels of a volume."""

PICTURES = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
"""Formats of Pillow that are opened; it would run Ghostscript on a PostScript file named ``.png``."""

TILE = (322, 323)
"""TIFF's tags for the width and length of a tile, which is decoded as a whole."""

MAX_PAGES = 10_000
MAX_HEADER = 2**20
"""Bytes of a text header, or before the voxels of a NIfTI file."""

RAW = ".bin"
"""Of labels without a header, as OHIF sends them."""


def check_file(path: str | Path, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse an image file that is too large once decoded, or whose data is in another file.

    Args:
        path: the file; its suffix says what it is.
        max_pixels: pixels of a picture or of a DICOM frame, voxels of a volume.

    Raises:
        InputError: it is one of these, or its header is damaged.
    """
    file = Path(path)
    suffix = known_suffix(file)
    if suffix in (".mhd", ".nhdr"):
        raise _elsewhere(file)
    checks: list[tuple[bool, Any, str]] = [
        (suffix in PICTURE_SUFFIXES, _check_picture, "a picture"),
        (suffix in NIFTI_SUFFIXES, _check_nifti, "NIfTI"),
        (suffix == ".nrrd", _check_nrrd, "NRRD"),
        (suffix in ITK_SUFFIXES, _check_meta_image, "MetaImage"),
        (suffix not in (*PICTURE_SUFFIXES, *NIFTI_SUFFIXES) and is_dicom(file), check_dicom, "DICOM"),
    ]
    check, form = next(((check, form) for found, check, form in checks if found), (None, ""))
    if check is None:
        raise InputError(
            f"'{file}' is of no known format: give a picture, NIfTI, NRRD, MetaImage or DICOM file."
        )
    try:
        check(file, max_pixels)
    except InputError:
        raise
    except Exception as error:  # the libraries raise whatever they like on a damaged file
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1][:100].rstrip(". ")
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "unknown format"
        raise InputError(
            f"'{file}' cannot be read as {form} ({reason}): "
            "copy it again from its source, or take it out of the folder."
        ) from error


def check_pixel_count(file: Path, count: int, max_pixels: int) -> None:
    """Hold a number of pixels against the limit.

    Raises:
        TooLargeError: the number is above the limit.
        InputError: the number is not positive.
    """
    if count <= 0:
        raise InputError(f"'{file}' has no pixels: copy it again from its source.")
    if count > max_pixels:
        raise TooLargeError(
            f"'{file}' has {count} pixels, more than {max_pixels}: make it smaller, or start the "
            "server with a higher --max_pixels."
        )


def _check_picture(file: Path, max_pixels: int) -> None:
    with Image.open(file, formats=PICTURES) as picture:
        check_pixel_count(file, picture.width * picture.height, max_pixels)
        if picture.format != "TIFF":
            return
        pages = getattr(picture, "n_frames", 1)
        if pages > MAX_PAGES:
            raise TooLargeError(f"'{file}' has more than {MAX_PAGES} pages: save fewer of them.")
        for page in range(pages):
            picture.seek(page)
            check_pixel_count(file, picture.width * picture.height, max_pixels)
            tags: Any = getattr(picture, "tag_v2", {})
            check_pixel_count(file, math.prod(max(1, int(tags.get(tag, 1))) for tag in TILE), max_pixels)


def _check_nifti(file: Path, max_pixels: int) -> None:
    opener: Any = gzip.open if file.name.lower().endswith(".gz") else Path.open
    with opener(file, "rb") as stream:
        try:
            block = stream.read(nib.Nifti2Header.sizeof_hdr)
        except (OSError, EOFError, zlib.error) as error:
            raise _damaged(file, "NIfTI", "it is cut short or damaged") from error
    first = {int.from_bytes(block[:4], order) for order in ("little", "big")}
    kind = next((kind for kind in (nib.Nifti1Header, nib.Nifti2Header) if kind.sizeof_hdr in first), None)
    if kind is None or len(block) < kind.sizeof_hdr:
        raise _damaged(file, "NIfTI", "it has no header of NIfTI")
    header = kind.from_fileobj(io.BytesIO(block[: kind.sizeof_hdr]), check=False)
    if bytes(header["magic"])[:3] not in (b"n+1", b"n+2"):
        raise _elsewhere(file)
    if not 0 <= float(header["vox_offset"]) <= MAX_HEADER:
        raise TooLargeError(f"'{file}' has a header of more than {MAX_HEADER} bytes: save it again.")
    shape = [int(size) for size in header.get_data_shape()]
    if not shape or min(shape) < 1:
        raise InputError(f"'{file}' has no pixels: copy it again from its source.")
    check_pixel_count(file, math.prod(shape), max_pixels)


def _check_nrrd(file: Path, max_pixels: int) -> None:
    head = _head(file)
    end = re.search(rb"\r?\n[ \t]*\r?\n", head)
    if not head.startswith(b"NRRD000") or end is None:
        raise _damaged(file, "NRRD", "it has no header of NRRD")
    lines = [line.strip() for line in re.split(r"[\r\n]+", head[: end.start()].decode("latin-1"))]
    if any(re.match(r"data\s*_?file", line, re.IGNORECASE) for line in lines):
        raise _elsewhere(file)
    fields = [line.lower().split(":", 1) for line in lines if re.match(r"[a-z ]+:(?!=)", line.lower())]
    sizes = [value.split() for key, value in fields if key.strip() == "sizes"]
    kinds = [value.split() for key, value in fields if key.strip() == "type"]
    if len(sizes) != 1 or len(kinds) != 1 or "block" in kinds[0]:
        raise _damaged(file, "NRRD", "it does not state its sizes and its type once")
    check_pixel_count(file, _product(file, "NRRD", sizes[0]), max_pixels)


def _check_meta_image(file: Path, max_pixels: int) -> None:
    head = _head(file)
    sizes: list[list[str]] = []
    channels, packed = 1, 0
    for raw in head.split(b"\n"):
        line = raw.decode("latin-1").strip()
        key, value = ([*(part.strip() for part in re.split("[=:]", line, maxsplit=1)), "", ""])[:2]
        key = key.lower()
        if not line.isprintable() or not key:
            break
        if key == "elementdatafile":
            if value.lower() != "local":
                raise _elsewhere(file)
            if len(sizes) != 1:
                break
            check_pixel_count(file, _product(file, "MetaImage", sizes[0]) * channels, max_pixels)
            if packed > file.stat().st_size:
                break
            return
        if "elementdatafile" in line.lower():
            raise _elsewhere(file)
        if key == "dimsize":
            sizes.append(value.split())
        elif key == "elementnumberofchannels":
            channels = _product(file, "MetaImage", [value])
        elif key == "compresseddatasize":
            packed = _product(file, "MetaImage", [value])
    raise _damaged(file, "MetaImage", "its header is damaged")


def _head(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(MAX_HEADER)


def _product(file: Path, form: str, sizes: list[str]) -> int:
    if not sizes or not all(size.isascii() and size.isdigit() and len(size) < 12 for size in sizes):
        raise _damaged(file, form, "its sizes are not numbers")
    return math.prod(int(size) for size in sizes)


def _damaged(file: Path, form: str, reason: str) -> InputError:
    return InputError(
        f"'{file}' cannot be read as {form} ({reason}): "
        "copy it again from its source, or take it out of the folder."
    )


def _elsewhere(file: Path) -> InputError:
    return InputError(
        f"'{file}' names another file as its data: save both in one, such as .nrrd, .mha or .nii."
    )


def check_dicom(file: Path, max_pixels: int) -> None:
    """Refuse a DICOM file with frames of too many pixels, or one whose compression hides how many.

    Args:
        file: the file.
        max_pixels: pixels of a frame.

    Raises:
        InputError: the file is refused.
    """
    syntax = read_file_meta_info(file).get("TransferSyntaxUID", "")
    if syntax == DeflatedExplicitVRLittleEndian:  # pydicom would inflate the whole file at once
        raise InputError(f"'{file}' is deflated DICOM, which is not accepted: save it uncompressed.")
    dataset = dcmread(file, stop_before_pixels=True)
    rows, columns = (int(dataset.get(key) or 0) for key in ("Rows", "Columns"))
    samples, bits = (
        int(dataset.get(key) or low) for key, low in (("SamplesPerPixel", 1), ("BitsAllocated", 8))
    )
    frames = int(dataset.get("NumberOfFrames") or 1)
    if rows * columns <= 0 or samples not in (1, 3, 4) or not 1 <= bits <= 64 or frames < 1:
        raise InputError(f"'{file}' has no pixels that can be shown: copy it again from its source.")
    if rows * columns > max_pixels:
        raise TooLargeError(
            f"'{file}' has {rows * columns} pixels, more than {max_pixels}: make it smaller, or start the "
            "server with a higher --max_pixels."
        )
    if syntax == RLELossless:
        _check_runs(file, frames, rows * columns)


def _check_runs(file: Path, frames: int, pixels: int) -> None:
    for frame in generate_frames(dcmread(file).PixelData, number_of_frames=frames):
        check_runs(frame, pixels, file)


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


def check_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> None:
    """Check an image's header, then read it.

    Raises:
        InputError: it is too large, has its data elsewhere, or cannot be read.
    """
    check_file(path, max_pixels)
    read_image(path, 0, max_pixels)
