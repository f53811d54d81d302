"""The training config's values, as a user may get them wrong."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from lmsfe_sam.data.combined import find_records
from lmsfe_sam.errors import InputError
from lmsfe_sam.training.settings import announce, check_settings, warn_untrained


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"preset": "vit_x"}, "preset is 'vit_x': give one of vit_t, vit_b, vit_l, vit_h with --preset."),
        ({"epochs": 0}, "epochs is 0: give a whole number of at least 1 or null with --epochs."),
        (
            {"batch_size": "four"},
            "batch_size is 'four': give a whole number of at least 1 with --batch_size.",
        ),
        (
            {"learning_rate": -1e-3},
            "learning_rate is -0.001: give a number above 0 up to 1 with --learning_rate.",
        ),
        ({"mhpm": 1}, "mhpm is 1: give True or False with --mhpm."),
        (
            {"dataset_dir": "no/such"},
            "dataset_dir 'no/such' is not there: "
            "name an existing folder or datalist.json with --dataset_dir.",
        ),
        (
            {"pretrained": "no.pth"},
            "pretrained 'no.pth' is not there: name an existing file with --pretrained.",
        ),
        (
            {"teachers": [__file__, "no.pt"]},
            "teachers 'no.pt' is not there: name an existing file with --teachers.",
        ),
        (
            {"teachers": "a.pt"},
            "teachers is 'a.pt': give a list of names or paths or null with --teachers.",
        ),
        ({"distillation": 1.5}, "distillation is 1.5: give a number from 0 up to 1 with --distillation."),
        (
            {"validation_modes": ["box", "circle"]},
            "validation_modes is ['box', 'circle']: "
            "give a list of some of box, point, none with --validation_modes.",
        ),
        ({"full_epochs": 0}, "full_epochs is 0: give a whole number of at least 1 with --full_epochs."),
        ({"resume": "no/run"}, "resume 'no/run' is not there: name an existing folder with --resume."),
    ],
)
def test_each_wrong_value_gets_its_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as error:
        check_settings({"device": "cpu", **values})
    assert str(error.value) == sentence


def test_right_values_pass(tmp_path: Path) -> None:
    values = {"preset": "vit_b", "epochs": None, "learning_rate": 1e-4, "clip_norm": None}
    check_settings({"device": "cpu", "resume": str(tmp_path), **values})


def test_a_missing_mlflow_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmsfe_sam.training.settings.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'lmsfe-sam\[mlflow\]'"):
        check_settings({"device": "cpu", "mlflow": True})


def test_phantoms_are_split_without_overlap_and_announced_loudly(caplog: pytest.LogCaptureFixture) -> None:
    datalist = find_records(None, "auto", "group", seed=3, phantoms=20)
    parts = [[r["phantom"] for r in datalist.select(part)] for part in ("train", "val", "test")]
    assert [len(part) for part in parts] == [14, 3, 3]
    assert len({number for part in parts for number in part}) == 20
    announce(datalist, 5)
    assert caplog.records[0].levelno == logging.WARNING
    for words in ("DEMONSTRATION", "20 made-up", "5 passes", "--dataset_dir FOLDER"):
        assert words in caplog.text


def test_frozen_random_weights_are_announced_loudly(caplog: pytest.LogCaptureFixture) -> None:
    network = nn.Sequential(nn.Linear(1000, 1000), nn.Linear(2, 2))
    warn_untrained(network, None, None)
    assert not caplog.records
    network[0].requires_grad_(False)
    warn_untrained(network, "sam.pth", None)
    warn_untrained(network, None, "runs/a")
    assert not caplog.records
    warn_untrained(network, None, None)
    assert "RANDOM WEIGHTS: 1.0 M" in caplog.text and "--pretrained" in caplog.text
