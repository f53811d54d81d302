"""What is refused on a command line before anything is built."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lmsfe_sam.errors import InputError
from lmsfe_sam.settings import (
    check_command_line,
    check_device,
    check_values,
    given_keys,
    mapping,
    one_of,
    real,
    some_of,
    text,
    text_or_texts,
    true_or_false,
    whole,
    whole_numbers,
)


def test_keys_are_read_in_every_way_that_fire_reads_them() -> None:
    words = ["run", "training", "--epochs", "3", "--amp", "--output-dir=a=b", "--learning_rate", "-1"]
    assert given_keys(words) == {"epochs": "3", "amp": "True", "output_dir": "a=b", "learning_rate": "-1"}


@pytest.fixture
def configs(tmp_path: Path) -> list[str]:
    (tmp_path / "a.json").write_text(json.dumps({"dataset_dir": None, "train": {}, "train#more": 1}))
    (tmp_path / "b.json").write_text(json.dumps({"preset": "vit_t", "+imports": []}))
    return [str(tmp_path / "a.json"), str(tmp_path / "b.json")]


@pytest.mark.parametrize(
    "key",
    ["dataset_dir", "dataset-dir", "preset", "train#trainer#max_epochs", "train::x", "imports", "run_id"],
)
def test_keys_of_the_configs_and_of_monai_are_known(configs: list[str], key: str) -> None:
    check_command_line(["run", "--config_file", str(configs), f"--{key}", "1"])


@pytest.mark.parametrize("spelling", [str, ",".join])
def test_a_misspelt_key_is_refused_with_the_nearest_one(configs: list[str], spelling: Any) -> None:
    with pytest.raises(InputError, match=r"--data_dir .*did you mean --dataset_dir\?"):
        check_command_line(["run", "--config_file", spelling(configs), "--data_dir", "x"])


def test_other_programs_are_left_alone() -> None:
    check_command_line(["--data_dir", "x"])
    check_command_line()


GOOD = [
    (whole(1), [1, 7]),
    (whole(0, or_none=True), [0, None]),
    (real(0, 1), [1, 0.5, 1e-9]),
    (real(0, 1, low_included=True), [0, 1]),
    (real(0, or_none=True), [None, 1e9]),
    (true_or_false(), [True, False]),
    (text(), ["a"]),
    (text(or_none=True), [None, "a"]),
    (one_of(["a", "b"]), ["b"]),
    (some_of(["a", "b"]), [["a"], ["b", "a"]]),
    (text_or_texts(or_none=True), [None, "a", ["a", "b"]]),
    (whole_numbers(1, or_none=True), [None, [1], [1, 7]]),
    (mapping(), [{}, {"a": 1}]),
]
BAD = [
    (whole(1), [0, 1.0, "1", True, None]),
    (real(0, 1), [0, 1.1, "1e-4", True, math.nan, None]),
    (real(0, low_included=True), [-1, math.inf]),
    (true_or_false(), ["True", 1, None]),
    (text(), ["", None, 3]),
    (one_of(["a", "b"]), ["c", None, ["a"]]),
    (some_of(["a", "b"]), [[], "a", ["c"], ["a", "a"], [1], None]),
    (text_or_texts(), [None, "", [], [""], ["a", 3], 3]),
    (whole_numbers(1), [None, 1, [], [0], [1.0], [True], "1"]),
    (mapping(), [["a"], "a"]),
]


@pytest.mark.parametrize(("rule", "values"), GOOD)
def test_right_values_pass(rule: Any, values: list[Any]) -> None:
    for value in values:
        check_values({"key": rule}, {"key": value})


@pytest.mark.parametrize(("rule", "values"), BAD)
def test_wrong_values_are_refused_with_key_value_and_remedy(rule: Any, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(InputError) as error:
            check_values({"key": rule}, {"key": value})
        assert str(error.value) == f"key is {value!r}: give {rule[1]} with --key."


def test_devices() -> None:
    check_device("cpu")
    for device in ("gpu", "cuda:99", "", None, 3):
        with pytest.raises(InputError, match="cpu"):
            check_device(device)
