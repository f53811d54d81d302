"""From the stored values of a DICOM frame to what viewers show: palettes, look-up tables, windows, negatives.

pydicom's look-up tables are used where they are right. Its palettes take the bytes of a table for the
machine's own order, and cut the values of deep images to the table's 8 bits; highdicom's refuse what is
malformed.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from lmsfe_sam.errors import InputError
from lmsfe_sam.images.scale import number, numbers, text

logger = logging.getLogger(__name__)

_CHANNELS = ("Red", "Green", "Blue")


def as_shown(pixels: np.ndarray, photometric: str, dataset: Any, file: Path) -> np.ndarray:
    """Return the pixels of a frame as they are shown: (H, W) or (H, W, 3).

    Grey of at most 8 bits and colours come as uint8. Deeper grey is windowed to uint8 where the file states a
    window, and else keeps its type; 1-bit frames are bool.

    Raises:
        InputError: a colour space that is not read, or a palette without its tables.
    """
    if pixels.ndim == 3:
        return _colours(pixels, photometric, dataset, file)
    if photometric == "PALETTE COLOR":
        return _palette(pixels, dataset, file)
    if dataset.BitsAllocated == 1:
        return (pixels == 0) if photometric == "MONOCHROME1" else (pixels != 0)
    inverted = photometric == "MONOCHROME1" or text(dataset, "PresentationLUTShape") == "INVERSE"
    if pixels.dtype.kind == "u" and dataset.BitsStored <= 8:
        grey = pixels.astype(np.uint8)
        return np.uint8(2**dataset.BitsStored - 1) - grey if inverted else grey
    values = _without_padding(_modality(pixels, dataset, file), pixels, dataset)
    shown = _windowed(values, dataset, file)
    if shown is not None:
        return 255 - shown if inverted else shown
    if not inverted:
        return values
    if values.dtype.kind == "u":
        return (2**dataset.BitsStored - 1 - values.astype(np.int64)).clip(0).astype(values.dtype)
    return values.max() + values.min() - values


def _colours(pixels: np.ndarray, photometric: str, dataset: Any, file: Path) -> np.ndarray:
    from pydicom.pixels import convert_color_space

    if pixels.dtype != np.uint8:
        pixels = (pixels.astype(np.int64) >> max(0, dataset.BitsStored - 8)).clip(0, 255).astype(np.uint8)
    if photometric.startswith(("YBR_FULL", "YBR_PARTIAL")):
        return convert_color_space(pixels, "YBR_FULL", "RGB")
    if photometric in ("RGB", "YBR_RCT", "YBR_ICT"):  # JPEG 2000 has undone its own transforms
        return pixels
    raise InputError(f"'{file}' has the colours {photometric}, which are not read: save it as RGB.")


def _palette(pixels: np.ndarray, dataset: Any, file: Path) -> np.ndarray:
    tables = [_table(dataset, f"{name}PaletteColorLookupTable") for name in _CHANNELS]
    if any(table is None for table in tables):
        from pydicom.pixels import apply_color_lut

        if "SegmentedRedPaletteColorLookupTableData" not in dataset:
            raise InputError(f"'{file}' has a palette without its tables: save it as RGB.")
        colours = apply_color_lut(pixels, dataset)[..., :3]
        return colours if colours.dtype == np.uint8 else (colours >> 8).astype(np.uint8)
    lookup = np.stack([values for values, _ in tables if values is not None], axis=-1)
    first = tables[0][1]
    # Entries of 16 bits hold 8 in their upper half, or, against the standard, in their lower one.
    if lookup.dtype.itemsize > 1:
        lookup = lookup >> 8 if lookup.max(initial=0) > 255 else lookup
    indices = (pixels.astype(np.int64) - first).clip(0, len(lookup) - 1)
    return lookup.astype(np.uint8)[indices]


def _table(dataset: Any, name: str) -> Any:
    """Return the entries of a palette's channel and the first value that is mapped, or None."""
    descriptor = numbers(dataset, f"{name}Descriptor")
    data = dataset.get(f"{name}Data")
    if len(descriptor) != 3 or not data:
        return None
    count, first, bits = (int(value) for value in descriptor)
    count = count or 2**16
    if dataset.PixelRepresentation == 1 and first > 2**15:
        first -= 2**16
    if isinstance(data, bytes):
        words = np.frombuffer(data[: len(data) // 2 * 2], "<u2" if _is_little(dataset) else ">u2")
        packed = bits <= 8 and len(data) in (count, count + 1)
        values = np.frombuffer(words.astype("<u2").tobytes(), np.uint8) if packed else words.astype(np.uint16)
    else:
        values = np.asarray(data, np.uint16)
    return (values[:count], first) if len(values) else None


def _is_little(dataset: Any) -> bool:
    syntax = dataset.file_meta.TransferSyntaxUID
    return bool(syntax.is_little_endian)


def _modality(pixels: np.ndarray, dataset: Any, file: Path) -> np.ndarray:
    """Apply the modality's look-up table or, where it is not linear by 1 and 0, its slope and intercept."""
    from pydicom.pixels import apply_modality_lut

    if "ModalityLUTSequence" in dataset:
        try:
            return np.asarray(apply_modality_lut(pixels, dataset))
        except Exception as error:
            logger.warning("'%s': its modality look-up table is malformed, and left out: %s.", file, error)
            return pixels
    slope, intercept = number(dataset, "RescaleSlope"), number(dataset, "RescaleIntercept")
    if not slope or (slope == 1 and not intercept):
        return pixels
    return pixels * slope + (intercept or 0.0)


def _without_padding(values: np.ndarray, pixels: np.ndarray, dataset: Any) -> np.ndarray:
    """Put the lowest value of the image where nothing was scanned, lest the padding stretch its range."""
    low = number(dataset, "PixelPaddingValue")
    if low is None:
        return values
    high = number(dataset, "PixelPaddingRangeLimit")
    low, high = sorted((low, low if high is None else high))
    padding = (pixels >= low) & (pixels <= high)
    if not padding.any() or padding.all():
        return values
    return np.where(padding, values[~padding].min(), values)


def _windowed(values: np.ndarray, dataset: Any, file: Path) -> np.ndarray | None:
    """Apply the file's first look-up table or window; None where it has none that shows anything."""
    shown = _by_table(values, dataset, file)
    if shown is None:
        shown = _by_window(values, dataset, file)
    if shown is not None and shown.min() == shown.max() and values.min() != values.max():
        logger.warning("'%s' has a window that shows nothing: it is left out.", file)
        return None
    return shown


def _by_table(values: np.ndarray, dataset: Any, file: Path) -> np.ndarray | None:
    from pydicom.pixels import apply_voi

    if "VOILUTSequence" not in dataset or values.dtype.kind not in "iuf":
        return None
    try:
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        integers = np.rint(values).astype(np.int64)
        shown = apply_voi(integers, dataset).astype(np.float64)
        return np.rint(shown * 255 / (2**bits - 1)).clip(0, 255).astype(np.uint8)
    except Exception as error:
        logger.warning("'%s': its look-up table is malformed, and left out: %s.", file, error)
        return None


def _by_window(values: np.ndarray, dataset: Any, file: Path) -> np.ndarray | None:
    """Apply the first window by PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    if not text(dataset, "WindowWidth"):
        return None
    centre, width = number(dataset, "WindowCenter"), number(dataset, "WindowWidth")
    function = text(dataset, "VOILUTFunction") or "LINEAR"
    if centre is None or width is None or width <= 0:
        logger.warning("'%s' has a window that is none: it is left out.", file)
        return None
    real = values.astype(np.float64)
    if function == "SIGMOID":
        share = 1 / (1 + np.exp(-4 * (real - centre) / width))
    elif function == "LINEAR_EXACT" or width <= 1:
        share = (real - centre) / width + 0.5
    else:
        share = (real - (centre - 0.5)) / (width - 1) + 0.5
    return np.rint(share.clip(0, 1) * 255).astype(np.uint8)
