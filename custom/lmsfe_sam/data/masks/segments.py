"""Segmentations of 3D Slicer (``.seg.nrrd``): segments that may overlap, in layers of a label map.

Slicer's developer guide, chapter "Segmentations", says what the fields of the header mean.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmsfe_sam.errors import InputError
from lmsfe_sam.images.limits import MAX_PIXELS
from lmsfe_sam.images.nrrd_header import read_nrrd_header
from lmsfe_sam.images.reading import open_image

_FIELD = re.compile(r"Segment(\d+)_ID")
_OFFSET = "Segmentation_ReferenceImageExtentOffset"


@dataclass(frozen=True)
class Segments:
    """The segments of a file.

    Attributes:
        masks: (H, W) bool by their labels: the values in the file, or where layers share values 1, 2, ....
        offset: row and column of the image that the masks' first pixel is, as Slicer saves the part of it
            that holds segments; None where the file does not say.
    """

    masks: dict[int, np.ndarray]
    offset: tuple[int, int] | None = None

    def union(self) -> np.ndarray:
        """Return the label map (H, W) int32, later segments on top."""
        labels = np.zeros(next(iter(self.masks.values())).shape, np.int32)
        for label, mask in self.masks.items():
            labels[mask] = label
        return labels

    def within(self, size: tuple[int, int]) -> dict[int, np.ndarray]:
        """Return the masks that have a pixel, at their place in an image of a size if they fit there."""
        placed = {}
        for label, mask in self.masks.items():
            if self.offset is not None and mask.shape != size:
                (row, column), (height, width) = self.offset, mask.shape
                if row + height <= size[0] and column + width <= size[1]:
                    full = np.zeros(size, bool)
                    full[row : row + height, column : column + width] = mask
                    mask = full
            if mask.any():
                placed[label] = mask
        return placed


def read_segments(file: Path, max_pixels: int = MAX_PIXELS) -> Segments | None:
    """Return the segments of a NRRD file of one slice, or None where its header names none.

    Raises:
        InputError: it has several slices, or a segment is on a layer that there is not.
    """
    try:
        header, _ = read_nrrd_header(file)
    except Exception:  # reading it as an image says why
        return None
    numbers = sorted(int(match[1]) for key in header if (match := _FIELD.fullmatch(str(key))))
    if not numbers:
        return None
    image = open_image(file, max_pixels)
    in_layers = [_integer(header, number, "Layer", 0) for number in numbers]
    values = [_integer(header, number, "LabelValue", 1) for number in numbers]
    if max(in_layers) >= image.header.frames:
        raise InputError(
            f"'{file}' has a segment on a layer that it does not have: save it again in 3D Slicer."
        )
    if image.header.frames > 1 and int(header["dimension"]) < 4:
        raise InputError(f"'{file}' has segments on several slices: save one slice of it.")
    labels = values if len(set(values)) == len(values) else list(range(1, len(values) + 1))
    layers = [np.asarray(image.read(layer).pixels) for layer in range(image.header.frames)]
    masks = {
        label: layers[layer] == value for label, layer, value in zip(labels, in_layers, values, strict=True)
    }
    offset = str(header.get(_OFFSET, "")).split()[:2]
    if len(offset) < 2 or not all(text.isdigit() and len(text) < 10 for text in offset):
        return Segments(masks)
    return Segments(masks, (int(offset[1]), int(offset[0])))


def _integer(header: Mapping[str, Any], number: int, field: str, default: int) -> int:
    text = str(header.get(f"Segment{number}_{field}", default)).strip()
    return int(text) if text.isdigit() and len(text) < 10 else default
