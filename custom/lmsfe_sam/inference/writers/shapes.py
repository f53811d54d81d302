"""Measures of an object's shape: diameters, perimeter and circularity."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import numpy as np


@dataclass(frozen=True)
class Shape:
    """What an object's outline measures, in mm or, where the spacing is unknown, in pixels.

    Attributes:
        area: its pixels.
        long_axis: the greatest distance of two points of its outline.
        short_axis: its extent at a right angle to that.
        circularity: 4 pi area / perimeter^2, 1 for a disc; at most 1, for outlines of pixels are not smooth.
    """

    area: float
    long_axis: float
    short_axis: float
    circularity: float


def measure_shape(mask: np.ndarray, spacing: tuple[float, float] = (1.0, 1.0)) -> Shape | None:
    """Measure an object, all its parts together; None where there is none.

    The points of the outline are the corners of its pixels. The perimeter is Crofton's, as scikit-image
    computes it, times the root of the spacings' product, which is exact where they are equal.

    Args:
        mask: (H, W) bool.
        spacing: of rows and columns.
    """
    from scipy.spatial import ConvexHull
    from scipy.spatial.distance import pdist, squareform
    from skimage.measure import perimeter_crofton

    rows, columns = mask.nonzero()
    if len(rows) == 0:
        return None
    window = np.pad(mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1], 1)
    area = len(rows) * spacing[0] * spacing[1]
    perimeter = float(perimeter_crofton(window, directions=4)) * np.sqrt(spacing[0] * spacing[1])
    centres = np.stack([rows, columns], axis=1)
    corners = np.concatenate([centres + step for step in ((0, 0), (0, 1), (1, 0), (1, 1))]) * spacing
    hull = corners[ConvexHull(corners).vertices]
    distances = squareform(pdist(hull))
    one, other = np.unravel_index(distances.argmax(), distances.shape)
    along = (hull[other] - hull[one]) / distances[one, other]
    across = hull @ np.array([-along[1], along[0]])
    circularity = 4 * pi * area / perimeter**2 if perimeter else 1.0
    return Shape(area, float(distances[one, other]), float(np.ptp(across)), min(1.0, float(circularity)))
