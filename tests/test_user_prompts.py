"""What users say about objects is checked before anything is done with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsfe_sam.errors import InputError
from lmsfe_sam.prompts.prompt import MAX_POINTS, ObjectPrompt, Prompts
from lmsfe_sam.prompts.prompts_file import MAX_OBJECTS, check_names, read_objects, read_prompts
from prompt_rows import prompt_rows

EXAMPLE = {
    "case_12.png": {
        "objects": [
            {"box": [30, 42, 180, 171]},
            {"points": [[250, 90], [260, 120]], "labels": [1, 0]},
            {"box": [10, 10, 60, 70], "points": [[33, 41]], "labels": [1]},
        ]
    }
}

COORDINATES = st.floats(0, 500)
BOXES = st.tuples(*[COORDINATES] * 2, *[st.floats(501, 999)] * 2)
CLICKS = st.lists(st.tuples(COORDINATES, COORDINATES, st.integers(0, 1)), max_size=4)


@st.composite
def object_prompts(draw: st.DrawFn) -> ObjectPrompt:
    clicks = draw(CLICKS)
    return ObjectPrompt(draw(st.none() | BOXES), [c[:2] for c in clicks], [c[2] for c in clicks])


def write(folder: Path, content: object) -> Path:
    path = folder / "prompts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


class TestObjectPrompt:
    def test_arrays_and_lists_become_tuples(self) -> None:
        prompt = ObjectPrompt(np.array([1, 2, 3, 4]), np.array([[5, 6]]), np.array([0]))
        assert prompt == ObjectPrompt([1, 2, 3, 4], [[5, 6]], [0])
        assert prompt.box == (1.0, 2.0, 3.0, 4.0)
        assert prompt.points == ((5.0, 6.0),)
        assert prompt.labels == (0,)

    @pytest.mark.parametrize("points", [[[1, 2]] * (MAX_POINTS + 1), np.ones((10**6, 2)), [7] * 10**6])
    def test_more_clicks_than_memory_is_for_are_refused(self, points: Any) -> None:
        with pytest.raises(InputError, match=r"there are \d+ points on one object: give 500 at most"):
            ObjectPrompt(points=points)
        assert len(ObjectPrompt(points=[[1, 2]] * MAX_POINTS).labels) == MAX_POINTS

    def test_more_objects_than_a_label_map_has_numbers_are_refused(self) -> None:
        with pytest.raises(InputError, match=r"there are 65536 objects: give 65535 at most"):
            read_objects([{}] * (MAX_OBJECTS + 1), "its prompts")

    def test_points_without_labels_are_inside(self) -> None:
        assert ObjectPrompt(points=[[1, 2], [3, 4]]).labels == (1, 1)
        assert ObjectPrompt(None, None, None) == ObjectPrompt()

    def test_it_is_true_if_it_says_something(self) -> None:
        assert not ObjectPrompt()
        assert ObjectPrompt(box=[0, 0, 1, 1])
        assert ObjectPrompt(points=[[0, 0]])

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"box": [180, 42, 30, 171]}, "inverted"),
            ({"box": [30, 171, 180, 42]}, "inverted"),
            ({"box": [30, 42, 30, 171]}, "no area"),
            ({"box": [30, 42, 180, 42]}, "no area"),
            ({"box": [30, 42, 180]}, r"\[x0, y0, x1, y1\]"),
            ({"box": [[30, 42, 180, 171]]}, r"\[x0, y0, x1, y1\]"),
            ({"box": 7}, r"\[x0, y0, x1, y1\]"),
            ({"box": [0, 0, float("nan"), 5]}, "in numbers"),
            ({"box": [0, 0, float("inf"), 5]}, "in numbers"),
            ({"box": [0, 0, 10**400, 5]}, "in numbers"),
            ({"box": [0, 0, "9", 5]}, "in numbers"),
            ({"box": [False, 0, True, 5]}, "in numbers"),
            ({"points": [250, 90]}, r"\[x, y\]"),
            ({"points": [[250, 90, 1]]}, r"\[x, y\]"),
            ({"points": 5}, r"\[x, y\] pairs"),
            ({"points": [[1, 2]], "labels": [1, 0]}, "1 point but 2 labels"),
            ({"points": [[1, 2], [3, 4]], "labels": [1]}, "2 points but 1 label:"),
            ({"labels": [1]}, "0 points but 1 label:"),
            ({"points": [[1, 2]], "labels": [2]}, "label 2"),
            ({"points": [[1, 2]], "labels": [-1]}, "label -1"),
            ({"points": [[1, 2]], "labels": [True]}, "label True"),
            ({"points": [[1, 2]], "labels": ["1"]}, "label '1'"),
            ({"points": [[1, 2]], "labels": [0.5]}, r"label 0\.5"),
        ],
    )
    def test_nonsense_is_refused(self, arguments: dict, words: str) -> None:
        with pytest.raises(InputError, match=words):
            ObjectPrompt(**arguments)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"box": [400, 42, 500, 171]}, r"box \[400, 42, 500, 171\] lies outside .* 400 x 300"),
            ({"box": [-5, 42, 0, 171]}, "lies outside"),
            ({"box": [30, -9, 180, 0]}, "lies outside"),
            ({"box": [30, 300, 180, 301]}, "lies outside"),
            ({"points": [[400, 90]]}, r"point \[400, 90\] lies outside .* 400 x 300"),
            ({"points": [[10, 10], [90, 300]]}, r"point \[90, 300\]"),
            ({"points": [[-0.5, 90]]}, "lies outside"),
        ],
    )
    def test_what_lies_outside_the_image_is_refused(self, arguments: dict, words: str) -> None:
        with pytest.raises(InputError, match=words):
            ObjectPrompt(**arguments).check_inside(300, 400)

    def test_the_whole_image_is_inside(self) -> None:
        ObjectPrompt(box=[0, 0, 400, 300], points=[[0, 0], [399.9, 299]]).check_inside(300, 400)

    def test_a_box_may_hang_over_where_that_is_allowed(self) -> None:
        ObjectPrompt(box=[-20, 42, 500, 171]).check_inside(300, 400)
        with pytest.raises(InputError, match="lies outside"):
            ObjectPrompt(box=[400, 42, 500, 171]).check_inside(300, 400)
        with pytest.raises(InputError, match="lies outside"):
            ObjectPrompt(points=[[-1, 0]]).check_inside(300, 400)


class TestReadPrompts:
    def test_the_documented_example(self, tmp_path: Path) -> None:
        assert read_prompts(write(tmp_path, EXAMPLE)) == {
            "case_12.png": [
                ObjectPrompt(box=(30, 42, 180, 171)),
                ObjectPrompt(points=((250, 90), (260, 120)), labels=(1, 0)),
                ObjectPrompt(box=(10, 10, 60, 70), points=((33, 41),), labels=(1,)),
            ]
        }

    def test_null_is_as_good_as_nothing(self, tmp_path: Path) -> None:
        path = write(tmp_path, {"a.png": {"objects": [{"box": None, "points": [[1, 2]]}]}})
        assert read_prompts(path) == {"a.png": [ObjectPrompt(points=((1, 2),), labels=(1,))]}

    def test_a_byte_order_mark_and_umlauts(self, tmp_path: Path) -> None:
        path = tmp_path / "p.json"
        path.write_bytes(
            json.dumps({"bl\u00e4schen.png": {"objects": [{"box": [0, 0, 1, 1]}]}}).encode("utf-8-sig")
        )
        assert list(read_prompts(path)) == ["bl\u00e4schen.png"]

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ('{"a.png": {"objects": [}}', r"prompts\.json' is not JSON .*line 1, column 24"),
            ('{\n"a.png":\n  nonsense}', "line 3, column 3"),
            ("", "line 1, column 1"),
            ('{"a": {"objects": [{"box": [NaN, 0, 1, 1]}]}}', "NaN is not a coordinate"),
            ('{"a": {"objects": [{"box": [0, 0, 1e999, 1]}]}}', "in numbers"),
            ('{"a": {"objects": [{"box": [0, 0, ' + "9" * 5000 + ", 1]}]}}", "not JSON"),
            ("[" * 100_000, "not JSON"),
            ('{"a.png": {"objects": []}, "a.png": {"objects": []}}', "'a.png' is there twice"),
            ([], "holds a list"),
            ({"a.png": []}, r"'a\.png': give \{\"objects\""),
            ({"a.png": {"boxes": []}}, r"'a\.png': give \{\"objects\""),
            ({"a.png": {"objects": {}}}, r"'a\.png': give \{\"objects\""),
            ({"a.png": {"objects": []}}, "list of objects is empty"),
            ({"a.png": {"objects": [[1, 2, 3, 4]]}}, "object 1 is a list"),
            ({"a.png": {"objects": [{"box": [0, 0, 1, 1]}, {}]}}, "object 2 has neither"),
            ({"a.png": {"objects": [{"points": []}]}}, "object 1 has neither"),
            ({"a.png": {"objects": [{"bbox": [0, 0, 1, 1]}]}}, "unknown key 'bbox'"),
            ({"a.png": {"objects": [{"points": "12"}]}}, "points is a text"),
            ({"a.png": {"objects": [{"points": [[1, 2]], "labels": 1}]}}, "labels is a number"),
            (
                {"a.png": {"objects": [{"box": [9, 0, 1, 1]}]}},
                r"'a\.png', object 1: the box \[9, 0, 1, 1\] is inverted",
            ),
            ({"a.png": {"objects": [{"points": [[1, 2]], "labels": [3]}]}}, "label 3"),
        ],
    )
    def test_a_bad_file_is_refused_in_one_sentence(self, tmp_path: Path, content: object, words: str) -> None:
        with pytest.raises(InputError, match=words) as caught:
            read_prompts(write(tmp_path, content))
        message = str(caught.value)
        assert "\n" not in message
        assert message.startswith("prompts file '")

    def test_no_file_and_no_text(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"prompts file '.*none\.json' does not exist"):
            read_prompts(tmp_path / "none.json")
        with pytest.raises(InputError, match="cannot be read"):
            read_prompts(tmp_path)
        (tmp_path / "picture.json").write_bytes(b"\x89PNG\r\n\xff\xfe")
        with pytest.raises(InputError, match="not JSON"):
            read_prompts(tmp_path / "picture.json")


class TestCheckNames:
    def test_known_names_pass(self) -> None:
        check_names({"a.png": []}, ["b.png", "a.png"], "p.json")

    def test_near_names_are_listed(self) -> None:
        with pytest.raises(
            InputError, match=r"'case_12\.jpg', which is not among the inputs: did you mean 'case_12\.png'"
        ):
            check_names({"case_12.jpg": []}, ["case_12.png", "other.png"], "p.json")

    def test_nothing_near(self) -> None:
        with pytest.raises(InputError, match=r"p\.json' names 'zzz'.*correct or remove"):
            check_names({"zzz": []}, ["case_12.png"], "p.json")


class TestPrompts:
    @given(st.lists(object_prompts(), min_size=1, max_size=5))
    def test_objects_as_tensors(self, prompts: list[ObjectPrompt]) -> None:
        rows = prompt_rows(Prompts.of(prompts))
        assert len(rows) == len(prompts)
        for prompt, row in zip(prompts, rows, strict=True):
            box, clicks = row[:4], row[4:].reshape(-1, 3)
            assert np.isnan(box).all() if prompt.box is None else tuple(box) == prompt.box
            count = len(prompt.points)
            assert [tuple(p) for p in clicks[:count, :2]] == list(prompt.points)
            assert clicks[:, 2].tolist() == [*prompt.labels, *[-1] * (len(clicks) - count)]

    def test_nothing_is_one_unprompted_object(self) -> None:
        assert list(Prompts.of([]).given()) == ["boxes"]
        assert np.isnan(prompt_rows(Prompts.of([]))).tolist() == [[True] * 4]

    @given(st.lists(object_prompts(), max_size=4), st.tuples(*[st.integers(1, 3000)] * 4))
    def test_scaling_there_and_back(
        self, prompts: list[ObjectPrompt], sides: tuple[int, int, int, int]
    ) -> None:
        here, there = sides[:2], sides[2:]
        tensors = Prompts.of(prompts)
        there_and_back = prompt_rows(tensors.scale(here, there).scale(there, here))
        np.testing.assert_allclose(there_and_back, prompt_rows(tensors), rtol=1e-12, atol=1e-9)

    def test_scaling_leaves_labels_alone(self) -> None:
        tensors = Prompts.of([ObjectPrompt([2, 4, 6, 8], [[10, 20]], [0]), ObjectPrompt()])
        scaled = prompt_rows(tensors.scale((100, 50), (200, 200)))
        assert scaled[0].tolist() == [8, 8, 24, 16, 40, 40, 0]
        assert scaled[1, 4:].tolist() == [0, 0, -1]
