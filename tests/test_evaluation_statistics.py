"""Bootstrap intervals and reliability, against what is known of them and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lmsfe_sam.evaluation.statistics import (
    Estimate,
    Resampling,
    calibration,
    calibration_error,
    flagged,
    rank_correlation,
)

VALUES = np.random.default_rng(0).beta(8, 2, size=150)
ALONE = [f"image {i}" for i in range(len(VALUES))]


def test_intervals_agree_with_scipys_bootstrap() -> None:
    ours = Resampling(ALONE, seed=1, draws=5000).estimate(VALUES)
    theirs = stats.bootstrap((VALUES,), np.mean, method="percentile", n_resamples=5000, rng=2)
    assert ours.mean == pytest.approx(VALUES.mean())
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=1.5e-3)


def test_patients_are_drawn_whole() -> None:
    """Five copies of each value in one group are no more evidence than one of each."""
    copies = Resampling([name for name in ALONE for _ in range(5)], seed=1, draws=4000).estimate(
        VALUES.repeat(5)
    )
    single = Resampling(ALONE, seed=1, draws=4000).estimate(VALUES)
    assert copies == pytest.approx(single)
    naive = Resampling([str(i) for i in range(5 * len(VALUES))], seed=1).estimate(VALUES.repeat(5))
    assert naive.high - naive.low < 0.6 * (copies.high - copies.low)


def test_groups_of_unequal_size_weigh_by_their_images() -> None:
    values, groups = [0.0, 1.0, 1.0, 1.0], ["a", "b", "b", "b"]
    estimate = Resampling(groups, draws=4000).estimate(values)
    assert estimate.mean == 0.75
    assert (estimate.low, estimate.high) == (0, 1)  # a quarter of the draws hold one group alone


def test_the_same_seed_gives_the_same_interval() -> None:
    assert Resampling(ALONE, seed=3).estimate(VALUES) == Resampling(ALONE, seed=3).estimate(VALUES)
    assert Resampling(ALONE, seed=3).estimate(VALUES) != Resampling(ALONE, seed=4).estimate(VALUES)


def test_shared_draws_make_a_constant_difference_certain() -> None:
    resampling = Resampling(ALONE)
    difference = resampling.estimate((VALUES + 0.1) - VALUES)
    assert (difference.low, difference.high) == pytest.approx((0.1, 0.1))


def test_missing_figures_are_left_out() -> None:
    values = VALUES.copy()
    values[:100] = np.nan
    estimate = Resampling(ALONE).estimate(values)
    assert estimate.mean == pytest.approx(VALUES[100:].mean())
    assert estimate.low < estimate.mean < estimate.high
    assert Resampling(ALONE).estimate(np.full(len(VALUES), np.nan)).as_json() == {
        "mean": None,
        "ci95": [None, None],
    }


def test_one_image_has_an_interval_of_no_width() -> None:
    assert Resampling(["a"]).estimate([0.5]) == Estimate(0.5, 0.5, 0.5)


def test_rank_correlation_is_spearmans_with_ties() -> None:
    rng = np.random.default_rng(1)
    a = rng.integers(0, 20, 80)
    b = a + rng.integers(0, 15, 80)
    assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert rank_correlation(VALUES, np.exp(VALUES)) == pytest.approx(1)
    assert np.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))
    assert np.isnan(rank_correlation([1], [2]))


def test_calibration_bins() -> None:
    bins = calibration([0.11, 0.19, 0.95, 1.2, -0.3], [0.2, 0.4, 0.9, 0.7, 0.0])
    assert bins == [
        pytest.approx((-0.3, 0.0, 1)),
        pytest.approx((0.15, 0.3, 2)),
        pytest.approx((1.075, 0.8, 2)),
    ]
    assert calibration_error(bins) == pytest.approx((0.3 + 2 * 0.15 + 2 * 0.275) / 5)
    assert calibration_error(calibration(VALUES, VALUES)) == pytest.approx(0)


def test_low_predictions_point_to_the_worst_images() -> None:
    actual = np.arange(20) / 20
    assert flagged(actual, actual) == (2, 2)
    assert flagged(-actual, actual) == (2, 0)
    predicted = actual.copy()
    predicted[0] = 2  # the very worst, and sure of itself
    assert flagged(predicted, actual) == (2, 1)
    assert flagged([0.4], [0.1]) == (1, 1)
