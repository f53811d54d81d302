"""What is refused on a command line before anything is built."""

from __future__ import annotations

import json
import math
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from monai.bundle import ConfigParser
from pydantic import Field

from lmsfe_sam.errors import InputError
from lmsfe_sam.inference.writers.label_maps import DICOM_SUFFIX, OUTPUT_SUFFIXES
from lmsfe_sam.options import (
    SECTIONS,
    InferenceOptions,
    NotNegative,
    Options,
    Positive,
    Rate,
    Share,
    Text,
    TrainingOptions,
    check_options,
    describe,
    options_page,
)
from lmsfe_sam.settings import (
    check_command_line,
    given_keys,
    plain_errors_of_command,
)
from lmsfe_sam.stopping import SIGNALS


def test_keys_are_read_in_every_way_that_fire_reads_them() -> None:
    words = ["run", "training", "--epochs", "3", "--amp", "--output-dir=a=b", "--learning_rate", "-1"]
    assert given_keys(words) == {"epochs": "3", "amp": "True", "output_dir": "a=b", "learning_rate": "-1"}


@pytest.fixture
def configs(tmp_path: Path) -> list[str]:
    trainer = {"_target_": "SupervisedTrainer", "max_epochs": 1}
    content = {"dataset_dir": None, "imports": [], "train": {"trainer": trainer}, "train#more": 1}
    runs = {"run": ["$print(1)"], "training": "%run", "validation_modes": ["box"]}
    (tmp_path / "a.json").write_text(json.dumps({**content, **runs}))
    (tmp_path / "b.json").write_text(json.dumps({"preset": "vit_t", "+imports": [], "train#list": [{}]}))
    return [str(tmp_path / "a.json"), str(tmp_path / "b.json")]


@pytest.mark.parametrize(
    "key",
    [
        *("dataset_dir", "dataset-dir", "preset", "train#trainer#max_epochs", "train::x", "imports"),
        *("run_id=run", "train#trainer#amp", "train#trainer#_disabled_", "train#list#0#x"),
    ],
)
def test_keys_of_the_configs_and_of_monai_are_known(configs: list[str], key: str) -> None:
    check_command_line(["run", "--config_file", str(configs), f"--{key}", *([] if "=" in key else ["one"])])


@pytest.mark.parametrize("dashes", ["-", "--"])
@pytest.mark.parametrize(
    "typed",
    [
        *("$__import__('os').getcwd()", "@seed", "%a.png", "2023_01_05", "0x10", "1e5", "12", "a,b"),
        *("['a', '$b']", "{a: b}"),
    ],
)
@pytest.mark.parametrize("key", ["input", "dataset_dir", "output_dir", "checkpoint", "prompts", "resume"])
def test_a_path_that_would_not_be_a_name_is_refused_with_the_remedy(
    key: str, typed: str, dashes: str
) -> None:
    with pytest.raises(InputError, match=r"\./"):
        check_command_line(["run", f"{dashes}{key}", typed])


@pytest.mark.parametrize("typed", ["scan#1.png", "./Patient #12", "['a', 'b#c']"])
def test_a_path_with_a_number_sign_is_refused_with_another_remedy(typed: str) -> None:
    with pytest.raises(InputError, match=r"holds #.*rename"):
        check_command_line(["run", "--input", typed])


@pytest.mark.parametrize(
    "typed",
    ["./%a.png", "a%b.png", "./@x", "./2023_01_05", "./$x", "a b.png", "2023-01-05", "None", "['a', 'b']"],
)
def test_a_path_that_is_a_name_passes(typed: str) -> None:
    check_command_line(["run", "--dataset_dir", typed])


@pytest.mark.parametrize("spelling", [str, ",".join])
def test_a_misspelt_key_is_refused_with_the_nearest_one(configs: list[str], spelling: Any) -> None:
    with pytest.raises(InputError, match=r"--data_dir .*did you mean --dataset_dir\?"):
        check_command_line(["run", "--config_file", spelling(configs), "--data_dir", "x"])


def test_other_programs_are_left_alone() -> None:
    check_command_line(["--data_dir", "x"])
    check_command_line()


@pytest.mark.parametrize("key", ["help", "mhpm", "in_parts", "xyz"])
def test_no_hint_where_nothing_is_near(configs: list[str], key: str) -> None:
    with pytest.raises(InputError, match=f"--{key} is not an option") as error:
        check_command_line(["run", "--config_file", str(configs), f"--{key}", "1"])
    assert "did you mean" not in str(error.value)
    assert ("it belongs to training (train.json)" in str(error.value)) == (key == "mhpm")


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("train#trainer#max_epoch", r"takes no max_epoch, did you mean --train#trainer#max_epochs\?"),
        ("train#trainer#xyz", r"SupervisedTrainer takes no xyz\."),
        ("train#traner#max_epochs", "there is no traner in it"),
        ("train#list#7#x", "there is no 7 in it"),
    ],
)
def test_a_misspelt_nested_key_is_refused(configs: list[str], key: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        check_command_line(["run", "--config_file", str(configs), f"--{key}", "1"])


def test_a_component_given_anew_as_a_whole_has_arguments_of_its_own(configs: list[str]) -> None:
    check_command_line(["run", "--config_file", str(configs), "--train", "{}", "--train#trainer#x", "1"])


@pytest.mark.parametrize(
    "words", [("run",), ("run", "training"), ("run", "--run_id", "training"), ("run", "run")]
)
def test_the_runs_of_a_config_are_known(configs: list[str], words: tuple[str, ...]) -> None:
    check_command_line([*words, "--config_file", str(configs)])


@pytest.mark.parametrize("run_id", ["train", "trainning", "validation_modes", "imports", "dataset_dir"])
def test_a_run_that_no_config_has_is_refused(configs: list[str], run_id: str) -> None:
    with pytest.raises(InputError, match=rf"'{run_id}' is not a run of .*: give one of run, training\."):
        check_command_line(["run", run_id, "--config_file", str(configs)])


# --- types and ranges -----------------------------------------------------------------------------


class Kinds(Options):
    """An option of each kind that the configs have."""

    whole: Positive
    whole_or_null: NotNegative | None
    rate: Rate
    share: Share
    above: Annotated[float, Field(gt=0)] | None
    from_zero: Annotated[float, Field(ge=0)]
    flag: bool
    flag_or_null: bool | None
    text: Text
    text_or_null: Text | None
    choice: Literal["a", "b"]
    choice_or_null: Literal["a", "b"] | None
    side: Literal["native"] | Positive
    texts: Text | Annotated[list[Text], Field(min_length=1)] | None
    numbers: Annotated[list[Positive], Field(min_length=1)] | None
    mapping: dict[str, Any]


WORDS = {
    "whole": "a whole number of at least 1",
    "whole_or_null": "a whole number of at least 0 or null",
    "rate": "a number above 0 up to 1",
    "share": "a number from 0 up to 1",
    "above": "a number above 0 or null",
    "from_zero": "a number from 0",
    "flag": "True or False",
    "flag_or_null": "True or False or null",
    "text": "a name or path",
    "text_or_null": "a name or path or null",
    "choice": "one of a, b",
    "choice_or_null": "one of a, b, or null",
    "side": "native or a whole number of at least 1",
    "texts": "a name or path or null, or a list of them",
    "numbers": "a list of whole numbers of at least 1 or null",
    "mapping": "names with their values in braces",
}
GOOD: dict[str, list[Any]] = {
    "whole": [1, 7],
    "whole_or_null": [0, None],
    "rate": [1, 0.5, 1e-9],
    "share": [0, 1],
    "above": [None, 1e9],
    "flag": [True, False],
    "flag_or_null": [None, True],
    "text": ["a"],
    "text_or_null": [None, "a"],
    "choice": ["b"],
    "choice_or_null": [None, "a"],
    "side": ["native", 3],
    "texts": [None, "a", ["a", "b"]],
    "numbers": [None, [1], [1, 7]],
    "mapping": [{}, {"a": 1}],
}
BAD: dict[str, list[Any]] = {
    "whole": [0, 1.0, "1", True, None],
    "rate": [0, 1.1, "1e-4", True, math.nan, None],
    "from_zero": [-1, math.inf],
    "flag": ["True", 1, None],
    "text": ["", None, 3],
    "choice": ["c", None, ["a"]],
    "side": ["natives", 0, 2.0, None],
    "texts": ["", [], [""], ["a", 3], 3],
    "numbers": [1, [], [0], [1.0], [True], "1"],
    "mapping": [["a"], "a"],
}


@pytest.mark.parametrize(("key", "values"), GOOD.items())
def test_right_values_pass(key: str, values: list[Any]) -> None:
    for value in values:
        check_options(Kinds, {key: value})


@pytest.mark.parametrize(("key", "values"), BAD.items())
def test_wrong_values_are_refused_with_key_value_and_remedy(key: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(InputError) as error:
            check_options(Kinds, {key: value})
        assert str(error.value) == f"{key} is {value!r}: give {WORDS[key]} with --{key}."


@pytest.mark.parametrize(("key", "words"), WORDS.items())
def test_each_kind_is_put_into_words(key: str, words: str) -> None:
    assert describe(Kinds, key) == words


@pytest.mark.parametrize("value", [[], "box", ["circle"], ["box", "box"], [1], None])
def test_a_list_of_some_names(value: Any) -> None:
    check_options(TrainingOptions, {"validation_modes": ["none", "box"]})
    with pytest.raises(InputError) as error:
        check_options(TrainingOptions, {"validation_modes": value})
    assert str(error.value).endswith("give a list of some of box, point, none with --validation_modes.")


def test_a_key_that_the_schema_does_not_have_is_refused() -> None:
    with pytest.raises(InputError, match="colour is not an option"):
        check_options(TrainingOptions, {"colour": "red"})


def test_the_file_types_are_the_writers() -> None:
    suffixes = (*OUTPUT_SUFFIXES, DICOM_SUFFIX)
    for suffix in suffixes:
        check_options(InferenceOptions, {"output_ext": suffix})
    assert describe(InferenceOptions, "output_ext") == f"one of {', '.join(suffixes)}"


@pytest.mark.parametrize(("schema", "name"), SECTIONS.values())
def test_every_option_is_a_key_of_its_config_and_passes_as_it_is(
    schema: type[Options], name: str, bundle_root: Path
) -> None:
    config = json.loads((bundle_root / "configs" / name).read_text())
    assert set(schema.model_fields) <= set(config)
    plain = {key: config[key] for key in schema.model_fields if str(config[key])[:1] not in ("$", "@")}
    check_options(schema, plain)
    assert all(field.description for field in schema.model_fields.values())


def test_the_page_of_options_is_current(bundle_root: Path) -> None:
    page = bundle_root.parent / "docs" / "options.md"
    assert page.read_text() == options_page(bundle_root / "configs"), (
        "python -m lmsfe_sam.options > docs/options.md"
    )


@pytest.mark.parametrize("config", ["train.json", "inference.json", "evaluate.json"])
def test_errors_and_signals_of_another_program_stay_its_own(
    bundle_root: Path, monkeypatch: pytest.MonkeyPatch, config: str
) -> None:
    """A server or a notebook that runs the bundle by `ConfigWorkflow` is no command of it."""
    steps = ConfigParser.load_config_file(bundle_root / "configs" / config)["initialize"]
    assert "$lmsfe_sam.settings.plain_errors_of_command()" in steps
    assert not any("errors.plain_errors" in step or "raise_stopped" in step for step in steps)
    monkeypatch.setattr("sys.excepthook", sys.__excepthook__)  # another test's command may have set its own
    before = sys.excepthook, *(signal.getsignal(number) for number in SIGNALS)
    try:
        plain_errors_of_command()
        assert (sys.excepthook, *(signal.getsignal(number) for number in SIGNALS)) == before
        monkeypatch.setattr("sys.argv", ["/a/monai/bundle/__main__.py", "run"])
        plain_errors_of_command()
        assert sys.excepthook is not before[0]
    finally:
        sys.excepthook = before[0]
        for number, handler in zip(SIGNALS, before[1:], strict=True):
            signal.signal(number, handler)
