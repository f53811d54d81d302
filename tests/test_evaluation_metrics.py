"""The columns of metrics.csv: known values, degenerate cases and independent computations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import HausdorffDistanceMetric, SurfaceDistanceMetric
from skimage.metrics import hausdorff_distance

from lmsfe_sam.evaluation.metrics import COLUMNS, border_distances, dice, iou, score

DIAGONAL = 256 * math.sqrt(2)


def rectangle(y0: int, y1: int, x0: int, x1: int, shape: tuple[int, int] = (256, 256)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def blob(seed: int, shape: tuple[int, int] = (256, 256)) -> np.ndarray:
    """A ragged mask, some of it cut off by the image's edge."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 9)
    return noise > np.quantile(noise, 0.9)


def pixel(y: int, x: int) -> np.ndarray:
    return rectangle(y, y + 1, x, x + 1)


PAIRS = {
    "blobs": (blob(1), blob(2)),
    "blob and its shift": (blob(3), np.roll(blob(3), 5, axis=1)),
    "at the image's border": (rectangle(0, 60, 0, 80), rectangle(0, 50, 20, 100)),
    "in two corners": (rectangle(0, 9, 0, 7), rectangle(250, 256, 249, 256)),
    "one pixel and a lesion": (pixel(100, 100), rectangle(50, 120, 60, 130)),
    "one pixel at the border": (pixel(0, 255), rectangle(3, 40, 200, 256)),
    "the whole image": (np.ones((256, 256), dtype=bool), rectangle(90, 150, 80, 170)),
    "nested": (rectangle(100, 110, 100, 110), rectangle(20, 230, 30, 220)),
    "not square": (blob(4, (120, 200)), blob(5, (120, 200))),
}
pairs = pytest.mark.parametrize(("prediction", "truth"), PAIRS.values(), ids=PAIRS.keys())


def border(mask: np.ndarray) -> np.ndarray:
    """The definition, written out: pixels with a 4-neighbour outside the mask or outside the image."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def itk_distances(
    prediction: np.ndarray, truth: np.ndarray, spacing=(1.0, 1.0)
) -> tuple[float, float, float]:
    """Hausdorff distance, its 95th percentile and ASSD by SimpleITK's contours and distance maps."""
    sitk = pytest.importorskip("SimpleITK")

    def contour(mask: np.ndarray):
        # One pixel of nothing around the image, so that its edge is a border too.
        image = sitk.GetImageFromArray(np.pad(mask, 1).astype(np.uint8))
        image.SetSpacing((float(spacing[1]), float(spacing[0])))
        return sitk.LabelContour(image, fullyConnected=False)

    def directed(start, end) -> np.ndarray:
        away = sitk.SignedMaurerDistanceMap(end, squaredDistance=False, useImageSpacing=True)
        distances = np.abs(sitk.GetArrayFromImage(away))[sitk.GetArrayFromImage(start) > 0]
        return distances

    a, b = contour(prediction), contour(truth)
    there, back = directed(a, b), directed(b, a)
    percentile = max(np.percentile(there, 95), np.percentile(back, 95))
    return max(there.max(), back.max()), percentile, np.concatenate([there, back]).mean()


@pairs
def test_distances_equal_simpleitk(prediction: np.ndarray, truth: np.ndarray) -> None:
    assert border_distances(prediction, truth) == pytest.approx(itk_distances(prediction, truth), abs=1e-4)


def test_distances_in_millimetres_equal_simpleitk() -> None:
    prediction, truth, spacing = blob(6), blob(7), (0.3, 0.11)
    measured = border_distances(prediction, truth, spacing)
    assert measured == pytest.approx(itk_distances(prediction, truth, spacing), abs=1e-4)
    assert score([prediction], truth, spacing)[0]["hd_mm"] == pytest.approx(measured[0], abs=1e-6)


@pairs
def test_hausdorff_equals_skimage_on_the_written_out_border(
    prediction: np.ndarray, truth: np.ndarray
) -> None:
    expected = hausdorff_distance(border(prediction), border(truth))
    assert border_distances(prediction, truth)[0] == pytest.approx(expected, abs=1e-4)


@pairs
def test_distances_equal_monais_metric_classes(prediction: np.ndarray, truth: np.ndarray) -> None:
    """The shortcut through MONAI's inner functions must stay what its classes compute."""
    pair = [torch.from_numpy(mask).float()[None, None] for mask in (prediction, truth)]
    classes = [
        HausdorffDistanceMetric(include_background=True),
        HausdorffDistanceMetric(include_background=True, percentile=95),
        SurfaceDistanceMetric(include_background=True, symmetric=True),
    ]
    expected = [float(metric(*pair)) for metric in classes]
    assert border_distances(prediction, truth) == pytest.approx(expected, abs=1e-4)


@pairs
def test_overlap_equals_counting(prediction: np.ndarray, truth: np.ndarray) -> None:
    row = score([prediction], truth)[0]
    hit, missed = (prediction & truth).sum(), (~prediction & truth).sum()
    extra, rest = (prediction & ~truth).sum(), (~prediction & ~truth).sum()
    assert row["dice"] == pytest.approx(2 * hit / (2 * hit + missed + extra), abs=1e-6)
    assert row["iou"] == pytest.approx(hit / (hit + missed + extra), abs=1e-6)
    assert row["sensitivity"] == pytest.approx(hit / (hit + missed), abs=1e-6)
    assert row["specificity"] == pytest.approx(rest / (rest + extra), abs=1e-6)
    assert row["accuracy"] == pytest.approx((hit + rest) / truth.size, abs=1e-6)
    assert dice(prediction, truth) == pytest.approx(row["dice"], abs=1e-6)
    assert iou(prediction, truth) == pytest.approx(row["iou"], abs=1e-6)


def test_known_values() -> None:
    truth = rectangle(100, 110, 100, 120)
    shifted = rectangle(100, 110, 103, 123)
    row = score([shifted], truth)[0]
    assert row["dice"] == pytest.approx(17 / 20, abs=1e-6)
    assert row["iou"] == pytest.approx(17 / 23, abs=1e-6)
    assert row["hd"] == pytest.approx(3)
    assert row["sensitivity"] == pytest.approx(17 / 20, abs=1e-6)
    assert row["specificity"] == pytest.approx(1 - 30 / (65536 - 200), abs=1e-6)
    assert row["accuracy"] == pytest.approx(1 - 60 / 65536, abs=1e-6)
    assert math.isnan(row["hd_mm"])
    assert tuple(row) == COLUMNS


def test_two_single_pixels_are_five_apart() -> None:
    row = score([pixel(10, 20)], pixel(13, 24))[0]
    assert (row["dice"], row["hd"], row["hd95"], row["assd"]) == (0, 5, 5, 5)


def test_the_same_mask_is_perfect() -> None:
    row = score([blob(8)], blob(8))[0]
    assert [row[name] for name in COLUMNS[:8]] == [1, 1, 1, 1, 1, 0, 0, 0]


def test_an_empty_prediction_scores_the_diagonal() -> None:
    truth, empty = rectangle(0, 20, 0, 20), np.zeros((256, 256), dtype=bool)
    row = score([empty], truth)[0]
    assert (row["dice"], row["iou"], row["sensitivity"], row["specificity"]) == (0, 0, 0, 1)
    assert row["hd"] == row["hd95"] == row["assd"] == pytest.approx(DIAGONAL, abs=1e-6)


def test_an_empty_prediction_scores_the_diagonal_of_its_own_image_in_mm() -> None:
    truth, empty = rectangle(0, 20, 0, 20, (300, 400)), np.zeros((300, 400), dtype=bool)
    row = score([empty], truth, spacing=(0.1, 0.2))[0]
    assert row["hd"] == pytest.approx(500)
    assert row["hd_mm"] == pytest.approx(math.hypot(30, 80), abs=1e-6)


def test_a_lesion_that_fills_the_image_has_full_specificity() -> None:
    row = score([blob(9)], np.ones((256, 256), dtype=bool))[0]
    assert row["specificity"] == 1
    assert all(math.isfinite(row[name]) for name in COLUMNS[:8])


def test_several_predictions_keep_their_order() -> None:
    truth = blob(10)
    together = score([blob(11), truth, blob(12)], truth)
    assert together == [
        pytest.approx(score([mask], truth)[0], nan_ok=True) for mask in (blob(11), truth, blob(12))
    ]
