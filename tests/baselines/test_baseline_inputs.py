"""How images reach SAM's, SAM-Med2D's and MedSAM's inputs, and masks come back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from torch import nn

from lmsfe_sam.baselines.preprocessing import Frame, prepare_medsam, prepare_sam, prepare_sam_med2d
from lmsfe_sam.model.presets import PIXEL_MEAN, PIXEL_STD

COLOURS = np.random.default_rng(0).integers(0, 256, (50, 80, 3)).astype(np.uint8)


class Stub(nn.Module):
    """Stands for SAM's encoder: gives its input back."""

    img_size = 1024

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image


@pytest.mark.parametrize("shape", [(50, 80), (80, 50), (1500, 700), (64, 64)])
def test_sam_input_is_that_of_its_own_predictor(shape: tuple[int, int]) -> None:
    array = np.random.default_rng(1).integers(0, 256, (*shape, 3)).astype(np.uint8)
    predictor = SamPredictor(Sam(Stub(), nn.Identity(), nn.Identity()))
    predictor.set_image(array)
    image, frame = prepare_sam(array)
    torch.testing.assert_close(image, predictor.features[0], atol=1e-5, rtol=0)
    assert frame == Frame(predictor.original_size, predictor.input_size, (0, 0), 1024)
    points = np.array([[3.0, 7.0], [40.5, 49.0]])
    np.testing.assert_allclose(frame.points(points), predictor.transform.apply_coords(points, shape))
    logits = torch.randn(2, 3, 256, 256)
    expected = predictor.model.postprocess_masks(logits, predictor.input_size, predictor.original_size)
    torch.testing.assert_close(frame.restore(logits), expected)


def test_sam_med2d_takes_blue_first_with_means_of_red_first() -> None:
    image, _ = prepare_sam_med2d(COLOURS)
    corner = image[:, (256 - 50) // 2, (256 - 80) // 2]
    expected = (COLOURS[0, 0, ::-1].astype(float) - PIXEL_MEAN) / PIXEL_STD
    np.testing.assert_allclose(corner, expected, rtol=1e-5)


def test_sam_med2d_pads_small_images_around_the_centre() -> None:
    image, frame = prepare_sam_med2d(COLOURS[:, :79])
    assert frame == Frame((50, 79), (50, 79), (103, 88), 256)
    content = torch.zeros(256, 256, dtype=torch.bool)
    content[103:153, 88:167] = True
    assert not image[:, ~content].any()
    assert (image[:, content] != 0).float().mean() > 0.99
    np.testing.assert_array_equal(frame.boxes([1, 2, 30, 40]), [89, 105, 118, 143])
    logits = torch.randn(1, 1, 64, 64)
    whole = nn.functional.interpolate(logits, size=(256, 256), mode="bilinear", align_corners=False)
    assert torch.equal(frame.restore(logits), whole[..., 103:153, 88:167])


@pytest.mark.parametrize("shape", [(300, 100), (100, 256), (512, 512)])
def test_sam_med2d_squashes_others_by_nearest_neighbours(shape: tuple[int, int]) -> None:
    array = np.random.default_rng(2).integers(0, 256, shape).astype(np.uint8)
    image, frame = prepare_sam_med2d(array)
    rows, columns = (np.arange(256) * n // 256 for n in shape)
    expected = (array[rows][:, columns].astype(float) - PIXEL_MEAN[0]) / PIXEL_STD[0]
    np.testing.assert_allclose(image[0], expected, atol=1e-5)
    assert frame == Frame(shape, (256, 256), (0, 0), 256)
    assert frame.restore(torch.zeros(2, 1, 64, 64)).shape == (2, 1, *shape)


def test_a_flat_image() -> None:
    flat = np.full((20, 30), 7, np.uint8)
    for prepare in (prepare_sam, prepare_medsam, prepare_sam_med2d):
        assert prepare(flat, 64).image.isfinite().all()
    assert not prepare_medsam(flat, 64).image.any()
