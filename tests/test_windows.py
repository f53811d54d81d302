"""Windows: where they lie, what prompts are in them, and their tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsfe_sam.predict import preprocessing
from lmsfe_sam.predict.preprocessing import load_windows, prepare
from lmsfe_sam.prompts.coordinates import Window, full_window, window_around
from lmsfe_sam.prompts.prompt import ObjectPrompt, Prompts
from prompt_rows import prompt_rows

WINDOW = Window(top=100, left=200, height=64, width=32)
"""Rows 100 to 163, columns 200 to 231."""


def concerned(prompt: ObjectPrompt, window: Window = WINDOW) -> bool:
    return bool(Prompts.of([prompt]).relevant_to(window)[0])


def clipped(*prompts: ObjectPrompt) -> list[list[float]]:
    return np.nan_to_num(prompt_rows(Prompts.of(prompts).clip(WINDOW)), nan=-9).tolist()


def box(*sides: float) -> ObjectPrompt:
    return ObjectPrompt(box=sides)


def click(x: float, y: float, label: int = 1) -> ObjectPrompt:
    return ObjectPrompt(points=[(x, y)], labels=[label])


class TestConcern:
    @pytest.mark.parametrize(
        ("sides", "expected"),
        [
            ((199, 99, 201, 101), True),
            ((199, 99, 200, 101), False),  # x1 is exclusive
            ((199, 99, 201, 100), False),
            ((231, 163, 240, 170), True),  # the window's last pixel
            ((232, 163, 240, 170), False),
            ((231, 164, 240, 170), False),
            ((0, 0, 999, 999), True),
        ],
    )
    def test_a_box_by_its_area(self, sides: tuple[float, ...], expected: bool) -> None:
        assert concerned(box(*sides)) is expected

    @pytest.mark.parametrize(
        ("x", "y", "expected"),
        [(200, 100, True), (231, 163, True), (232, 163, False), (231, 164, False), (199, 100, False)],
    )
    def test_a_click_by_its_pixel(self, x: float, y: float, expected: bool) -> None:
        assert concerned(click(x, y)) is expected

    def test_a_negative_click_needs_no_window_unless_it_is_alone(self) -> None:
        outside_here = ((10, 10), (210, 110))
        assert not concerned(ObjectPrompt(points=outside_here, labels=(1, 0)))
        assert concerned(ObjectPrompt(points=outside_here, labels=(0, 0)))
        assert not concerned(ObjectPrompt(box=(0, 0, 9, 9), points=[(210, 110)], labels=[0]))
        assert concerned(ObjectPrompt(box=(0, 0, 9, 9), points=[(210, 110)], labels=[1]))

    def test_nothing_is_everywhere(self) -> None:
        prompts = Prompts.of([ObjectPrompt(), box(0, 0, 5, 5), click(7, 7, 0)])
        assert (prompts.has_box() | (prompts.clicks() > 0)).tolist() == [False, True, True]
        assert prompts.relevant_to(WINDOW).tolist() == [True, False, False]
        assert Prompts.of([]).relevant_to(WINDOW).tolist() == [True]


class TestClipping:
    def test_boxes_are_cut_and_moved(self) -> None:
        assert clipped(box(190, 110, 210, 500)) == [[0, 10, 10, 64]]
        assert clipped(box(210.5, 110.25, 220, 120)) == [[10.5, 10.25, 20, 20]]
        assert clipped(box(0, 0, 999, 999)) == [[0, 0, 32, 64]]

    def test_boxes_outside_are_none(self) -> None:
        assert clipped(box(0, 0, 200, 120)) == [[-9] * 4]  # they share an edge
        assert clipped(box(232, 164, 240, 170)) == [[-9] * 4]

    def test_one_pixel_at_the_border(self) -> None:
        assert clipped(box(231, 163, 400, 400)) == [[31, 63, 32, 64]]

    def test_clicks_move_and_those_outside_become_padding(self) -> None:
        prompt = ObjectPrompt(points=[(199, 100), (200, 100), (231, 163), (232, 163)], labels=[1, 0, 1, 1])
        (row,) = clipped(prompt)
        assert row[4:] == [0, 0, -1, 0, 0, 0, 31, 63, 1, 0, 0, -1]

    @given(st.lists(st.floats(-50, 400), min_size=4, max_size=4))
    def test_a_box_that_touches_keeps_some_area(self, values: list[float]) -> None:
        x0, x1 = sorted(values[:2])
        y0, y1 = sorted(values[2:])
        if x0 == x1 or y0 == y1:
            return
        prompts = Prompts.of([box(x0, y0, x1, y1)])
        inside = prompt_rows(prompts.clip(WINDOW))[0]
        assert bool(prompts.relevant_to(WINDOW)[0]) is not bool(np.isnan(inside).any())
        if prompts.relevant_to(WINDOW)[0]:
            assert inside[0] >= 0 and inside[1] >= 0 and inside[2] <= 32 and inside[3] <= 64
            assert (inside[2:] > inside[:2]).all()


class TestWindowAround:
    def test_the_box_is_in_the_middle(self) -> None:
        assert window_around((100, 200, 140, 220), (500, 600), share=0.5) == Window(190, 80, 40, 80)
        assert window_around((100, 200, 140, 220), (500, 600), share=0.5, min_side=60) == Window(
            180, 80, 60, 80
        )

    def test_it_is_moved_into_the_image_and_at_last_cut(self) -> None:
        assert window_around((0, 480, 40, 500), (500, 600), share=0.5) == Window(460, 0, 40, 80)
        assert window_around((0, 0, 500, 500), (500, 600), share=0.5) == Window(0, 0, 500, 600)
        assert window_around((-40, 10, 40, 20), (500, 600), share=0.5) == Window(5, 0, 20, 80)

    @given(
        st.tuples(st.integers(1, 300), st.integers(1, 300)),
        st.lists(st.floats(0, 1), min_size=4, max_size=4),
        st.floats(0.05, 1),
        st.integers(1, 64),
    )
    @settings(max_examples=200)
    def test_it_holds_the_box(
        self, size: tuple[int, int], corners: list[float], share: float, min_side: int
    ) -> None:
        x0, x1 = (side * size[1] for side in sorted(corners[:2]))
        y0, y1 = (side * size[0] for side in sorted(corners[2:]))
        window = window_around((x0, y0, x1, y1), size, share, min_side)
        rows, columns = window.slices
        assert 0 <= rows.start < rows.stop <= size[0] and 0 <= columns.start < columns.stop <= size[1]
        assert rows.start <= y0 + 1 and rows.stop >= y1 - 1
        assert columns.start <= x0 + 1 and columns.stop >= x1 - 1


class TestLoading:
    IMAGE = np.random.default_rng(0).integers(0, 256, (90, 140, 3), np.uint8)
    TENSOR = torch.from_numpy(IMAGE).permute(2, 0, 1)

    def test_the_tensor_of_the_part_alone(self) -> None:
        parts = [full_window((90, 140)), Window(10, 100, 80, 40), Window(0, 0, 64, 64), Window(89, 139, 1, 1)]
        loaded = load_windows(self.TENSOR, parts, side=64)
        assert loaded.shape == (4, 3, 64, 64)
        for part, window in zip(loaded, parts, strict=True):
            torch.testing.assert_close(part, prepare(self.IMAGE[window.slices], 64), rtol=0, atol=1e-5)

    def test_strips_give_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = load_windows(self.TENSOR, [full_window((90, 140))], side=64)
        for pixels in (140 * 89, 140 * 7, 1):
            monkeypatch.setattr(preprocessing, "PIXELS_AT_ONCE", pixels)
            loaded = load_windows(self.TENSOR, [full_window((90, 140))], side=64)
            torch.testing.assert_close(loaded, expected, rtol=0, atol=1e-4)
