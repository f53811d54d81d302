"""Means with bootstrap intervals, and the calibration of a predicted score."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

DRAWS = 2000
"""How often the bootstrap draws, unless told otherwise."""


class Estimate(NamedTuple):
    """A mean and its 95 % interval; NaN where there is nothing to average."""

    mean: float
    low: float
    high: float

    def as_json(self) -> dict[str, float | list[float | None] | None]:
        """Return ``{"mean": m, "ci95": [low, high]}``, with null for NaN."""
        mean, low, high = (None if np.isnan(value) else round(value, 6) for value in self)
        return {"mean": mean, "ci95": [low, high]}


class Resampling:
    """Bootstrap samples of images, drawn by group and shared by all metrics.

    A draw takes as many groups as there are, with replacement, and all images of each; the interval runs
    from the 2.5th to the 97.5th percentile of the draws' means. Sharing the draws makes the interval of a
    difference that of the paired difference.

    Args:
        groups: the group (patient, or set of near-duplicates) of each of N images.
        seed: of `numpy.random.default_rng`.
        draws: how many samples.
    """

    def __init__(self, groups: Sequence[str], seed: int = 0, draws: int = DRAWS) -> None:
        names, self._group = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
        self._count = len(names)
        chances = np.full(self._count, 1 / self._count)
        # (draws, groups): how often each group was drawn, which is all that a mean needs to know.
        self._weights = (
            np.random.default_rng(seed).multinomial(self._count, chances, size=draws).astype(float)
        )

    def estimate(self, values: ArrayLike) -> Estimate:
        """Return mean and interval of ``values (N,)``; NaN ones are left out."""
        column = np.asarray(values, dtype=float)
        known = ~np.isnan(column)
        if not known.any():
            return Estimate(np.nan, np.nan, np.nan)
        sums = self._weights @ self._per_group(np.where(known, column, 0.0))
        counts = self._weights @ self._per_group(known.astype(float))
        means = sums[counts > 0] / counts[counts > 0]
        low, high = np.percentile(means, [2.5, 97.5])
        return Estimate(float(column[known].mean()), float(low), float(high))

    def _per_group(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(self._group, values, self._count), dtype=float)


def rank_correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Return Spearman's rank correlation of two columns (N,); NaN where one of them is constant."""
    from scipy.stats import ConstantInputWarning, spearmanr

    if len(np.asarray(a)) < 2:
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        return float(spearmanr(a, b).statistic)


class CalibrationBin(NamedTuple):
    """The images whose predicted value lies in one tenth of 0..1."""

    predicted: float
    actual: float
    images: int


def calibration(predicted: ArrayLike, actual: ArrayLike, bins: int = 10) -> list[CalibrationBin]:
    """Return mean predicted and mean actual value of each non-empty of ``bins`` equal parts of 0..1.

    A prediction beyond 0..1 counts in the outermost part.
    """
    predictions, truths = np.asarray(predicted, dtype=float), np.asarray(actual, dtype=float)
    part = np.clip((predictions * bins).astype(int), 0, bins - 1)
    return [
        CalibrationBin(
            float(predictions[part == i].mean()), float(truths[part == i].mean()), int((part == i).sum())
        )
        for i in range(bins)
        if (part == i).any()
    ]


class Flagged(NamedTuple):
    """How many of the worst predictions a low predicted value points to."""

    worst: int
    """Number of images in the worst tenth by actual value, at least 1."""
    found: int
    """Those of them in the fifth of the lowest predicted values; chance finds one in five."""


def flagged(predicted: ArrayLike, actual: ArrayLike) -> Flagged:
    """Return how many of the tenth with the lowest actual values lie in the fifth with the lowest predicted.

    Args:
        predicted, actual: (N,), N at least 1; of equal values the earlier one counts as lower.
    """
    predictions, truths = np.asarray(predicted, dtype=float), np.asarray(actual, dtype=float)
    worst, low = (max(1, round(share * len(truths))) for share in (0.1, 0.2))
    lowest = set(np.argsort(predictions, kind="stable")[:low].tolist())
    return Flagged(worst, len(lowest.intersection(np.argsort(truths, kind="stable")[:worst].tolist())))


def calibration_error(bins: Sequence[CalibrationBin]) -> float:
    """Return the mean gap between predicted and actual, weighted by the bins' images."""
    total = sum(part.images for part in bins)
    return sum(part.images * abs(part.predicted - part.actual) for part in bins) / total
