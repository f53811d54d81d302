"""Targets made for a picture: what they are, and that they have to be prompted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import label

from lmsfe_sam.data.transforms.made_targets import RandEllipseTargetd, RandSuperpixelTargetd
from lmsfe_sam.errors import InputError


def picture(size: tuple[int, int] = (96, 80)) -> torch.Tensor:
    """A black border, a dark square and a bright one, with a little noise."""
    grey = np.full(size, 90.0)
    grey[:, 40:] = 160
    grey += np.random.default_rng(0).normal(0, 3, size)
    grey[:8] = 0
    return torch.tensor(np.stack([grey] * 3), dtype=torch.float32)


def made(transform: object, seed: int, image: torch.Tensor) -> dict:
    transform.set_random_state(seed)
    before = torch.zeros(1, *image.shape[1:], dtype=torch.uint8)
    before[:, 20:30, 20:30] = 1
    return transform({"image": image, "label": before, "unprompted": True})


def test_a_region_of_superpixels_is_connected_and_keeps_to_the_edges_of_the_picture() -> None:
    image, crossing = picture(), 0
    for seed in range(20):
        result = made(RandSuperpixelTargetd(prob=1, count=(20, 40), joined=(1, 3)), seed, image)
        target = result["label"][0].numpy()
        assert result["unprompted"] is False and torch.equal(result["image"], image)
        assert result["label"].dtype == torch.uint8 and target.max() == 1
        assert label(target, np.ones((3, 3)))[1] == 1 and 0 < target.mean() < 0.5
        crossing += min(target[:, :38].sum(), target[:, 42:].sum()) > 0.2 * target.sum()
    assert crossing <= 4, "regions hardly ever mix the dark half with the bright one"


def test_a_black_picture_has_no_superpixel_target() -> None:
    image = torch.zeros(3, 64, 64)
    result = made(RandSuperpixelTargetd(prob=1), 0, image)
    assert result["unprompted"] is True and result["label"].sum() == 100


def test_an_ellipse_is_drawn_where_the_target_is() -> None:
    image, changed_inside, changed_outside = picture(), [], []
    for seed in range(20):
        result = made(RandEllipseTargetd(prob=1), seed, image)
        target = result["label"][0].numpy() > 0
        change = (result["image"] - image).abs().mean(dim=0).numpy()
        seen = image[0].numpy() > 0
        changed_inside.append(change[target & seen].mean())
        changed_outside.append(change[~target & seen].mean())
        assert result["unprompted"] is False and result["image"].dtype == torch.float32
        assert result["image"].min() >= 0 and result["image"].max() <= 255
        assert not result["image"][:, ~seen & ~target].any()
    assert (np.array(changed_inside) > 2 * np.array(changed_outside)).mean() > 0.9
    assert min(changed_inside) > 5


def test_an_ellipse_fills_pi_quarters_of_its_box() -> None:
    for seed in range(10):
        target = made(RandEllipseTargetd(prob=1, size=(0.25, 0.28)), seed, picture((256, 256)))["label"][
            0
        ].numpy()
        rows, columns = np.flatnonzero(target.any(axis=1)), np.flatnonzero(target.any(axis=0))
        if min(rows[0], columns[0]) > 0 and max(rows[-1], columns[-1]) < 255:
            box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
            assert 0.6 < target.sum() / box < 0.82


@pytest.mark.parametrize("kind", [RandSuperpixelTargetd, RandEllipseTargetd])
def test_the_same_seed_makes_the_same_and_probability_0_nothing(kind: type) -> None:
    image = picture()
    first, second, other = (made(kind(prob=1), seed, image) for seed in (1, 1, 2))
    assert torch.equal(first["label"], second["label"]) and torch.equal(first["image"], second["image"])
    assert not torch.equal(first["label"], other["label"])
    untouched = made(kind(prob=0), 1, image)
    assert untouched["unprompted"] is True and untouched["label"].sum() == 100
    with pytest.raises(InputError, match="give the one of the picture"):
        kind(keys=["image", "other"])
