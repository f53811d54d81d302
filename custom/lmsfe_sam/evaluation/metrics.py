"""The metrics of one prediction against the truth: the columns of ``metrics.csv``.

`docs/protocol.md` defines each of them. Overlap comes from MONAI's metric classes. The three border
distances are those of MONAI's `HausdorffDistanceMetric` and `SurfaceDistanceMetric`, taken one level
below these classes so that the borders of a pair are found once instead of three times; a test holds them
equal to the classes and to SimpleITK.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics import ConfusionMatrixMetric, DiceMetric, MeanIoU
from monai.metrics.confusion_matrix import compute_confusion_matrix_metric
from monai.metrics.utils import get_surface_distance
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

COLUMNS = ("dice", "iou", "sensitivity", "specificity", "accuracy", "hd", "hd95", "assd", "hd_mm")
"""The numeric columns of ``metrics.csv``, in its order."""

HIGHER_IS_BETTER = frozenset(("dice", "iou", "sensitivity", "specificity", "accuracy"))

Mask = NDArray[np.bool_]
Scores = dict[str, float]
Spacing = tuple[float, float]
"""Height and width of a pixel in millimetres."""


def score(predictions: Sequence[Mask], truth: Mask, spacing: Spacing | None = None) -> list[Scores]:
    """Return the `COLUMNS` of each of several predictions for one image, rounded to six decimals.

    Args:
        predictions: masks (H,W).
        truth: the mask (H,W), not empty.
        spacing: the pixel's height and width in mm; ``hd_mm`` is NaN without it.
    """
    overlaps = _overlaps(np.stack(predictions), truth)
    rows = []
    for prediction, overlap in zip(predictions, overlaps, strict=True):
        hd, hd95, assd = border_distances(prediction, truth)
        hd_mm = border_distances(prediction, truth, spacing)[0] if spacing else math.nan
        values = (*overlap, hd, hd95, assd, hd_mm)
        rows.append({name: round(float(value), 6) for name, value in zip(COLUMNS, values, strict=True)})
    return rows


def border_distances(
    prediction: Mask, truth: Mask, spacing: Spacing | None = None
) -> tuple[float, float, float]:
    """Return the Hausdorff distance, its 95th percentile and the average symmetric surface distance.

    They lie between the `border` pixels of the two masks (H,W). With ``spacing`` they are in mm, else in
    pixels. Where either mask is empty all three are the image's diagonal.
    """
    if not (prediction.any() and truth.any()):
        height, width = truth.shape
        pixel_height, pixel_width = spacing or (1.0, 1.0)
        diagonal = math.hypot(height * pixel_height, width * pixel_width)
        return diagonal, diagonal, diagonal
    rows, columns = _window(prediction | truth)
    edges = border(prediction[rows, columns]), border(truth[rows, columns])
    forward = np.asarray(get_surface_distance(*edges, spacing=spacing))
    backward = np.asarray(get_surface_distance(*edges[::-1], spacing=spacing))
    return (
        max(forward.max(), backward.max()),
        max(np.percentile(forward, 95), np.percentile(backward, 95)),
        np.concatenate((forward, backward)).mean(),
    )


def border(mask: Mask) -> Mask:
    """Return the pixels of ``mask (H,W)`` with a 4-neighbour that is outside it, or outside the image."""
    return mask & ~binary_erosion(mask)


def dice(prediction: Mask, truth: Mask) -> float:
    """Return the Dice coefficient of two masks (H,W), 1 where both are empty."""
    both = np.count_nonzero(prediction & truth)
    total = np.count_nonzero(prediction) + np.count_nonzero(truth)
    return 2 * both / total if total else 1.0


def iou(prediction: Mask, truth: Mask) -> float:
    """Return the intersection over union of two masks (H,W); ``truth`` is not empty."""
    return np.count_nonzero(prediction & truth) / np.count_nonzero(prediction | truth)


def _overlaps(predictions: Mask, truth: Mask) -> NDArray[np.float64]:
    """Return (N,5): Dice, IoU, sensitivity, specificity and accuracy of predictions (N,H,W)."""
    predicted = torch.from_numpy(predictions).float()[:, None]
    true = torch.from_numpy(truth).float().expand_as(predicted)
    counts: Any = ConfusionMatrixMetric()(predicted, true)
    columns: list[Any] = [DiceMetric()(predicted, true), MeanIoU()(predicted, true)]
    columns += [
        compute_confusion_matrix_metric(name, counts) for name in ("sensitivity", "specificity", "accuracy")
    ]
    values = torch.cat(columns, dim=1).double().numpy()
    # A lesion that fills the image leaves no background to get wrong, and MONAI a NaN.
    values[:, 3] = np.nan_to_num(values[:, 3], nan=1.0)
    return values


def _window(mask: Mask) -> tuple[slice, slice]:
    """Return the rows and columns around the pixels of ``mask``.

    Eroding the window is eroding the image: outside it both masks are empty anyway.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
