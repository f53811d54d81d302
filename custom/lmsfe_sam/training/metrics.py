"""The Hausdorff distance of the validation, with empty masks counted as the worst case."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from monai.metrics import HausdorffDistanceMetric
from torch import Tensor


class BoundedHausdorffDistance(HausdorffDistanceMetric):
    """`HausdorffDistanceMetric` in pixels, the image's diagonal where a mask is empty.

    MONAI gives inf or NaN there, and leaves it out of the mean: a network that predicts nothing
    would look better than one that predicts something wrong.
    """

    def _compute_tensor(self, y_pred: Tensor, y: Tensor, **kwargs: Any) -> Tensor:  # type: ignore[override]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the very empty masks that are dealt with here
            distances = super()._compute_tensor(y_pred, y, **kwargs)
        diagonal = math.hypot(*y.shape[-2:])
        return torch.nan_to_num(distances, nan=diagonal, posinf=diagonal)
