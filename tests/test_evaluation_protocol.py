"""Which prompts and controls an evaluation makes."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lmsfe_sam.errors import InputError
from lmsfe_sam.evaluation.protocol import (
    CONTROLS,
    JITTER_PERCENTS,
    MODES,
    control_mask,
    filled_box,
    inscribed_ellipse,
    jittered_box,
    mode_box,
    mode_rng,
    network_modes,
    parse_modes,
)
from lmsfe_sam.prompts.simulate import jitter_box, tight_box

some_masks = arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24))).filter(np.any)

MASK = np.zeros((256, 256), dtype=bool)
MASK[60:120, 80:180] = True


def block(shape: tuple[int, int], x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_all_modes_by_default() -> None:
    assert parse_modes(None) == parse_modes("all") == MODES


@pytest.mark.parametrize("value", ["none, box", ["none", "box"], ("none", "box", "box")])
def test_modes_keep_the_protocols_order(value: str | list[str]) -> None:
    assert parse_modes(value) == ("box", "none")


@pytest.mark.parametrize(("value", "named"), [("bax", "'bax'"), ("box,", "''"), ([], "empty"), ([3], "'3'")])
def test_an_unknown_mode_is_named_with_what_there_is(value: object, named: str) -> None:
    with pytest.raises(InputError, match=named) as caught:
        parse_modes(value)  # type: ignore[arg-type]
    assert "control_ellipse_jitter_20" in str(caught.value)


def test_controls_are_no_modes_of_the_network() -> None:
    assert network_modes(MODES) == ("box", "box_jitter_10", "box_jitter_20", "point", "clicks_5", "none")


@pytest.mark.parametrize(("percent", "mode"), [(0, "box"), (10, "box_jitter_10"), (20, "box_jitter_20")])
def test_the_curve_passes_through_the_modes(percent: int, mode: str) -> None:
    expected = mode_box(mode, MASK, seed=3, image_name="a/b.png")
    np.testing.assert_array_equal(jittered_box(percent, MASK, 3, "a/b.png"), expected)


def test_boxes_of_the_curve_stay_within_their_jitter_and_use_it() -> None:
    tight, lengths = np.array([80, 60, 180, 120]), np.array([100, 60, 100, 60])
    for percent in JITTER_PERCENTS:
        moves = np.array([jittered_box(percent, MASK, 0, f"{i}.png") for i in range(200)]) - tight
        shares = 100 * np.abs(moves) / lengths
        assert shares.max() <= percent
        assert shares.max() >= 0.95 * percent


def test_boxes_are_the_images_own_and_the_same_each_time() -> None:
    again = [jittered_box(15, MASK, 0, "a.png") for _ in range(2)]
    np.testing.assert_array_equal(*again)
    others = [
        jittered_box(25, MASK, 0, "a.png"),
        jittered_box(15, MASK, 1, "a.png"),
        jittered_box(15, MASK, 0, "b.png"),
    ]
    assert not any(np.allclose(again[0], other) for other in others)


def test_modes_keep_their_order():
    assert MODES[:6] == ("box", "box_jitter_10", "box_jitter_20", "point", "clicks_5", "none")
    assert MODES[6:] == CONTROLS


def test_ellipse_in_a_small_box():
    # Squared distances of the pixel centres in a circle of radius 3: 2.5**2 + 1.5**2 < 9 < 2 * 2.5**2.
    expected = [".####.", "######", "######", "######", "######", ".####."]
    drawn = inscribed_ellipse([0, 0, 6, 6], (6, 6))
    assert drawn.ravel().tolist() == [x == "#" for row in expected for x in row]


@given(some_masks)
def test_ellipse_lies_in_its_box_and_is_symmetric(mask):
    x0, y0, x1, y1 = box = tight_box(mask).astype(int)
    ellipse = inscribed_ellipse(box, mask.shape)
    assert not np.any(ellipse & ~filled_box(box, mask.shape))
    inner = ellipse[y0:y1, x0:x1]
    assert inner[(y1 - y0) // 2, (x1 - x0) // 2]
    assert np.array_equal(inner, inner[::-1]) and np.array_equal(inner, inner[:, ::-1])


def test_ellipse_area_is_a_quarter_of_pi_of_the_box():
    box = [13.3, 20.9, 180.2, 99.4]
    assert inscribed_ellipse(box, (256, 256)).sum() == pytest.approx(
        np.pi / 4 * (180.2 - 13.3) * (99.4 - 20.9), rel=0.01
    )


@pytest.mark.parametrize("fill", [filled_box, inscribed_ellipse])
def test_boxes_beyond_the_image_or_without_area_are_allowed(fill):
    assert fill([-5, -5, 100, 100], (20, 30))[10, 15]
    assert not fill([7, 7, 7, 12], (20, 30)).any()


def test_filled_box_takes_pixel_centres():
    drawn = filled_box([0.4, 0.6, 3.4, 3.6], (5, 5))
    assert np.array_equal(drawn, block((5, 5), 0, 1, 3, 4))


def test_mode_rng_is_seeded_by_seed_name_and_mode():
    name = "benign/benign (é).png"
    expected = np.random.default_rng([7, zlib.crc32(name.encode("utf-8")), 2]).uniform(size=3)
    assert mode_rng(7, name, "box_jitter_20").uniform(size=3).tolist() == expected.tolist()
    others = [
        mode_rng(7, name, "point"),
        mode_rng(8, name, "box_jitter_20"),
        mode_rng(7, "x", "box_jitter_20"),
    ]
    assert all(other.uniform(size=3).tolist() != expected.tolist() for other in others)


def test_jittered_controls_use_the_boxes_of_the_jittered_modes():
    mask = block((64, 64), 10, 20, 40, 50)
    for percent in (10, 20):
        box = jitter_box(
            tight_box(mask), percent / 100, np.random.default_rng([5, zlib.crc32(b"a.png"), percent // 10])
        )
        assert mode_box(f"box_jitter_{percent}", mask, 5, "a.png").tolist() == box.tolist()
        control = control_mask(f"control_ellipse_jitter_{percent}", mask, 5, "a.png")
        assert np.array_equal(control, inscribed_ellipse(box, (64, 64)))
    assert np.array_equal(control_mask("control_box", mask, 5, "a.png"), mask)


def test_modes_without_a_box():
    mask = block((8, 8), 1, 1, 4, 4)
    assert [mode_box(mode, mask, 0, "a") for mode in ("point", "clicks_5", "none")] == [None] * 3


def test_unknown_modes_and_controls_are_named() -> None:
    with pytest.raises(InputError, match="box_jitter_10"):
        mode_rng(0, "a", "boxes")
    with pytest.raises(InputError, match="control_ellipse"):
        control_mask("box", MASK, 0, "a")
