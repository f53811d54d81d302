"""Prompts made from masks: known values and properties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from lmsfe_sam.errors import InputError
from lmsfe_sam.prompts import simulate
from lmsfe_sam.prompts.simulate import (
    corrective_click,
    first_click,
    jitter_box,
    largest_error,
    random_click,
    tight_box,
)

masks = arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24)))
some_masks = masks.filter(np.any)


def block(shape: tuple[int, int], x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_tight_box_of_a_block():
    assert tight_box(block((20, 30), 4, 7, 10, 8)).tolist() == [4, 7, 10, 8]


@given(some_masks)
def test_tight_box_holds_the_mask_and_no_side_can_move_in(mask):
    x0, y0, x1, y1 = tight_box(mask).astype(int)
    inner = mask[y0:y1, x0:x1]
    assert inner.sum() == mask.sum()
    assert inner[0].any() and inner[-1].any() and inner[:, 0].any() and inner[:, -1].any()


def test_jitter_box_moves_each_side_by_its_own_draw():
    box = np.array([10.0, 20.0, 30.0, 60.0])
    moves = np.random.default_rng(3).uniform(-0.1, 0.1, size=4)
    expected = box + moves * [20, 40, 20, 40]
    assert np.allclose(jitter_box(box, 0.1, np.random.default_rng(3)), expected, atol=0)


@given(some_masks, st.integers(0, 1000))
def test_jitter_box_stays_within_its_fraction(mask, seed):
    box = tight_box(mask)
    length = np.tile(box[2:] - box[:2], 2)
    assert np.all(np.abs(jitter_box(box, 0.2, np.random.default_rng(seed)) - box) <= 0.2 * length + 1e-12)


def test_jitter_box_is_not_clipped():
    box = tight_box(np.ones((50, 50), bool))
    boxes = np.array([jitter_box(box, 0.2, np.random.default_rng(seed)) for seed in range(50)])
    assert boxes.min() < 0 and boxes.max() > 50


def test_first_click_of_a_known_shape():
    mask = block((9, 9), 2, 2, 7, 7)
    mask |= block((9, 9), 7, 4, 9, 5)  # a tail that shifts the centroid, not the deepest pixel
    assert first_click(mask) == (4, 4)


def test_first_click_breaks_ties_row_major():
    # Depth 1 everywhere in a single row, 2 in an even block's four inner pixels.
    assert first_click(block((5, 9), 3, 2, 8, 3)) == (3, 2)
    assert first_click(block((8, 8), 2, 3, 6, 7)) == (3, 4)


def test_first_click_counts_the_outside_as_background():
    assert first_click(np.ones((7, 11), bool)) == (3, 3)


@given(some_masks)
def test_first_click_is_the_argmax_of_the_whole_padded_distance_transform(mask):
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = divmod(int(np.argmax(depth)), mask.shape[1])
    assert first_click(mask) == (x, y)


@given(some_masks, st.integers(0, 1000))
def test_random_click_lies_inside(mask, seed):
    x, y = random_click(mask, np.random.default_rng(seed))
    assert mask[y, x]


def test_random_click_reaches_every_pixel():
    mask = block((6, 6), 1, 2, 3, 4)
    rng = np.random.default_rng(0)
    assert {random_click(mask, rng) for _ in range(100)} == {(1, 2), (2, 2), (1, 3), (2, 3)}


def test_corrective_click_picks_the_larger_kind():
    mask = block((20, 20), 2, 2, 12, 12)
    missed = mask & ~block((20, 20), 2, 2, 7, 7)  # 25 pixels missed
    prediction = missed | block((20, 20), 14, 14, 17, 17)  # 9 pixels too much
    assert corrective_click(mask, prediction) == ((4, 4), 1)
    prediction = missed | block((20, 20), 14, 2, 19, 20)  # 90 pixels too much
    click, label = corrective_click(mask, prediction)
    assert label == 0 and click == (16, 4)


def test_corrective_click_joins_diagonal_neighbours():
    mask = np.zeros((12, 12), bool)
    for i in range(6):
        mask[i, i] = True  # one 8-connected region of 6 pixels
    mask |= block((12, 12), 8, 1, 10, 3)  # 4 pixels
    region, label = largest_error(mask, np.zeros_like(mask))
    assert label == 1 and region.sum() == 6 and np.array_equal(region, np.eye(12, dtype=bool) & mask)


def test_touching_errors_of_two_kinds_are_two_regions():
    mask = block((10, 20), 0, 0, 6, 10)
    prediction = block((10, 20), 6, 0, 15, 10)
    region, label = largest_error(mask, prediction)
    assert label == 0 and np.array_equal(region, prediction)


def test_equal_errors_take_the_missed_then_the_first():
    mask = block((10, 20), 8, 5, 10, 7) | block((10, 20), 14, 5, 16, 7)
    prediction = block((10, 20), 0, 0, 2, 2)
    assert corrective_click(mask, prediction) == ((8, 5), 1)


@given(masks.flatmap(lambda mask: st.tuples(st.just(mask), arrays(bool, mask.shape))))
def test_corrective_click_lands_on_an_error_of_its_kind(pair):
    mask, prediction = pair
    answer = corrective_click(mask, prediction)
    if answer is None:
        assert np.array_equal(mask, prediction)
        return
    (x, y), label = answer
    assert mask[y, x] == bool(label) and prediction[y, x] != mask[y, x]
    sizes = [0]
    for wrong in (mask & ~prediction, prediction & ~mask):
        regions, count = ndimage.label(wrong, np.ones((3, 3)))
        sizes += [int((regions == number + 1).sum()) for number in range(count)]
    assert largest_error(mask, prediction)[0].sum() == max(sizes)


@given(masks.flatmap(lambda mask: st.tuples(st.just(mask), arrays(bool, mask.shape))))
@settings(max_examples=50)
def test_mending_the_largest_region_again_and_again_ends_at_the_mask(pair):
    mask, prediction = pair
    for _ in range(mask.size):
        error = largest_error(mask, prediction)
        if error is None:
            break
        region, label = error
        prediction = prediction | region if label else prediction & ~region
    assert np.array_equal(mask, prediction)


def test_bad_input_says_what_to_do():
    empty = np.zeros((5, 5), bool)
    for generator in (tight_box, first_click, lambda mask: random_click(mask, np.random.default_rng(0))):
        with pytest.raises(InputError, match="empty mask"):
            generator(empty)
    with pytest.raises(InputError, match=r"\(1, 5, 5\)"):
        tight_box(empty[None])


def test_the_module_is_light():
    source = Path(simulate.__file__).read_text()
    assert not any(
        line.startswith(("import scipy", "from scipy", "import torch")) for line in source.splitlines()
    )
