"""How large a pixel is, and where that is from: the one place that decides it.

A scale that is zero, negative where it may not be, not a number or not stated is unknown. Calibrated regions
of ultrasound come first, as the pixel spacing beside them is often a placeholder; each object has the scale
of the region that holds it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

REGION, PIXEL_SPACING, HEADER = "region", "pixel_spacing", "header"
"""Sources: an ultrasound region, DICOM's pixel spacing, a header of NIfTI, NRRD or MetaImage; "" is none."""

UNKNOWN = (math.nan, math.nan)

_CENTIMETRES = 3
"""DICOM's code for a physical unit of cm in an ultrasound region."""

_TISSUE = 1
"""DICOM's code for a region of two spatial dimensions."""

_MIN_SHARE = 0.5
"""An object lies in a region if more than this share of its pixels do."""


def no_regions() -> np.ndarray:
    """Return an array of no ultrasound regions, (0, 6)."""
    return np.empty((0, 6))


@dataclass(frozen=True)
class Scale:
    """How large a pixel of an image is.

    Attributes:
        spacing: of rows and columns in mm, of the whole image; NaN where unknown or where regions differ.
        source: where ``spacing`` is from, or "".
        regions: of ultrasound, (N, 6): x0, y0, x1, y1 in pixels (x1, y1 exclusive), then the spacing of rows
            and columns in mm, NaN where the region has none.
        outside: the spacing of what lies in no region, in mm, NaN where unknown.
    """

    spacing: tuple[float, float] = UNKNOWN
    source: str = ""
    regions: np.ndarray = field(default_factory=no_regions)
    outside: tuple[float, float] = UNKNOWN

    def of_object(self, rows: np.ndarray, columns: np.ndarray) -> tuple[tuple[float, float], str]:
        """Return the spacing of an object, in mm, and its source.

        Of several regions that hold the object, the smallest counts: an inset lies on the larger image.

        Args:
            rows: (K,) of the object's pixels.
            columns: (K,), of the same pixels.
        """
        if not len(self.regions) or not len(rows):
            return self.spacing, self.source
        sizes = (self.regions[:, 2] - self.regions[:, 0]) * (self.regions[:, 3] - self.regions[:, 1])
        for region in self.regions[np.argsort(sizes, kind="stable")]:
            x0, y0, x1, y1 = region[:4]
            inside = (columns >= x0) & (columns < x1) & (rows >= y0) & (rows < y1)
            if inside.mean() > _MIN_SHARE:
                spacing = (float(region[4]), float(region[5]))
                return (spacing, REGION) if is_known(spacing) else (UNKNOWN, "")
        return (self.outside, PIXEL_SPACING) if is_known(self.outside) else (UNKNOWN, "")


UNKNOWN_SCALE = Scale()


def is_known(spacing: Sequence[float]) -> bool:
    """Whether both lengths are finite and above zero."""
    return all(math.isfinite(step) and step > 0 for step in spacing)


def header_scale(spacing: Sequence[float], name: str) -> Scale:
    """Return the scale of a header that states a spacing of rows and columns in mm, which may be none."""
    if is_known(spacing):
        return Scale((float(spacing[0]), float(spacing[1])), HEADER)
    logger.warning("'%s' states the spacing %s, which is none: its scale is unknown.", name, list(spacing))
    return UNKNOWN_SCALE


def dicom_scale(dataset: Any, name: str) -> Scale:
    """Return the scale of a DICOM image.

    Args:
        dataset: with the attributes of its frame's functional groups at the top.
        name: of the file, for warnings.
    """
    pixel_spacing = _pixel_spacing(dataset, name)
    regions = [_region(item, dataset) for item in _sequence(dataset, "SequenceOfUltrasoundRegions")]
    rows = np.array(regions, dtype=float).reshape(-1, 6)
    known = {(row, column) for *_, row, column in regions if is_known((row, column))}
    if not known:
        # Without any calibration the regions say nothing of the scale of tissue; a region of
        # velocities or of time has no scale all the same.
        timed = [region for region, item in _with_items(regions, dataset) if _is_spectral(item)]
        rows = np.array(timed, dtype=float).reshape(-1, 6)
    if len(known) == 1:
        return Scale(known.pop(), REGION, rows, pixel_spacing)
    if known:
        return Scale(UNKNOWN, "", rows, pixel_spacing)
    return Scale(pixel_spacing, PIXEL_SPACING if is_known(pixel_spacing) else "", rows, pixel_spacing)


def _with_items(regions: Sequence[Any], dataset: Any) -> Iterable[tuple[Any, Any]]:
    return zip(regions, _sequence(dataset, "SequenceOfUltrasoundRegions"), strict=True)


def _is_spectral(item: Any) -> bool:
    return number(item, "RegionSpatialFormat") not in (_TISSUE, None)


def _region(item: Any, dataset: Any) -> tuple[float, ...]:
    """Return x0, y0, x1, y1 and the spacing of a region; one that states no place is everywhere."""
    width, height = (number(dataset, key) or math.inf for key in ("Columns", "Rows"))
    corners = [number(item, f"RegionLocation{key}") for key in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
    x0, y0, x1, y1 = corners
    if x0 is None or y0 is None or x1 is None or y1 is None or x1 < x0 or y1 < y0:
        box: tuple[float, ...] = (0, 0, width, height)
    else:
        box = (x0, y0, x1 + 1, y1 + 1)
    units = {number(item, f"PhysicalUnits{axis}Direction") for axis in "XY"}
    deltas = [number(item, f"PhysicalDelta{axis}") for axis in "YX"]
    spacing = tuple(10 * abs(delta) if delta else math.nan for delta in deltas)
    if units != {_CENTIMETRES} or _is_spectral(item) or not is_known(spacing):
        spacing = UNKNOWN
    return (*box, *spacing)


def _pixel_spacing(dataset: Any, name: str) -> tuple[float, float]:
    if "PixelSpacing" not in dataset:
        return UNKNOWN
    stated = text(dataset, "PixelSpacing")
    steps = numbers(dataset, "PixelSpacing")
    if len(steps) == 2 and is_known(steps):
        return steps[0], steps[1]
    if stated:
        logger.warning("'%s' states the pixel spacing %s, which is none: its scale is unknown.", name, stated)
    return UNKNOWN


# --- optional tags of DICOM, which may hold anything -----------------------------------------------


def numbers(dataset: Any, key: str) -> list[float]:
    """Return the numbers of an optional attribute; none where it is absent or one of them is malformed."""
    try:
        value = dataset.get(key)
        if isinstance(value, bytes):  # of an element with the type of another
            value = value.decode("ascii").strip(" \0").split("\\")
        values = [value] if isinstance(value, str | int | float) else list(value or [])
        found = [float(one) for one in values]
    except Exception:  # pydicom converts when a value is first looked at, and raises whatever it likes
        return []
    return found if all(math.isfinite(one) for one in found) else []


def number(dataset: Any, key: str) -> float | None:
    """Return the first number of an optional attribute, or None."""
    return next(iter(numbers(dataset, key)), None)


def text(dataset: Any, key: str) -> str:
    """Return an optional attribute as it stands in the file, or ""."""
    try:
        return str(dataset.get(key) or "").strip()
    except Exception:
        raw = getattr(dataset, "_dict", {}).get(_tag(key))
        value = getattr(raw, "value", b"")
        return value.decode("latin-1").strip() if isinstance(value, bytes) else str(value)


def _tag(key: str) -> Any:
    from pydicom.tag import Tag

    return Tag(key)


def _sequence(dataset: Any, key: str) -> list[Any]:
    try:
        return [item for item in dataset.get(key) or [] if hasattr(item, "get")]
    except Exception:
        return []
