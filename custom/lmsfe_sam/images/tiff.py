"""TIFF files that Pillow reads not or in part, by tifffile: deep colours, float64, stacks of ImageJ."""

from __future__ import annotations

import io
import logging
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lmsfe_sam.errors import InputError
from lmsfe_sam.images.image import LPS_TO_RAS, FileImage, Header, ImageFile, turn
from lmsfe_sam.images.limits import decompress_bounded

logger = logging.getLogger(__name__)

SUFFIXES = (".tif", ".tiff")

SUBFILE_TYPE, BITS, PHOTOMETRIC, DESCRIPTION, ORIENTATION, SAMPLE_FORMAT = 254, 258, 262, 270, 274, 339
"""Tags of TIFF."""

TILE = (322, 323)
"""Tags of the width and length of a tile."""

REDUCED, MASK = 1, 4
"""Bits of the subfile type."""

MIN_IS_WHITE = 0
"""A photometric interpretation."""

SIGNED = 2
"""A sample format."""


def is_for_tifffile(file: Path) -> bool:
    """Whether a file is a TIFF that Pillow does not identify, or whose values or frames it reads in part."""
    if file.suffix.lower() not in SUFFIXES or not file.is_file():
        return False
    with file.open("rb") as stream:
        if stream.read(4) not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return False
    try:
        with Image.open(file, formats=("TIFF",)) as picture:
            tags: Any = getattr(picture, "tag_v2", {})
            if len(tags.get(BITS, ())) > 1 and max(tags[BITS]) > 8:
                return True  # Pillow cuts deep colours to 8 bits
            if SIGNED in tags.get(SAMPLE_FORMAT, ()) and max(tags.get(BITS, (1,))) == 8:
                return True  # and takes bytes for positive
            return _stated_images(str(tags.get(DESCRIPTION, ""))) > getattr(picture, "n_frames", 1)
    except Image.UnidentifiedImageError:
        return True
    except Exception:  # a damaged file, which reading names
        return False


def open_tiff(file: Path) -> ImageFile:
    """Read the header of a TIFF file with tifffile.

    Raises:
        InputError: it is damaged, or of a kind that tifffile does not decode either.
    """
    from tifffile import TiffFile

    with TiffFile(file) as pages:
        _check_order(pages, file)
        if not pages.series:
            raise ValueError("it has no page")
        series = pages.series[0]
        shape, axes, bits = series.shape, series.axes, 8 * series.dtype.itemsize
        page: Any = series.keyframe
        min_is_white = int(page.photometric) == MIN_IS_WHITE
        compression = page.compression.name
        others = sum(len(one.pages) for one in pages.series[1:] if not one.keyframe.is_reduced)
        turned = _orientation(page)
    colour = axes.index("S") if "S" in axes else None
    rows, columns = (shape[axes.index(axis)] for axis in "YX")
    shown = (columns, rows) if turned < 5 else (rows, columns)
    samples = 1 if colour is None else shape[colour]
    frames = int(np.prod([size for size, axis in zip(shape, axes) if axis not in "YXS"], dtype=int))
    if samples > 4:
        raise InputError(f"'{file}' has {samples} values a pixel: save it grey or as RGB.")

    if others:
        logger.warning("'%s' has %d page(s) of another size or type, which are left out.", file, others)

    def read(frame: int) -> FileImage:
        try:
            with TiffFile(file) as opened:
                _check_segments(opened.series[0], file)
                volume = opened.series[0].asarray()
        except ValueError as error:
            raise InputError(
                f"'{file}' is a TIFF with the compression {compression}, which is not read with {bits} bits: "
                "save it uncompressed, or with 8 bits."
            ) from error
        order = [index for index, axis in enumerate(axes) if axis not in "YXS"]
        order += [axes.index("Y"), axes.index("X"), *([] if colour is None else [colour])]
        pixels = volume.transpose(order).reshape(frames, rows, columns, *([samples] if samples > 1 else []))
        chosen = turn(pixels[frame], turned)
        spatial = shown if frames == 1 else (*shown, frames)
        return FileImage(negative(chosen) if min_is_white else chosen, LPS_TO_RAS, spatial, frame)

    return ImageFile(Header(frames, shown[1], shown[0], samples, bits, read_together=True), read)


def stored_orientation(file: Path) -> int:
    """Return the orientation, 1 to 8, of a TIFF file that is read with tifffile."""
    from tifffile import TiffFile

    with TiffFile(file) as pages:
        return _orientation(pages.pages.first)


def _orientation(page: Any) -> int:
    tag = page.tags.get(ORIENTATION)
    return int(tag.value) if tag is not None and tag.value in range(1, 9) else 1


def _check_order(opened: Any, file: Path) -> None:
    """Refuse a page that names itself or an earlier one as the next; tifffile would go round for ever.

    Raises:
        InputError: the pages follow each other in a circle.
    """
    tiff, stream = opened.tiff, opened.filehandle
    offset, seen = opened.pages.first.offset, set[int]()
    while 0 < offset < stream.size:
        if offset in seen:
            raise InputError(f"'{file}' has pages that follow each other in a circle: save it again.")
        seen.add(offset)
        try:
            stream.seek(offset)
            tags = struct.unpack(tiff.tagnoformat, stream.read(tiff.tagnosize))[0]
            stream.seek(offset + tiff.tagnosize + tags * tiff.tagsize)
            offset = struct.unpack(tiff.offsetformat, stream.read(tiff.offsetsize))[0]
        except struct.error:  # cut short, which reading names
            return


def _check_segments(series: Any, file: Path) -> None:
    """Refuse deflated strips and tiles that decompress to more than one of them holds: tifffile does not.

    Raises:
        InputError: a strip or tile decompresses to more.
    """
    for page in series.pages:
        if page is None or page.compression.name not in ("ADOBE_DEFLATE", "DEFLATE"):
            continue
        max_bytes = max(int(np.prod(page.chunks)), 1) * series.dtype.itemsize * max(1, page.samplesperpixel)
        with file.open("rb") as stream:
            for offset, length in zip(page.dataoffsets, page.databytecounts, strict=True):
                stream.seek(offset)
                decompress_bounded(io.BytesIO(stream.read(length)), max_bytes, file)


def negative(pixels: np.ndarray) -> np.ndarray:
    """Return pixels whose lowest value is white as others whose highest is.

    That 0 is white says what the ends of the range are, so 16 bits become 8 by their whole range, unless they
    use less than a quarter of it.
    """
    if pixels.dtype.kind == "u":
        highest = int(np.iinfo(pixels.dtype).max)
        turned = highest - pixels
        if pixels.dtype.itemsize == 2 and np.ptp(pixels) > highest // 4:
            return ((turned.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return turned
    return pixels.max(initial=0) + pixels.min(initial=0) - pixels


def _stated_images(description: str) -> int:
    """Return the number of images that ImageJ writes into a file's description, or 0."""
    if not description.startswith("ImageJ="):
        return 0
    for line in description.splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "images" and value.strip().isdigit():
            return int(value)
    return 0
