"""Phantoms: fixed by their number, exactly masked, and imaged as the physics says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from lmsfe_sam.data.phantoms.__main__ import main
from lmsfe_sam.data.phantoms.anatomy import Medium, Outline
from lmsfe_sam.data.phantoms.bmode import Scanner, smooth_field, spline_weights
from lmsfe_sam.data.phantoms.lesions import KINDS, Lesion, draw_lesion
from lmsfe_sam.data.phantoms.rendering import phantom_records, render_phantom, render_record
from lmsfe_sam.errors import InputError

PLAIN = Scanner(
    axial=0.8,
    lateral=1.5,
    noise=60,
    dynamic_range=70,
    brightness=0.6,
    smoothing=0.05,
    gain=(0, 0, 0, 0, 0),
)
"""A scanner with next to no noise, no speckle reduction and an even gain."""

SHAPE = (256, 320)


def flat_medium() -> Medium:
    return Medium(np.zeros(SHAPE, dtype=np.float32))


def decibels(image: np.ndarray) -> np.ndarray:
    return (image / 255 - PLAIN.brightness) * PLAIN.dynamic_range


@pytest.fixture(scope="module")
def some() -> list[tuple[np.ndarray, np.ndarray]]:
    return [render_record(record) for record in phantom_records(60, seed=3)]


def test_a_phantom_is_fixed_by_its_number():
    first, again, other = (render_phantom(number, (200, 240)) for number in (11, 11, 12))
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def test_images_and_masks_are_what_a_dataset_holds(some):
    for image, mask in some:
        assert image.dtype == mask.dtype == np.uint8 and image.shape == mask.shape
        assert 256 <= image.shape[0] < 384 and 280 <= image.shape[1] < 460
        assert set(np.unique(mask)) == {0, 1}
        assert 0.002 < mask.mean() < 0.45
        assert image.std() > 8 and 10 < image.mean() < 160


def test_sizes_of_lesions_vary_as_real_ones_do(some):
    areas = np.array([mask.mean() for _, mask in some])
    assert 0.02 < np.median(areas) < 0.09
    assert areas.min() < 0.02 and areas.max() > 0.12


def test_brightness_alone_does_not_find_the_lesion(some):
    """No threshold on a smoothed image comes close, or the demonstration would teach nothing."""
    from scipy.ndimage import gaussian_filter

    best = []
    for image, mask in some:
        smooth = gaussian_filter(image.astype(np.float32), 4)
        dices = [2 * np.sum(mask[smooth < t]) / (np.sum(smooth < t) + mask.sum()) for t in range(5, 120, 5)]
        best.append(max(dices))
    assert np.mean(best) < 0.55


def test_a_lesion_differs_from_what_lies_around_it(some):
    from scipy.ndimage import binary_dilation

    contrast = []
    for image, mask in some:
        around = binary_dilation(mask, iterations=12) & ~binary_dilation(mask, iterations=3)
        contrast.append(image[mask > 0].mean() - image[around].mean())
    contrast = np.array(contrast)
    assert np.mean(contrast < -5) > 0.75 and contrast.mean() < -20


@pytest.mark.parametrize("size", [(64, 64), (64, 200), (300, 70)])
def test_a_given_size(size):
    for number in range(25):
        image, mask = render_phantom(number, size)
        assert image.shape == mask.shape == size and mask.any()


def test_too_small_a_size_says_what_to_do():
    with pytest.raises(InputError, match="64 x 64"):
        render_phantom(0, (40, 100))


def test_records_are_ready_for_a_datalist():
    records = phantom_records(3, seed=5, start=12)
    assert [record["name"] for record in records] == ["phantom_00012", "phantom_00013", "phantom_00014"]
    assert all(set(record) == {"phantom", "name", "group", "subgroup"} for record in records)
    assert len({record["group"] for record in records}) == 3
    assert all(record["subgroup"]["kind"] in KINDS for record in records)


def test_seeds_and_ranges_never_share_a_phantom():
    numbers = [
        record["phantom"]
        for seed, start in ((0, 0), (0, 50), (1, 0), (2, 0))
        for record in phantom_records(50, seed, start)
    ]
    assert len(set(numbers)) == len(numbers) == 200
    assert phantom_records(1, 0)[0]["group"] != phantom_records(1, 1)[0]["group"]
    assert phantom_records(10, 0, 50) == phantom_records(60, 0)[50:]


def test_kinds_come_as_often_as_said():
    kinds = [record["subgroup"]["kind"] for record in phantom_records(1000, 0)]
    for kind, share in KINDS.items():
        assert kinds.count(kind) / 1000 == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize(("count", "seed", "start"), [(-1, 0, 0), (1, -1, 0), (1, 0, -1), (2, 0, 2**20 - 1)])
def test_impossible_records_say_what_to_do(count, seed, start):
    with pytest.raises(InputError, match=r"There are no .* phantoms"):
        phantom_records(count, seed, start)


def test_even_tissue_gives_fully_developed_speckle():
    """The level of a Rayleigh envelope has a standard deviation of 5.57 dB and a mean power of 1."""
    medium = flat_medium()
    level = decibels(PLAIN.scan(medium.echogenicity, medium.loss, np.random.default_rng(0)))
    assert level.std() == pytest.approx(10 / math.log(10) * math.pi / math.sqrt(6), rel=0.05)
    assert 10 * np.log10(np.mean(10 ** (level / 10))) == pytest.approx(0, abs=0.6)


def test_speckle_is_wider_across_the_beam_than_along_it():
    medium = flat_medium()
    level = decibels(PLAIN.scan(medium.echogenicity, medium.loss, np.random.default_rng(0)))
    level -= level.mean()
    down = np.mean(level[2:] * level[:-2])
    across = np.mean(level[:, 2:] * level[:, :-2])
    assert across > 2 * down > 0


@pytest.mark.parametrize("loss", [12.0, -8.0])
def test_shadow_and_enhancement_are_as_deep_as_asked(loss):
    medium, outline = flat_medium(), Outline(y=90, x=160, semi_y=30, semi_x=60)
    medium.cast(outline, loss)
    level = decibels(PLAIN.scan(medium.echogenicity, medium.loss, np.random.default_rng(1)))
    assert level[140:, 150:170].mean() - level[140:, :60].mean() == pytest.approx(-loss, abs=1.5)
    assert level[:50, 150:170].mean() == pytest.approx(level[:50, :60].mean(), abs=1)


def test_refraction_shadows_hang_from_both_sides():
    medium, outline = flat_medium(), Outline(y=90, x=160, semi_y=30, semi_x=60)
    medium.add_edge_shadows(*outline.level(SHAPE), 10.0)
    columns = medium.loss.sum(axis=0)
    assert columns[100] == pytest.approx(10, rel=0.05) and columns[219] == pytest.approx(10, rel=0.05)
    assert columns[160] < 0.1 and not medium.loss[:80].any()


def test_the_mask_is_the_outline():
    medium, mask = flat_medium(), np.zeros(SHAPE, bool)
    outline = Outline(y=120, x=150, semi_y=30, semi_x=50)
    Lesion(outline=outline, contrast=-20, texture=0.0).insert(medium, mask, np.random.default_rng(0))
    y, x = np.ogrid[0.5 : SHAPE[0], 0.5 : SHAPE[1]]
    assert np.array_equal(mask, ((y - 120) / 30) ** 2 + ((x - 150) / 50) ** 2 < 1)
    # Half the change of level is reached on the outline: what a reader would draw.
    assert (medium.echogenicity < -10).sum() == pytest.approx(mask.sum(), rel=0.01)


def test_spikes_and_waves_change_the_radius():
    plain = Outline(y=100, x=100, semi_y=20, semi_x=20)
    wavy = Outline(y=100, x=100, semi_y=20, semi_x=20, waves=((0.2, 2, 0.0),))
    spiky = Outline(y=100, x=100, semi_y=20, semi_x=20, spikes=((0.5, 0.0, 0.1),))

    def reach(outline: Outline) -> tuple[int, int]:
        (rows, columns), radius = outline.level((200, 200))
        down, across = np.nonzero(radius < 1)
        return columns.start + across.max() - 100, rows.start + down.max() - 100

    assert reach(plain) == (19, 19)
    assert reach(wavy) == (23, 15)  # longer by a fifth along x, shorter along y
    assert reach(spiky)[0] >= 28 and reach(spiky)[1] == 19


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_its_look(kind):
    rng = np.random.default_rng(0)
    lesions = [draw_lesion(kind, SHAPE, (0.1, 0.8), rng) for _ in range(30)]
    contrasts = [lesion.contrast for lesion in lesions]
    assert (max(contrasts) <= -20) == (kind == "cyst")
    assert any(lesion.outline.spikes for lesion in lesions) == (kind == "spiculated")
    assert all(lesion.cavity > 0 for lesion in lesions) == (kind == "complex")


def test_smooth_fields_are_smooth_and_normalised():
    field = smooth_field(SHAPE, (5, 7), np.random.default_rng(0))
    assert field.mean() == pytest.approx(0, abs=1e-4) and field.std() == pytest.approx(1, abs=1e-4)
    assert np.abs(np.diff(field, axis=0)).max() < 0.15
    assert np.allclose(spline_weights(100, 6).sum(axis=1), 1, atol=1e-6)


def test_the_command_writes_a_plain_dataset(tmp_path, capsys):
    main(["--output", str(tmp_path / "set"), "--count", "3", "--seed", "9"])
    names = ["phantom_00000.png", "phantom_00001.png", "phantom_00002.png"]
    assert [
        sorted(path.name for path in (tmp_path / "set" / kind).iterdir()) for kind in ("images", "masks")
    ] == [
        names,
        names,
    ]
    image, mask = render_record(phantom_records(1, 9)[0])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "set/images/phantom_00000.png")), image)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "set/masks/phantom_00000.png")), mask * 255)
    assert f"--dataset_dir {tmp_path / 'set'}" in capsys.readouterr().out
