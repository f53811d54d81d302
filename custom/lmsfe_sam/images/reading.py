"""One image out of a file of any format.

`open_image` is the one place where a file's size is known before anything is decoded or memory is taken.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from lmsfe_sam.errors import InputError
from lmsfe_sam.files import check_is_file
from lmsfe_sam.images.dicom.reading import open_dicom
from lmsfe_sam.images.formats import (
    META_SUFFIXES,
    NIFTI_SUFFIXES,
    NRRD_SUFFIXES,
    PICTURE_SUFFIXES,
    VIDEO_SUFFIXES,
    is_dicom,
    known_suffix,
    other_content,
)
from lmsfe_sam.images.image import FileImage, Header, ImageFile, choose_frame
from lmsfe_sam.images.limits import MAX_PIXELS, check_pixel_count
from lmsfe_sam.images.pictures import open_picture
from lmsfe_sam.images.volumes import open_metaimage, open_nifti, open_nrrd

logger = logging.getLogger(__name__)


def read_header(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Header:
    """Return what a file says of its pixels; nothing is decoded.

    Raises:
        InputError: see `open_image`.
    """
    return open_image(path, max_pixels).header


def open_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> ImageFile:
    """Read a file's header, and return it with a function that reads a frame.

    Args:
        path: a picture, NIfTI, NRRD, MetaImage or DICOM file.
        max_pixels: that reading a frame may take memory for.

    Raises:
        NoImageError: a DICOM file that is whole and holds no image.
        TooManyPixelsError: it has more pixels, or its compressed pixels state more.
        InputError: a file of no known format, damaged or of more than three dimensions.
    """
    file = Path(path)
    check_is_file(file, f"'{file}'", "a file")
    open_file, form = _opener(file, max_pixels)
    try:
        opened = open_file(file)
        check_pixel_count(file, opened.header.pixels_at_once(), max_pixels)
    except Exception as error:  # the libraries raise whatever they like on a damaged file
        raise _named(error, file, form) from error

    def read(frame: int) -> FileImage:
        try:
            image = opened.read(frame)
        except Exception as error:
            raise _named(error, file, form) from error
        return FileImage(_finite(image.pixels, file), image.affine, image.shape, image.index, image.scale)

    return ImageFile(opened.header, read)


def read_image(
    path: str | os.PathLike[str], slice_index: int | None = None, max_pixels: int = MAX_PIXELS
) -> FileImage:
    """Read the image of a file.

    Args:
        path: a picture, NIfTI, NRRD, MetaImage or DICOM file.
        slice_index: which slice, page or frame of a file that has several, from 0.
        max_pixels: see `open_image`.

    Raises:
        InputError: see `open_image`; or no frame was requested of several, or it has no such frame.
    """
    image = open_image(path, max_pixels)
    return image.read(choose_frame(image.header.frames, slice_index, Path(path)))


def _opener(file: Path, max_pixels: int) -> tuple[Callable[[Path], ImageFile], str]:
    suffix = known_suffix(file)
    if suffix in NIFTI_SUFFIXES:
        return open_nifti, "NIfTI"
    if suffix in NRRD_SUFFIXES:
        return open_nrrd, "NRRD"
    if suffix in META_SUFFIXES:
        return open_metaimage, "MetaImage"
    if suffix in PICTURE_SUFFIXES:
        return partial(open_picture, max_pixels=max_pixels), "a picture"
    if is_dicom(file):
        return partial(open_dicom, max_pixels=max_pixels), "DICOM"
    if file.suffix.lower() in VIDEO_SUFFIXES:
        raise InputError(f"'{file}' is a video: give its frames as pictures, or as DICOM.")
    if not file.exists():
        raise InputError(f"There is no file '{file}': check its name, or take it out of the list.")
    raise InputError(f"'{file}' is of no known format: give a picture, NIfTI, NRRD, MetaImage or DICOM file.")


def _named(error: Exception, file: Path, form: str) -> InputError:
    if isinstance(error, InputError):
        return error
    if isinstance(error, FileNotFoundError):
        return InputError(f"There is no file '{file}': check its name, or take it out of the list.")
    if other := other_content(file, form):
        return InputError(f"'{file}' {other}.")
    reason = (str(error).strip() or type(error).__name__).splitlines()[-1][:160].rstrip(". ")
    return InputError(
        f"'{file}' cannot be read as {form} ({reason}): "
        "copy it again from its source, or take it out of the folder."
    )


def _finite(pixels: np.ndarray, file: Path) -> np.ndarray:
    """Put the lowest value for NaN, as scan conversion leaves around a sector, and the ends for infinity."""
    if pixels.dtype.kind == "c":
        raise InputError(f"'{file}' holds complex numbers: save their absolute values.")
    if pixels.dtype.kind != "f" or (finite := np.isfinite(pixels)).all():
        return pixels
    if not finite.any():
        raise InputError(f"'{file}' holds no number, NaN alone: copy it again from its source.")
    low, high = pixels[finite].min(), pixels[finite].max()
    logger.warning("'%s' holds values that are no numbers: they are taken for %g, the lowest.", file, low)
    return np.nan_to_num(pixels, nan=low, posinf=high, neginf=low)
