"""The validation's distance between borders."""

from __future__ import annotations

import math

import pytest
import torch
from monai.metrics import HausdorffDistanceMetric

from lmsfe_sam.training.metrics import BoundedHausdorffDistance


def test_equals_monai_where_there_is_a_prediction_and_the_diagonal_where_there_is_none() -> None:
    truth = torch.zeros(3, 1, 32, 24)
    truth[:, :, 5:20, 4:15] = 1
    prediction = torch.zeros_like(truth)
    prediction[0, :, 8:26, 6:20] = 1
    prediction[1] = truth[1]
    distances = BoundedHausdorffDistance()(prediction, truth)
    assert distances[:2].equal(HausdorffDistanceMetric()(prediction[:2], truth[:2]))
    assert distances[2].item() == pytest.approx(math.hypot(32, 24))
