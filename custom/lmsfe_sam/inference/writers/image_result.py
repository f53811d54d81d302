"""The result of one image, as the writers take it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lmsfe_sam.images.scale import UNKNOWN_SCALE, Scale, is_known


@dataclass(frozen=True)
class ImageResult:
    """The objects of one image, or of one frame of a file.

    Attributes:
        path: of the file.
        name: of the file, as ``objects.csv`` has it.
        stem: of its results.
        labels: (H, W), object k is k.
        rows: of ``objects.csv``, one an object.
        categories: of each object, keys of `CATEGORIES`.
        affine: (4, 4), from the file's voxels (x, y, frame) to RAS mm.
        scale: how large its pixels are.
        frame: which frame of the file this is, from 0.
        frames: how many the file has.
        probabilities: (N, H, W) uint8, 255 for 1, or None.
    """

    path: Path
    name: str
    stem: str
    labels: np.ndarray
    rows: Sequence[Mapping[str, Any]]
    categories: Sequence[str]
    affine: np.ndarray = field(default_factory=lambda: np.eye(4))
    scale: Scale = UNKNOWN_SCALE
    frame: int = 0
    frames: int = 1
    probabilities: np.ndarray | None = None

    def numbers(self) -> range:
        """The objects' numbers, from 1."""
        return range(1, len(self.rows) + 1)

    @property
    def spacing(self) -> tuple[float, float]:
        """Spacing of rows and columns of the whole image in mm, NaN where it is unknown."""
        return self.scale.spacing

    def spacing_of(self, number: int) -> tuple[float, float] | None:
        """Spacing of rows and columns at an object in mm, or None."""
        spacing, _ = self.scale.of_object(*np.nonzero(self.labels == number))
        return spacing if is_known(spacing) else None
