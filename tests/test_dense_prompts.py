"""Prompts drawn as maps: where they are, and that an absent one leaves nothing behind."""

from __future__ import annotations

import math

import pytest
import torch

from lmsfe_sam.model.prompt_encoder import CHANNELS, PromptMapEncoder, draw_prompts
from lmsfe_sam.prompts.prompt import Prompts

BOX, ELLIPSE, INSIDE_FINE, INSIDE_COARSE, OUTSIDE_FINE, OUTSIDE_COARSE, MASK = range(CHANNELS)


def test_box_and_inscribed_ellipse() -> None:
    maps = draw_prompts(Prompts(torch.tensor([[64.0, 32, 192, 96]])), image_size=256, size=128)[0]
    inside = torch.zeros(128, 128)
    inside[16:48, 32:96] = 1
    assert ((maps[BOX] > 0.5).float() == inside).all()
    assert (maps[BOX, 19:45, 35:93] > 0.99).all()  # soft, but only at the edge
    assert (maps[BOX, :13] < 0.01).all()
    y, x = torch.meshgrid(torch.arange(128) + 0.5, torch.arange(128) + 0.5, indexing="ij")
    ellipse = ((x - 64) / 32) ** 2 + ((y - 32) / 16) ** 2 <= 1
    assert ((maps[ELLIPSE] >= 0.5) == ellipse).all()
    assert maps[ELLIPSE].max() == pytest.approx(1, abs=0.01)
    assert (maps[2:] == 0).all()


def test_clicks() -> None:
    points = torch.tensor([[[100.0, 40], [10, 200], [101, 41]]])
    maps = draw_prompts(Prompts(None, points, torch.tensor([[1, 0, 1]])), image_size=256, size=256)[0]
    for channel, (x, y) in ((INSIDE_FINE, (100, 40)), (OUTSIDE_FINE, (10, 200))):
        assert maps[channel, y, x] == pytest.approx(1)
    assert maps[INSIDE_FINE].max() <= 1  # two clicks near each other do not add up
    assert maps[INSIDE_FINE, 200, 10] < 1e-6
    distance, sigma = 12 / 256, 0.06
    assert maps[OUTSIDE_COARSE, 200, 22] == pytest.approx(math.exp(-(distance**2) / 2 / sigma**2), rel=1e-4)
    assert maps[OUTSIDE_FINE].sum() < 0.1 * maps[OUTSIDE_COARSE].sum()
    assert (maps[[BOX, ELLIPSE, MASK]] == 0).all()


def test_earlier_mask() -> None:
    mask = torch.tensor([[[4.0, -4.0], [0.0, 40.0]]])
    maps = draw_prompts(Prompts(masks=mask), image_size=256, size=2)[0]
    expected = [[math.tanh(2), -math.tanh(2)], [0, 1]]
    torch.testing.assert_close(maps[MASK], torch.tensor(expected))
    assert (maps[:MASK] == 0).all()


@pytest.mark.parametrize(
    "box", [[50.0, 50, 50, 50], [80, 80, 20, 20], [-90, -90, 600, 600], [300, 300, 400, 400]]
)
def test_boxes_that_are_no_boxes_stay_finite(box: list[float]) -> None:
    maps = draw_prompts(Prompts(torch.tensor([box])), image_size=256, size=64)
    assert maps.isfinite().all()
    assert maps.min() >= 0
    assert maps.max() <= 1


def test_objects_are_drawn_each_for_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(3, 4, generator=generator) * 128 + torch.tensor([0, 0, 128, 128])
    points, labels = torch.rand(3, 2, 2, generator=generator) * 256, torch.tensor([[1, 0], [1, 1], [0, 0]])
    masks = torch.randn(3, 20, 30, generator=generator)
    prompts = Prompts(boxes, points, labels, masks)
    together = draw_prompts(prompts, 256, 64)
    for i in range(3):
        one = slice(i, i + 1)
        alone = draw_prompts(prompts.select(one), 256, 64)
        torch.testing.assert_close(together[one], alone)


def test_encoder() -> None:
    encoder = PromptMapEncoder(24)
    features = torch.zeros(2, 24, 4, 4)
    blank = encoder.blank(features)
    assert blank.shape == (2, CHANNELS, 32, 32)
    assert not blank.any()
    assert encoder(blank).shape == features.shape
