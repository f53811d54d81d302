"""Coordinates of points and boxes in an image and in its resize, and windows of an image."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

Size = tuple[int, int]
"""Height and width in pixels."""


class Window(NamedTuple):
    """A rectangle of an image, in its pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def size(self) -> Size:
        """Height and width."""
        return self.height, self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def full_window(size: Size) -> Window:
    """Return the window that covers an image of ``size``."""
    return Window(0, 0, *size)


def window_around(box: Iterable[float], size: Size, share: float, min_side: int = 1) -> Window:
    """Return the window of an image in whose middle a box takes ``share`` of each side.

    It is shifted, and if necessary cut, to lie within the image.

    Args:
        box: x0, y0, x1, y1; parts outside of the image are ignored.
        size: height and width of the image.
        share: in 0..1.
        min_side: smallest side of the window, in pixels.
    """
    x0, y0, x1, y1 = box
    top, height = _stretch(y0, y1, size[0], share, min_side)
    left, width = _stretch(x0, x1, size[1], share, min_side)
    return Window(top, left, height, width)


def _stretch(low: float, high: float, side: int, share: float, min_side: int) -> tuple[int, int]:
    """Start and length of a window along an axis of ``side`` pixels."""
    low, high = max(low, 0.0), min(high, float(side))
    length = min(side, max(round((high - low) / share), min_side, 1))
    start = round((low + high - length) / 2)
    return max(0, min(start, side - length)), length


def scale_points(points: ArrayLike, from_size: Size, to_size: Size) -> np.ndarray:
    """Move points (..., 2), x before y, from an image of ``from_size`` to its resize of ``to_size``.

    Each axis is multiplied by its own ratio, as in SAM. NaN (no point) stays NaN.

    Args:
        points: (..., 2) in pixels.
        from_size: height and width of the image that they are on.
        to_size: height and width of the resized image.

    Returns:
        (..., 2) float64.
    """
    (from_height, from_width), (to_height, to_width) = from_size, to_size
    ratios = np.array([to_width / from_width, to_height / from_height])
    return np.asarray(points, dtype=np.float64) * ratios


def scale_boxes(boxes: ArrayLike, from_size: Size, to_size: Size) -> np.ndarray:
    """Move boxes (..., 4), x0 y0 x1 y1 with x1 and y1 exclusive, as `scale_points` moves points."""
    corners = np.asarray(boxes, dtype=np.float64)
    return scale_points(corners.reshape(*corners.shape[:-1], 2, 2), from_size, to_size).reshape(corners.shape)
