"""Which files are images, told by their names, and DICOM files also by their content."""

from __future__ import annotations

import re
from pathlib import Path

from lmsfe_sam.errors import InputError

PICTURE_SUFFIXES = frozenset(
    {
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k", ".bmp", ".dib"),
        *(".tif", ".tiff", ".webp", ".gif", ".pbm", ".pgm", ".ppm", ".pnm"),
    }
)
"""Endings, in lower case, of picture files."""

PAIR_SUFFIX = ".hdr"
"""Of the header of a NIfTI pair, whose voxels are in the ``.img`` beside it."""

NIFTI_SUFFIXES = (".nii", ".nii.gz", PAIR_SUFFIX)
NRRD_SUFFIXES = (".nrrd", ".nhdr")
META_SUFFIXES = (".mha", ".mhd")
ITK_SUFFIXES = (*NRRD_SUFFIXES, *META_SUFFIXES)
DICOM_SUFFIXES = (".dcm", ".dicom", ".dic", ".ima")
INPUT_SUFFIXES = (*sorted(PICTURE_SUFFIXES), *NIFTI_SUFFIXES, *ITK_SUFFIXES, *DICOM_SUFFIXES)

VIDEO_SUFFIXES = (".mp4", ".m4v", ".avi", ".mov", ".mpg", ".mpeg", ".mkv", ".webm", ".wmv")

_PAIR_MAGIC = {344: b"ni1\0", 4: b"ni2\0"}
"""The magic numbers of NIfTI 1 and 2, by their offsets in bytes."""

_MAGIC = {
    b"\xff\xd8\xff": ("a picture", "a JPEG picture", ".jpg"),
    b"\x89png": ("a picture", "a PNG picture", ".png"),
    b"ii*\0": ("a picture", "a TIFF picture", ".tif"),
    b"mm\0*": ("a picture", "a TIFF picture", ".tif"),
    b"gif8": ("a picture", "a GIF picture", ".gif"),
    b"nrrd0": ("NRRD", "a NRRD file", ".nrrd"),
    b"\x1f\x8b": ("NIfTI", "compressed by gzip", ".gz"),
    b"%pdf": ("", "a PDF", ""),
    b"pk\3\4": ("", "a ZIP archive", ""),
    b"version https://git-lfs": ("", "a pointer of Git LFS, not the file itself", ""),
    b"<!doctype html": ("", "a web page", ""),
    b"<html": ("", "a web page", ""),
}
"""What files begin with, in lower case: their format, its name in sentences, and its suffix."""

_PHOTO_BRANDS = {b"heic": "HEIF", b"heix": "HEIF", b"mif1": "HEIF", b"msf1": "HEIF", b"avif": "AVIF"}
"""Brands of ISO media files that are pictures."""

_UNDECODED = re.compile("[\udc80-\udcff]")

_DICOM_PREAMBLE = 128
_DICOM_MAGIC = b"DICM"
_FIRST_GROUPS = (2, 8)
"""Groups of the first element of a DICOM file without a preamble."""


def known_suffix(path: Path) -> str:
    """Return the suffix of ``path`` as `INPUT_SUFFIXES` spells it, or "" if it is none of them."""
    name = path.name.lower()
    return max((suffix for suffix in INPUT_SUFFIXES if name.endswith(suffix)), key=len, default="")


def stem(path: Path) -> str:
    """Return the name of a file without the suffix of an image or a video.

    ``case.nii.gz`` gives ``case``, ``1.2.840`` itself.
    """
    video = path.suffix if path.suffix.lower() in VIDEO_SUFFIXES else ""
    suffix = known_suffix(path) or video
    return path.name[: len(path.name) - len(suffix)] or path.name


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its suffix or, where it has no known one, by its first bytes."""
    suffix = known_suffix(path)
    if suffix:
        return suffix in DICOM_SUFFIXES
    try:
        with path.open("rb") as file:
            return is_dicom_content(file.read(_DICOM_PREAMBLE + len(_DICOM_MAGIC)))
    except OSError:
        return False


def is_dicom_content(start: bytes) -> bool:
    """Whether the first 132 bytes of a file are DICOM's, with or without the preamble."""
    if start[_DICOM_PREAMBLE:] == _DICOM_MAGIC:
        return True
    if len(start) < _DICOM_PREAMBLE:
        return False
    for order in ("little", "big"):
        group, element = (int.from_bytes(start[k : k + 2], order) for k in (0, 2))
        # The first element is a group's length, a UID, a character set or an image type.
        if group in _FIRST_GROUPS and element in (0, 1, 5, 8, 16, 18, 20, 22):
            explicit = start[4:6].isalpha() and start[4:6].isupper()
            length = int.from_bytes(start[4:8], order)
            if explicit or (order == "little" and 0 < length <= 256):
                return True
    return False


def other_content(path: Path, form: str) -> str:
    """Say what a file is that is not of its name's format, as the end of a sentence; "" if nothing says so.

    Args:
        path: the file.
        form: its format by its name: ``a picture``, ``NIfTI``, ``NRRD``, ``MetaImage`` or ``DICOM``.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_DICOM_PREAMBLE + len(_DICOM_MAGIC))
    except OSError:
        return ""
    if not start:
        return "is empty: copy it again from its source"
    unknown = ("DICOM", "a DICOM file", ".dcm") if is_dicom_content(start) else (form, "", "")
    begins = start.lstrip().lower()
    found, what, suffix = next((_MAGIC[magic] for magic in _MAGIC if begins.startswith(magic)), unknown)
    if start[4:8] == b"ftyp" and start[8:12] in _PHOTO_BRANDS:
        found, what = "", f"a picture of the format {_PHOTO_BRANDS[start[8:12]]}"
    if found == form:
        return ""
    remedy = f"rename it to {stem(path)}{suffix}" if suffix else "put an image of a format that is read there"
    return f"is {what}, not what its name says: {remedy}"


def list_images(folder: Path) -> list[Path]:
    """List the image files directly in ``folder``, hidden files left out, sorted by name.

    Raises:
        InputError: the name of one is not UTF-8.
    """
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and is_input(path))
    for path in paths:
        check_name(path)
    return paths


def check_name(path: Path) -> None:
    """Refuse a file whose name is not UTF-8, as those of old archives are: no table can hold it.

    Raises:
        InputError: it is not.
    """
    written = written_name(path)
    if written != path:
        raise InputError(f"'{written}' has a name that is not UTF-8: rename it.")


def written_name(path: Path) -> Path:
    """Return a path as results name it: bytes that are no text become ``\\xe9`` and the like."""
    return Path(_UNDECODED.sub(lambda match: f"\\x{ord(match[0]) - 0xDC00:02x}", str(path)))


def is_input(path: Path) -> bool:
    """Whether a file is an image that is read."""
    if not path.is_file():
        return False
    suffix = known_suffix(path)
    return is_pair_header(path) if suffix == PAIR_SUFFIX else suffix != "" or is_dicom(path)


def is_pair_header(path: Path) -> bool:
    """Whether a file is the header of a NIfTI pair; other formats have headers by that suffix, too."""
    try:
        with path.open("rb") as file:
            start = file.read(max(_PAIR_MAGIC) + 4)
    except OSError:
        return False
    return any(start[offset : offset + 4] == magic for offset, magic in _PAIR_MAGIC.items())
