"""Which prompts an evaluation makes."""

from __future__ import annotations

import numpy as np
import pytest

from lmsfe_sam.errors import InputError
from lmsfe_sam.evaluation.protocol import JITTER_PERCENTS, jittered_box, network_modes, parse_modes
from lmsfe_sam.prompts.simulate import MODES, mode_box

MASK = np.zeros((256, 256), dtype=bool)
MASK[60:120, 80:180] = True


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
