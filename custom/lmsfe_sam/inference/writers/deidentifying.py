"""Remove what scanners write beside the ultrasound (names, dates, hospitals) from pictures."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np

from lmsfe_sam.images.formats import is_dicom

logger = logging.getLogger(__name__)

_IMAGES = (1, 2, 3, 4)
"""DICOM's codes for regions that hold 2-D images, M-mode, spectra and waveforms; 5 is graphics."""


def blacken_outside(picture: np.ndarray, path: str | os.PathLike[str]) -> np.ndarray:
    """Blacken what lies outside of the ultrasound regions that a file states: all where it states none.

    Args:
        picture: (H, W, 3) uint8, the file's.
        path: of the file.
    """
    regions = stated_regions(Path(path))
    if not regions:
        logger.warning("'%s' states no ultrasound region: its pictures are black but for the outlines.", path)
    kept = np.zeros_like(picture)
    for rows, columns in regions:
        kept[rows, columns] = picture[rows, columns]
    return kept


def stated_regions(path: Path) -> list[tuple[slice, slice]]:
    """Return rows and columns of the ultrasound regions of a DICOM file; none of any other file."""
    if not is_dicom(path):
        return []
    from pydicom import dcmread

    dataset = dcmread(path, stop_before_pixels=True, force=True)
    found = []
    for region in dataset.get("SequenceOfUltrasoundRegions") or []:
        try:
            kind = int(region.get("RegionSpatialFormat", 1))
            x0, y0, x1, y1 = (int(region[f"RegionLocation{side}"].value) for side in _SIDES)
        except (KeyError, TypeError, ValueError):
            continue
        if kind in _IMAGES and 0 <= x0 <= x1 and 0 <= y0 <= y1:
            found.append((slice(y0, y1 + 1), slice(x0, x1 + 1)))
    return found


_SIDES = ("MinX0", "MinY0", "MaxX1", "MaxY1")
