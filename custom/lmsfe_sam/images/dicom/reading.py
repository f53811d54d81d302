"""DICOM files: what they hold, their frames and geometry. Malformed optional attributes are unknown."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.uid import MPEGTransferSyntaxes

from lmsfe_sam.errors import InputError
from lmsfe_sam.images.dicom.decoding import check_deflated, check_frame, decode_frame, guess_syntax
from lmsfe_sam.images.dicom.display import as_shown
from lmsfe_sam.images.formats import is_dicom_content
from lmsfe_sam.images.image import LPS_TO_RAS, FileImage, Header, ImageFile, NoImageError
from lmsfe_sam.images.limits import MAX_PIXELS, check_pixel_count
from lmsfe_sam.images.scale import Scale, dicom_scale, is_known, number, numbers, text
from lmsfe_sam.images.video import open_stream

logger = logging.getLogger(__name__)

# Of values that pydicom takes for odd; what matters of them is said with the file's name. By module and once:
# files are read on several threads, where warnings.catch_warnings is not safe.
warnings.filterwarnings("ignore", module=r"pydicom\.")

DEFERRED = 2**16
"""Bytes from which on an element is read when it is asked for, the pixels among them."""

PIXEL_KEYS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

_NO_IMAGES = {
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.481.2": "a radiotherapy dose",
}
"""Classes of objects that have pixels and are no images."""

_COLOURS = ("RGB", "YBR", "ARGB", "CMYK", "HSV")


def open_dicom(file: Path, segmentations: bool = False, max_pixels: int = MAX_PIXELS) -> ImageFile:
    """Read the header of a DICOM file, with or without the preamble.

    Args:
        file: the file.
        segmentations: take DICOM SEG for an image, too.
        max_pixels: that a frame's compressed pixels may state or decompress to.

    Raises:
        NoImageError: it is whole and holds no image.
        InputError: it has no pixels of a size.
    """
    dataset = _read(file)
    _check_class(dataset, file, segmentations)
    _mend(dataset, file)
    header = Header(
        int(dataset.NumberOfFrames),
        int(dataset.Rows),
        int(dataset.Columns),
        int(dataset.SamplesPerPixel),
        int(dataset.BitsAllocated),
    )

    film = None
    if dataset.file_meta.TransferSyntaxUID in MPEGTransferSyntaxes:
        film = open_stream(b"".join(_fragments(dataset)), file, max_pixels)
        header = film.header

    @functools.cache
    def frame_scale(frame: int) -> tuple[Any, Scale]:
        attributes = flattened(dataset, frame)
        return attributes, dicom_scale(attributes, str(file))

    def read(frame: int) -> FileImage:
        attributes, scale = frame_scale(frame)
        if film is not None:
            shown = film.read(frame)
            return FileImage(shown.pixels, _affine(attributes, scale), shown.shape, frame, scale)
        check_frame(dataset, frame, file, max_pixels)
        pixels, photometric = decode_frame(dataset, frame, file)
        pixels = as_shown(pixels, photometric, attributes, file)
        size = (header.columns, header.rows, header.frames)
        return FileImage(pixels, _affine(attributes, scale), size, frame, scale)

    return ImageFile(header, read)


def read_segmentation(file: Path) -> np.ndarray | None:
    """Return the segment numbers (H, W) int32 of a DICOM SEG of one slice, later segments on top; else None.

    Raises:
        InputError: it is damaged, or its segments lie on several slices.
    """
    from lmsfe_sam.errors import find_input_error

    try:
        dataset = _read(file)
    except Exception as error:
        raise find_input_error(error) or InputError(
            f"'{file}' cannot be read as DICOM: copy it again from its source."
        ) from error
    if not text(dataset, "SOPClassUID").startswith("1.2.840.10008.5.1.4.1.1.66."):
        return None
    image = open_dicom(file, segmentations=True)
    check_pixel_count(file, image.header.pixels_at_once(), MAX_PIXELS)
    labels = np.zeros((image.header.rows, image.header.columns), np.int32)
    seen: set[int] = set()
    for frame in range(image.header.frames):
        values = image.read(frame).pixels
        if text(dataset, "SegmentationType") == "LABELMAP":
            labels = values.astype(np.int32)
            segment = 0
        else:
            segment = int(number(flattened(dataset, frame), "ReferencedSegmentNumber") or 1)
            labels[values > (0 if values.dtype == np.bool_ else values.max() / 2)] = segment
        if segment in seen:
            raise InputError(f"'{file}' has segments on several slices: save one slice of it.")
        seen.add(segment)
    return labels


def flattened(dataset: Any, frame: int) -> Any:
    """Return a copy of a dataset's attributes with those of a frame's functional groups at the top."""
    from pydicom.dataset import Dataset

    flat = Dataset()
    flat.update({tag: dataset.get_item(tag) for tag in dataset.keys() if tag.group != 0x7FE0})  # noqa: SIM118
    flat.file_meta = dataset.file_meta
    implicit, little = dataset.original_encoding
    flat.set_original_encoding(implicit, little, dataset.original_character_set)
    for key, index in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", frame)):
        try:
            groups = dataset.get(key) or []
            group = groups[index] if index < len(groups) else []
            for element in group:
                if element.VR == "SQ" and len(element.value) == 1:
                    flat.update({item.tag: item for item in element.value[0]})
        except Exception as error:
            logger.warning("a functional group of frame %d is malformed, and left out: %s", frame, error)
    return flat


def _read(file: Path) -> Any:
    from pydicom import dcmread
    from pydicom.dataset import FileMetaDataset

    with file.open("rb") as stream:
        if not is_dicom_content(stream.read(132)):
            raise ValueError("it has no header of DICOM")
    check_deflated(file)
    dataset = dcmread(file, force=True, defer_size=DEFERRED)
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = FileMetaDataset()
    stated = text(dataset.file_meta, "TransferSyntaxUID")
    syntax = guess_syntax(dataset, stated)
    if syntax != stated:
        dataset.file_meta.TransferSyntaxUID = syntax
        if stated:
            logger.warning("'%s' states another compression than it has: read as %s.", file, syntax.name)
    return dataset


def _fragments(dataset: Any) -> Iterator[bytes]:
    """Yield the fragments of compressed pixels; those of a video are pieces of one stream."""
    from pydicom.encaps import generate_fragments

    fragments = generate_fragments(dataset.PixelData)
    next(fragments, b"")  # the table of offsets
    yield from fragments


def _check_class(dataset: Any, file: Path, segmentations: bool) -> None:
    from pydicom.uid import UID

    known = UID(text(dataset, "SOPClassUID") or text(dataset.file_meta, "MediaStorageSOPClassUID"))
    kind = _NO_IMAGES.get(known)
    if kind == "a segmentation" and segmentations:
        return
    if kind is None and not any(key in dataset for key in PIXEL_KEYS):
        if not len(dataset):
            raise ValueError("it ends within its header")
        if {"Rows", "Columns"} <= set(dataset.dir()):
            raise InputError(f"'{file}' ends before its pixels: copy it again from its source.")
        name = known.name if known and known.name != known else "DICOM"
        kind = f"{name} without pixels" if name == "DICOM" else f"a DICOM object of the kind {name}"
    if kind:
        raise NoImageError(f"'{file}' holds no image, but {kind}: it is left out.")


def _mend(dataset: Any, file: Path) -> None:
    """Put what the pixels need, where it is missing or malformed, by what the rest says."""
    rows, columns = (int(number(dataset, key) or 0) for key in ("Rows", "Columns"))
    if rows < 1 or columns < 1:
        raise InputError(f"'{file}' does not state the size of its image: copy it again from its source.")
    photometric = text(dataset, "PhotometricInterpretation").upper()
    stated = int(number(dataset, "SamplesPerPixel") or 0)
    samples = stated or 1
    if photometric:
        samples = (stated or 3) if photometric.startswith(_COLOURS) else 1
        samples = 3 if photometric.startswith(_COLOURS[:2]) else samples
    item = next(dataset.get_item(key) for key in PIXEL_KEYS if key in dataset)
    length = getattr(item, "length", None)
    length = len(item.value) if length is None else length
    native = not dataset.file_meta.TransferSyntaxUID.is_encapsulated
    allocated = int(number(dataset, "BitsAllocated") or 0)
    if allocated not in (1, 8, 16, 32, 64):
        allocated = 16 if native and length >= 2 * rows * columns * samples else 8
    if native and stated in (1, 3) and stated != samples:
        there = length * 8 // (rows * columns * allocated)
        if there == stated * max(1, int(number(dataset, "NumberOfFrames") or 1)):
            logger.warning("'%s' states %s, and has %d sample(s) a pixel.", file, photometric, stated)
            samples, photometric = stated, ""
    if samples not in (1, 3):
        raise InputError(f"'{file}' has {samples} samples a pixel: save it grey or as RGB.")
    values = rows * columns * samples
    stored = int(number(dataset, "BitsStored") or 0)
    stored = stored if 1 <= stored <= allocated else allocated
    high = number(dataset, "HighBit")
    frames = _frames(dataset, file, divmod(length * 8, values * allocated) if native else (0, 0))
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = rows, columns, samples
    dataset.PhotometricInterpretation = photometric or ("MONOCHROME2" if samples == 1 else "RGB")
    dataset.BitsAllocated, dataset.BitsStored = allocated, stored
    dataset.HighBit = int(high) if high is not None and stored - 1 <= high < allocated else stored - 1
    dataset.PixelRepresentation = 1 if number(dataset, "PixelRepresentation") == 1 else 0
    dataset.NumberOfFrames = frames
    if samples > 1:
        dataset.PlanarConfiguration = 1 if number(dataset, "PlanarConfiguration") == 1 else 0


def _frames(dataset: Any, file: Path, there: tuple[int, int]) -> int:
    """Return the number of frames: as stated, but not more than uncompressed pixels are there for.

    Args:
        dataset: whose number may be missing or malformed.
        file: for warnings.
        there: how many frames uncompressed pixels are there for, and how many bits are left over.
    """
    stated = int(number(dataset, "NumberOfFrames") or 0)
    count, left = there
    subsampled = "YBR_FULL_422" in text(dataset, "PhotometricInterpretation")
    if stated < 1:
        if count > 1 and left <= 8 and not subsampled:  # a byte of padding may follow
            logger.warning("'%s' does not state its number of frames: %d are there.", file, count)
            return count
        return 1
    if 1 <= count < stated and not subsampled:
        logger.warning("'%s' states %d frames, of which %d are there.", file, stated, count)
        return count
    return stated


def _affine(dataset: Any, scale: Scale) -> np.ndarray:
    rows, columns = scale.spacing if is_known(scale.spacing) else (1.0, 1.0)
    along_row, along_column = np.eye(3)[0], np.eye(3)[1]
    lps = np.eye(4)
    directions = numbers(dataset, "ImageOrientationPatient")
    position = numbers(dataset, "ImagePositionPatient")
    if len(directions) == 6 and len(position) == 3:
        stated = np.array(directions).reshape(2, 3)
        if np.linalg.norm(np.cross(*stated)) > 0.5:
            along_row, along_column = stated
            lps[:3, 3] = position
    lps[:3, 0], lps[:3, 1] = along_row * columns, along_column * rows
    lps[:3, 2] = np.cross(along_row, along_column)
    return LPS_TO_RAS @ lps
