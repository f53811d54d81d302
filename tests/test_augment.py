"""Ultrasound augmentations: MONAI's conventions, and each effect where it should be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms import Compose

from lmsfe_sam.data.transforms.augment import RandDepthGaind, RandMarkersd, RandShadowd, RandSpeckled
from lmsfe_sam.errors import InputError
from lmsfe_sam.evaluation.protocol import inscribed_ellipse

ALL = [RandSpeckled, RandDepthGaind, RandShadowd, RandMarkersd]
SIZE = 128


@pytest.fixture(autouse=True)
def _one_thread():
    """Work as a data loader's worker does; on small pictures more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def data() -> dict[str, torch.Tensor]:
    image = 90 + 40 * torch.rand(1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor(inscribed_ellipse([30, 40, 80, 90], (SIZE, SIZE)))[None].to(torch.uint8)
    return {"image": image.expand(3, -1, -1).contiguous(), "label": mask}


def flat(value: float = 100.0) -> dict[str, torch.Tensor]:
    return {"image": torch.full((3, SIZE, SIZE), value)}


def changed(transform, seed: int, data: dict[str, torch.Tensor]) -> torch.Tensor:
    return transform.set_random_state(seed)(data)["image"]


@pytest.mark.parametrize("kind", ALL)
def test_the_random_state_decides_alone(kind, data):
    transform = kind(keys="image", prob=1.0)
    first, again, other = (changed(transform, seed, data) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("kind", ALL)
def test_values_type_and_other_entries_are_kept(kind, data):
    before = {key: value.clone() for key, value in data.items()}
    for seed in range(10):
        result = kind(keys="image", prob=1.0).set_random_state(seed)(data)
        image = result["image"]
        assert image.dtype == torch.float32 and image.shape == data["image"].shape
        assert image.min() >= 0 and image.max() <= 255 and image.isfinite().all()
        assert torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])
        assert not torch.equal(image, before["image"])
        assert result["label"] is data["label"]
    assert all(torch.equal(data[key], before[key]) for key in data)


@pytest.mark.parametrize("kind", ALL)
def test_prob_is_how_often(kind, data):
    never = kind(keys="image", prob=0.0)
    assert all(changed(never, seed, data) is data["image"] for seed in range(5))
    sometimes = kind(keys="image", prob=0.3).set_random_state(0)
    hits = sum(sometimes(data)["image"] is not data["image"] for _ in range(200))
    assert 40 < hits < 80


@pytest.mark.parametrize("kind", ALL)
def test_numpy_and_torch_agree(kind, data):
    arrays = {key: value.numpy() for key, value in data.items()}
    transform = kind(keys="image", prob=1.0)
    array = changed(transform, 7, arrays)
    assert isinstance(array, np.ndarray) and array.dtype == np.float32
    assert np.allclose(array, changed(transform, 7, data).numpy(), atol=1e-3)


@pytest.mark.parametrize("kind", ALL)
def test_all_keys_get_the_same(kind, data):
    data["other"] = data["image"].clone()
    result = kind(keys=["image", "other"], prob=1.0).set_random_state(1)(data)
    assert torch.equal(result["image"], result["other"])


@pytest.mark.parametrize("kind", ALL)
def test_missing_keys_are_an_error_unless_allowed(kind, data):
    with pytest.raises(KeyError):
        kind(keys="picture", prob=1.0)(data)
    assert kind(keys="picture", prob=1.0, allow_missing_keys=True)(data).keys() == data.keys()


@pytest.mark.parametrize("kind", ALL)
def test_integers_are_refused(kind):
    with pytest.raises(InputError, match="make it float"):
        kind(keys="image", prob=1.0)({"image": torch.zeros(3, 32, 32, dtype=torch.uint8)})


def test_they_compose_and_compose_seeds_them(data):
    compose = Compose([kind(keys="image", prob=0.5) for kind in ALL])
    first = compose.set_random_state(5)(data)["image"]
    assert torch.equal(first, compose.set_random_state(5)(data)["image"])


def test_speckle_keeps_the_mean_and_is_correlated():
    deviations = []
    for seed in range(20):
        image = changed(RandSpeckled(keys="image", prob=1.0, strength=0.3), seed, flat())[0].numpy()
        assert image.mean() == pytest.approx(100, abs=1.5)
        deviations.append(image.std())
        noise = image - image.mean()
        variance = (noise**2).mean()
        down, across = (noise[1:] * noise[:-1]).mean(), (noise[:, 1:] * noise[:, :-1]).mean()
        assert across / variance > 0.3 and across > down
    assert max(deviations) < 31 and max(deviations) > 3 * min(deviations)


def test_depth_gain_changes_rows_alike_within_its_strength():
    for seed in range(20):
        image = changed(RandDepthGaind(keys="image", prob=1.0, strength=0.7), seed, flat())[0]
        assert torch.allclose(image, image[:, :1].expand_as(image))
        assert image.min() >= 100 * 2**-0.7 and image.max() <= 100 * 2**0.7
        assert image[:, 0].diff().abs().max() < 3


def test_black_margins_stay_black():
    data = flat()
    data["image"][:, :, :20] = 0
    for kind in (RandSpeckled, RandDepthGaind, RandShadowd):
        assert changed(kind(keys="image", prob=1.0), 2, data)[:, :, :20].max() == 0


def test_a_shadow_hangs_down_from_where_it_starts():
    for seed in range(30):
        transform = RandShadowd(keys="image", prob=1.0, strength=(0.8, 0.8), width=(0.2, 0.2))
        image = changed(transform, seed, flat())[0]
        assert image.max() <= 100 and image.min() >= 20 - 1e-3
        share = (image[-1] < 60).float().mean()  # at the bottom, with its spread
        assert share < 0.45
        dark = (image < 60).any(dim=1)
        start = int(dark.float().argmax()) if dark.any() else SIZE
        assert start < 0.45 * SIZE or share == 0  # only a shadow beside the picture does not start


def test_shadows_start_at_the_top_half_of_the_time():
    transform = RandShadowd(keys="image", prob=1.0).set_random_state(0)
    at_top = [bool((transform(flat())["image"][0, :6] < 99).any()) for _ in range(100)]
    assert 35 < sum(at_top) < 80


def marks(transform, seed: int, data: dict[str, torch.Tensor]) -> np.ndarray:
    return np.argwhere((changed(transform, seed, data)[0] != data["image"][0]).numpy())


def test_marks_are_bright_and_few(data):
    transform = RandMarkersd(keys="image", prob=1.0)
    for seed in range(20):
        where = marks(transform, seed, data)
        assert 0 < len(where) < 0.08 * SIZE**2
        image = changed(transform, seed, data)[0].numpy()
        assert image[tuple(where.T)].min() >= 149
        assert np.ptp(image[tuple(where.T)]) < 1e-3  # one brightness in one picture


def test_calipers_lie_on_the_lesion_about_half_of_the_time(data):
    from scipy.ndimage import distance_transform_edt

    mask = data["label"][0].numpy()
    from_border = np.where(mask, distance_transform_edt(mask), distance_transform_edt(1 - mask))
    transform = RandMarkersd(keys="image", prob=1.0, calipers=1, texts=1)
    near = 0
    for seed in range(200):
        transform.set_random_state(seed)
        transform(data)
        ends = np.argwhere(transform.marks & (from_border < 4))
        near += len(ends) >= 12  # two crosses of seven pixels and more
    assert 80 < near < 150


@pytest.mark.parametrize("mask", [None, torch.zeros(1, SIZE, SIZE)])
def test_without_a_lesion_marks_lie_anywhere(mask):
    data = flat() if mask is None else {**flat(), "label": mask}
    transform = RandMarkersd(keys="image", prob=1.0)
    found = np.concatenate([marks(transform, seed, data) for seed in range(60)])
    for axis in (0, 1):
        share = np.histogram(found[:, axis], bins=4, range=(0, SIZE))[0] / len(found)
        assert share.min() > 0.1


def test_written_digits_are_legible():
    from lmsfe_sam.data.transforms.augment import _DIGITS

    assert _DIGITS.shape == (10, 5, 3) and len({digit.tobytes() for digit in _DIGITS}) == 10
    assert _DIGITS[4].tolist() == [
        [True, False, True],
        [True, False, True],
        [True, True, True],
        [False, False, True],
        [False, False, True],
    ]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: RandSpeckled("image", strength=0), "strength"),
        (lambda: RandSpeckled("image", grain=(2, 1)), "grain"),
        (lambda: RandDepthGaind("image", strength=-1), "strength"),
        (lambda: RandShadowd("image", strength=(0.5, 1.5)), "at most 1"),
        (lambda: RandShadowd("image", width=(0.0, 0.2)), "width"),
        (lambda: RandMarkersd("image", calipers=0), "calipers"),
    ],
)
def test_bad_arguments_say_what_to_do(build, words):
    with pytest.raises(ValueError, match=words):
        build()
