"""What every reader gives: a header before anything is decoded, and an image for each frame.

Volumes are in the axes of their file, x (columns) before y (rows) before slices or frames; the image of a
frame is (rows, columns). Slices of a volume, pages of a TIFF and frames of a cine are all frames, from 0 on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lmsfe_sam.errors import InputError
from lmsfe_sam.images.scale import UNKNOWN_SCALE, Scale

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""The affine (4, 4) of an image without geometry: DICOM's axes, 1 mm a pixel."""


class NoImageError(InputError):
    """A file that is whole and holds no image, such as a report or a DICOMDIR."""


class SeveralFramesError(InputError):
    """A file of several frames, none of which was asked.

    Args:
        file: its path.
        count: of its frames.

    Attributes:
        fact: the first half of the sentence, without the command line's remedy.
    """

    def __init__(self, file: Path, count: int) -> None:
        self.fact = f"'{file}' has {count} slices"
        super().__init__(
            f"{self.fact}: choose one with --slice 0 to --slice {count - 1}, or take all with --frames all."
        )


@dataclass(frozen=True)
class Header:
    """What a file says of its pixels.

    Attributes:
        frames: slices, pages or frames.
        rows: of a frame; of pages of several sizes, of the largest.
        columns: of a frame.
        samples: values a pixel: 1, or 2 to 4 for colours and alpha.
        bits: of a value.
        read_together: reading one frame takes memory for all of them.
    """

    frames: int
    rows: int
    columns: int
    samples: int = 1
    bits: int = 8
    read_together: bool = False

    def pixels_at_once(self) -> int:
        """Return how many pixels reading one frame takes memory for."""
        return self.rows * self.columns * (self.frames if self.read_together else 1)


@dataclass(frozen=True)
class FileImage:
    """A file's image, or one frame of it.

    Attributes:
        pixels: (H, W) or (H, W, C), of any type.
        affine: (4, 4), from the file's voxels (x, y, frame) to RAS mm; 1 mm where the scale is unknown.
        shape: the file's spatial axes, (W, H) or (W, H, frames, ...).
        index: of the frame.
        scale: how large a pixel is.
    """

    pixels: np.ndarray
    affine: np.ndarray
    shape: tuple[int, ...]
    index: int = 0
    scale: Scale = field(default=UNKNOWN_SCALE)

    @property
    def spacing(self) -> tuple[float, float]:
        """Rows and columns in mm, NaN where unknown."""
        return self.scale.spacing


@dataclass(frozen=True)
class ImageFile:
    """A file whose header was read, and how to read a frame of it."""

    header: Header
    read: Callable[[int], FileImage]


def turn(pixels: np.ndarray, stated: int) -> np.ndarray:
    """Turn pixels (H, W, ...) as they are stored into how EXIF's orientation, 1 to 8, shows them."""
    if stated >= 5:
        pixels = np.swapaxes(pixels, 0, 1)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(stated, ())
    return np.ascontiguousarray(np.flip(pixels, flips)) if flips else np.ascontiguousarray(pixels)


def choose_frame(count: int, requested: int | None, file: Path) -> int:
    """Return the frame that is requested of ``count``: the one rule for every format.

    Raises:
        InputError: there are several and none was requested, or there is no such frame.
    """
    if requested is None and count == 1:
        return 0
    if requested is not None and 0 <= requested < count:
        return requested
    if count == 1:
        raise InputError(f"'{file}' has one slice alone, and {requested} is not it: leave out --slice.")
    if requested is None:
        raise SeveralFramesError(file, count)
    raise InputError(
        f"'{file}' has {count} slices, and {requested} is not one of them: choose one with --slice 0 to "
        f"--slice {count - 1}."
    )
