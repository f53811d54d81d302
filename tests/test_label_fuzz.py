"""Whatever JSON a client sends, a request's parameters are read or refused in one short sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzing import is_sentence
from lmsfe_sam.errors import InputError
from lmsfe_sam.label.checks import (
    check_inference,
    check_tag,
    is_plain,
    read_info,
    read_parameters,
    whole_number,
)
from lmsfe_sam.label.request import check_result, chosen_slice, read_prompt

OFTEN = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
LEAF |= st.sampled_from([10**30, -(10**400), 2**31, float("nan"), "../x", "a\x00b", "cpu", "cuda:9", ".png"])
VALUE = st.recursive(
    LEAF,
    lambda one: st.lists(one, max_size=6) | st.dictionaries(st.text(max_size=4), one, max_size=3),
    max_leaves=10,
)
NUMBER = st.integers(-3, 60) | st.floats(-1e3, 1e3)
NUMBERS = st.lists(NUMBER, min_size=2, max_size=6)
KEYS = ["foreground", "background", "roi", "slice", "result_extension", "result_dtype", "device", "label_tag"]
KEYS += ["logging", "model_filename", "result_compress", "save_label", "max_images", "image_path", "other"]
REQUEST = st.dictionaries(st.sampled_from(KEYS), VALUE | NUMBERS | st.lists(NUMBERS, max_size=3), max_size=5)


def read(call: Any, *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except InputError as error:
        assert is_sentence(str(error)), str(error)[:600]
        return None


@OFTEN
@given(REQUEST, st.none() | st.integers(0, 9))
def test_a_request(tmp_path: Path, parameters: dict[str, Any], index: int | None) -> None:
    read(check_result, parameters)
    read(check_inference, parameters, tmp_path)
    read(whole_number, parameters, "max_images")
    chosen = read(chosen_slice, parameters)
    assert chosen is None or (isinstance(chosen, int) and chosen >= 0)
    prompt = read(read_prompt, parameters, index)
    if prompt is not None and prompt.box is not None:
        assert prompt.box[0] < prompt.box[2] and prompt.box[1] < prompt.box[3]


@OFTEN
@given(st.text(max_size=60) | VALUE.map(json.dumps) | REQUEST.map(json.dumps))
def test_a_form_field(text: str) -> None:
    for call in (read_parameters, read_info):
        content = read(call, text)
        assert content is None or isinstance(content, dict)


@OFTEN
@given(VALUE | st.text(alphabet="./\\~:%\x00a", max_size=8))
def test_a_tag_that_is_taken_is_one_name(tag: Any) -> None:
    try:
        check_tag(tag)
    except InputError as error:
        assert is_sentence(str(error))
        return
    assert is_plain(tag) and "/" not in tag and "\\" not in tag and tag not in (".", "..")


def test_the_deepest_and_the_longest() -> None:
    for text in ("[" * 10**5, '{"a":' * 10**5, '{"slice": ' + "9" * 10**5 + "}", '"' + "x" * 10**6 + '"'):
        assert read(read_parameters, text) is None
    for key in ("slice", "roi", "foreground"):
        for value in (10**6000, [10**6000] * 4, [[10**6000, 1]], "x" * 10**6, [["x" * 10**6]]):
            read(chosen_slice, {key: value})
            read(read_prompt, {key: value}, None)
