"""The stored values of a DICOM frame: by pydicom with its plugins, and where those fail by GDCM in ITK."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from lmsfe_sam.errors import InputError
from lmsfe_sam.images.limits import (
    MAX_PIXELS,
    check_decompressed_size,
    check_pixel_count,
    check_runs,
    coded_shape,
)

logger = logging.getLogger(__name__)

_ITEM = b"\xfe\xff\x00\xe0"
"""The tag of an item of compressed pixels."""

_UNDEFINED = 0xFFFFFFFF

_DATASET_START = 144
"""Bytes before the elements that the length of the file's meta information counts."""

_ALIKE, _MOST, _FEW = 6, 0.5, 0.1
"""Two samples are grey where they differ by at most the first. A picture is grey in a colour space where more
than the second share of its pixels are, and is not where fewer than the third are."""


def decode_frame(dataset: Any, frame: int, file: Path) -> tuple[np.ndarray, str]:
    """Return the stored values (H, W) or (H, W, samples) of a frame, and their photometric interpretation.

    Raises:
        InputError: nothing that is installed decodes the compression, or the pixels are cut short.
    """
    from pydicom.pixels import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    options = {} if syntax.is_encapsulated else _native_options(dataset, file)
    try:
        pixels, found = get_decoder(syntax).as_array(dataset, index=frame, raw=True, **options)
    except Exception as error:  # each plugin raises whatever it likes
        if not syntax.is_encapsulated:
            raise
        return _decode_by_gdcm(dataset, frame, file, error)
    photometric = str(found["photometric_interpretation"])
    if not syntax.is_encapsulated:
        pixels = _stored_bits(pixels, dataset)
    return pixels, colour_space(pixels, photometric, file)


def check_deflated(file: Path) -> None:
    """Refuse a deflated file that decompresses to more than four bytes a pixel of the limit.

    pydicom inflates the whole file at once.

    Raises:
        InputError: the file decompresses to more.
    """
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    try:
        meta = read_file_meta_info(file)
    except Exception:  # a file without a preamble, which cannot be deflated
        return
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    with file.open("rb") as stream:
        stream.seek(_DATASET_START + int(meta.get("FileMetaInformationGroupLength", 0)))
        check_decompressed_size(stream, 4 * MAX_PIXELS, file)


def check_frame(dataset: Any, frame: int, file: Path, max_pixels: int) -> None:
    """Refuse a compressed frame that states, or decompresses to, more pixels than it may have.

    Where its number of samples is another than the dataset's, the dataset is mended: the frame is right.

    Raises:
        InputError: the frame has too many pixels, or is of another size than the file states.
    """
    from pydicom.encaps import get_frame
    from pydicom.uid import RLELossless

    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated or "PixelData" not in dataset:
        return
    try:
        data = get_frame(dataset.PixelData, frame, number_of_frames=dataset.NumberOfFrames)
    except Exception:  # decoding says what is wrong with it
        return
    if syntax == RLELossless:
        check_runs(data, dataset.Rows * dataset.Columns, file)
    elif (shape := coded_shape(data)) is not None:
        check_pixel_count(file, shape[0] * shape[1], max_pixels)
        _mend_samples(dataset, shape, file)


def _mend_samples(dataset: Any, shape: tuple[int, int, int], file: Path) -> None:
    rows, columns, samples = shape
    if (rows, columns) != (dataset.Rows, dataset.Columns):
        raise InputError(
            f"'{file}' states {dataset.Columns} x {dataset.Rows} pixels, and its compressed pixels are "
            f"{columns} x {rows}: correct Rows and Columns in it, or export it again uncompressed."
        )
    if samples in (1, 3) and samples != dataset.SamplesPerPixel:
        logger.warning(
            "'%s' states %d samples a pixel, and its compressed pixels have %d: read as these.",
            file,
            dataset.SamplesPerPixel,
            samples,
        )
        dataset.SamplesPerPixel, dataset.PlanarConfiguration = samples, 0
        dataset.PhotometricInterpretation = _colours_of(dataset.file_meta.TransferSyntaxUID, samples)


def _colours_of(syntax: Any, samples: int) -> str:
    """Return what samples most often mean in a compression; the decoders look at the code stream, too."""
    from pydicom import uid

    if samples == 1:
        return "MONOCHROME2"
    return "YBR_FULL_422" if syntax in (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit) else "RGB"


def guess_syntax(dataset: Any, stated: str) -> Any:
    """Return the transfer syntax of a dataset: the stated one, unless its pixels contradict it."""
    from pydicom import uid

    syntax = uid.UID(stated)
    known = bool(stated) and syntax.is_transfer_syntax
    plain = uid.ImplicitVRLittleEndian if dataset.original_encoding[0] else uid.ExplicitVRLittleEndian
    if dataset.original_encoding[1] is False:
        plain = uid.ExplicitVRBigEndian
    item = dataset.get_item("PixelData") if "PixelData" in dataset else None
    length = getattr(item, "length", None)
    if item is None or length is None or (known and syntax.is_encapsulated == (length == _UNDEFINED)):
        return syntax if known or stated else plain
    if length != _UNDEFINED:
        start = _bytes_of(dataset)[:4]
        return syntax if known and start == _ITEM else plain
    return _compression(_bytes_of(dataset)) or (syntax if known else plain)


def colour_space(pixels: np.ndarray, stated: str, file: Path) -> str:
    """Return the colour space of samples (H, W, 3): the stated one, unless they are grey in the other.

    Ultrasound is mostly grey: R, G and B are alike, or Cb and Cr are 128.
    """
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8:
        return stated
    values = pixels.astype(np.int16)
    grey_rgb = (np.ptp(values, axis=-1) <= _ALIKE).mean()
    grey_ybr = (np.abs(values[..., 1:] - 128).max(axis=-1) <= _ALIKE).mean()
    is_ybr = stated.startswith("YBR_FULL") or stated.startswith("YBR_PARTIAL")
    if is_ybr and grey_rgb > _MOST and grey_ybr < _FEW:
        actual = "RGB"
    elif stated == "RGB" and grey_ybr > _MOST and grey_rgb < _FEW:
        actual = "YBR_FULL"
    else:
        return stated
    logger.warning("'%s' states the colours %s, and its pixels are %s: read as these.", file, stated, actual)
    return actual


def _native_options(dataset: Any, file: Path) -> dict[str, Any]:
    """Return how uncompressed pixels are to be read where their number contradicts the colours stated."""
    options: dict[str, Any] = {"correct_unused_bits": False}
    pixels = dataset.Rows * dataset.Columns * dataset.NumberOfFrames
    if dataset.SamplesPerPixel != 3 or dataset.BitsAllocated != 8 or "PixelData" not in dataset:
        return options
    length, stated = len(dataset.PixelData), dataset.PhotometricInterpretation
    if stated == "YBR_FULL_422" and length >= 3 * pixels:
        # The same number of bytes as of RGB, which it most often is; `colour_space` looks at the values.
        first = np.frombuffer(dataset.PixelData[: 3 * pixels], np.uint8)
        pixels = first.reshape(3, -1).T if dataset.PlanarConfiguration else first.reshape(-1, 3)
        actual = "YBR_FULL" if _is_greyer_as_ybr(pixels) else "RGB"
        logger.warning("'%s' states YBR_FULL_422 and has three bytes a pixel: read as %s.", file, actual)
        return {**options, "photometric_interpretation": actual}
    if stated != "YBR_FULL_422" and length < 3 * pixels and length in (2 * pixels, 2 * pixels + 1):
        logger.warning("'%s' states %s and has two bytes a pixel: read as YBR_FULL_422.", file, stated)
        return {**options, "photometric_interpretation": "YBR_FULL_422", "planar_configuration": 0}
    return options


def _is_greyer_as_ybr(values: np.ndarray) -> bool:
    signed = values.astype(np.int16)
    return bool(np.abs(signed[:, 1:] - 128).mean() < np.ptp(signed, axis=-1).mean())


def _stored_bits(pixels: np.ndarray, dataset: Any) -> np.ndarray:
    """Take the stored bits out of those allocated; old files keep overlays in the others."""
    allocated, stored, high = dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit
    if stored == allocated or pixels.dtype.kind not in "iu" or allocated == 1:
        return pixels
    left = pixels << (allocated - 1 - high)
    return left >> (allocated - stored)  # numpy's shift to the right keeps the sign


def _decode_by_gdcm(dataset: Any, frame: int, file: Path, reason: Exception) -> tuple[np.ndarray, str]:
    import itk

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        header = itk.GDCMImageIO.New()
        header.SetFileName(str(file))
        header.ReadImageInformation()
        samples = header.GetNumberOfComponents()
        if samples < dataset.SamplesPerPixel:
            raise ValueError("GDCM goes by the number of samples that the file states")
        kind = itk.RGBPixel[itk.UC] if samples == 3 else None
        volume = itk.GetArrayFromImage(itk.imread(str(file), pixel_type=kind, imageio=header))
    except Exception as error:
        lines = str(reason).strip().splitlines()
        why = lines[-1][:120].rstrip(". ") if lines else type(reason).__name__
        name = syntax.name if syntax.is_transfer_syntax else str(syntax)
        raise InputError(
            f"'{file}' is compressed as {name}, which is not decoded here ({why}): "
            "save it uncompressed, for example with dcmconv or gdcmconv --raw."
        ) from error
    volume = volume.reshape(-1, dataset.Rows, dataset.Columns, *([samples] if samples > 1 else []))
    stated = str(dataset.PhotometricInterpretation)
    return volume[frame], "RGB" if samples == 3 else stated


def _bytes_of(dataset: Any) -> bytes:
    value = dataset["PixelData"].value
    return value if isinstance(value, bytes) else b""


def _compression(data: bytes) -> Any:
    """Tell a compression by the first bytes of its first fragment, or return None."""
    from pydicom import uid
    from pydicom.encaps import generate_fragments

    fragments = generate_fragments(data)
    next(fragments, b"")  # the table of offsets
    first = next(fragments, b"")
    if first[:4] == b"\xff\x4f\xff\x51":
        return uid.JPEG2000
    if first[:2] != b"\xff\xd8":
        return None
    markers = {0xC0: uid.JPEGBaseline8Bit, 0xC1: uid.JPEGExtended12Bit, 0xC3: uid.JPEGLosslessSV1}
    markers[0xF7] = uid.JPEGLSLossless
    offset = 2
    while offset + 4 <= len(first) and first[offset] == 0xFF:
        if found := markers.get(first[offset + 1]):
            return found
        offset += 2 + int.from_bytes(first[offset + 2 : offset + 4], "big")
    return None
