"""What a MONAI user swaps in the training and evaluation configs, swapped."""

from __future__ import annotations

import csv
import itertools
import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.networks.nets import UNet

import data_folders as make
from lmsfe_sam.errors import InputError, find_input_error

UNET = {"spatial_dims": 2, "in_channels": 3, "out_channels": 1, "channels": [8, 16], "strides": [2]}
NETWORK_DEF = {"_target_": "UNet", **UNET, "norm": "BATCH"}
SMALL = {"phantoms": 12, "image_size": 32, "batch_size": 4, "device": "cpu"}


@pytest.fixture
def workflow(
    bundle_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    restored_globals: None,
) -> Any:
    caplog.set_level(logging.INFO, "lmsfe_sam")  # as configs/logging.conf does
    monkeypatch.chdir(bundle_root)

    def build(*names: str, **options: Any) -> ConfigWorkflow:
        files = [str(bundle_root / "configs" / name) for name in names]
        kind = "train" if names == ("train.json",) else "infer"
        return ConfigWorkflow(config_file=files, workflow_type=kind, logging_file=False, **options)

    return build


def run(workflow: ConfigWorkflow) -> None:
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def trained(workflow: Any, tmp_path: Path) -> Path:
    """A U-Net trained for two epochs; the second is validated because it is the last."""
    options = {**SMALL, "train#trainer#max_epochs": 2, "val_interval": 5, "network_def": NETWORK_DEF}
    run(workflow("train.json", **options, output_dir=str(tmp_path / "run")))
    return tmp_path / "run"


def test_a_clock_that_is_set_back_while_it_trains_ends_no_run(
    workflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, calls = time.time(), itertools.count()
    monkeypatch.setattr(time, "time", lambda: start - 3600 * next(calls))
    options = {**SMALL, "train#trainer#max_epochs": 2, "network_def": NETWORK_DEF, "max_minutes": 5}
    run(workflow("train.json", **options, output_dir=str(tmp_path / "run")))
    assert next(calls) > 5
    assert [0 <= float(row["seconds"]) < 300 for row in rows(tmp_path / "run" / "history.csv")] == [
        True,
        True,
    ]
    assert 0 <= json.loads((tmp_path / "run" / "machine_time.json").read_text())["minutes"] < 5


def test_a_network_without_prompts_trains_and_validates_with_none(trained: Path) -> None:
    history = rows(trained / "history.csv")
    assert [row["val_dice"] == "" for row in history] == [True, False]
    assert history[1]["val_dice"] == history[1]["val_dice_none"] and history[1]["val_dice_box"] == ""
    UNet(**UNET, norm="BATCH").load_state_dict(torch.load(trained / "model.pt", weights_only=True))
    assert json.loads((trained / "model.json").read_text())["network"] == "monai.networks.nets.unet.UNet"


def test_the_number_of_epochs_has_one_source(trained: Path) -> None:
    assert json.loads((trained / "run.json").read_text())["settings"]["epochs"] == 2
    log = (trained / "training.log").read_text()
    assert "epoch 2/2" in log and "12 made-up ultrasound images, 2 passes" in log
    # cosine down to the last step, of two epochs of two steps each
    assert float(rows(trained / "history.csv")[1]["lr"]) == pytest.approx(1e-5, rel=0.01)


def test_a_finished_run_says_where_the_weights_are_and_what_comes_next(trained: Path) -> None:
    end = (trained / "training.log").read_text().rstrip().splitlines()[-2:]
    assert f"The best weights are in {trained / 'model.pt'}." in end[0]
    assert "run evaluating --config_file \"['configs/train.json','configs/evaluate.json']\"" in end[1]
    assert f"--checkpoint {trained / 'model.pt'} --phantoms=12 --seed=0" in end[1]


def test_a_network_without_prompts_is_evaluated_with_none_and_the_controls(
    trained: Path, workflow: Any, tmp_path: Path
) -> None:
    options = {**SMALL, "network_def": NETWORK_DEF, "checkpoint": str(trained / "model.pt")}
    run(workflow("train.json", "evaluate.json", **options, output_dir=str(tmp_path / "scores")))
    modes = {row["prompt"] for row in rows(tmp_path / "scores" / "metrics.csv")}
    assert {mode for mode in modes if not mode.startswith("control")} == {"none"} and len(modes) == 5
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text())
    assert summary["network"]["network"] == "monai.networks.nets.unet.UNet"
    assert summary["reliability"] == {} and "curves" not in summary
    assert rows(tmp_path / "scores" / "predictions.csv")[0]["predicted_iou"] == ""

    other = {**options, "prompt_modes": ["box"]}
    with pytest.raises(Exception, match=r"initialize|Failed") as caught:
        run(workflow("train.json", "evaluate.json", **other, output_dir=str(tmp_path / "box")))
    assert "network_def takes no such prompt" in str(find_input_error(caught.value))


def test_the_data_of_a_workflow_can_be_set(workflow: Any, tmp_path: Path) -> None:
    root = make.make_plain(tmp_path, 6)
    pairs = [
        {"image": str(root / "images" / f"case_{k}.png"), "label": str(root / "masks" / f"case_{k}.png")}
        for k in range(6)
    ]
    options = {**SMALL, "epochs": 1, "network_def": NETWORK_DEF, "output_dir": str(tmp_path / "run")}
    training = workflow("train.json", **options)
    training.train_dataset_data = pairs[:4]
    training.val_dataset_data = pairs[4:]
    run(training)
    split = json.loads((tmp_path / "run" / "datalist.json").read_text())
    assert [item["image"] for item in split["training"]] == [pair["image"] for pair in pairs[:4]]
    assert split["counts"] == {"training": 4, "validation": 2, "test": 0}
    assert "DEMONSTRATION" not in (tmp_path / "run" / "training.log").read_text()

    half = workflow("train.json", **{**options, "output_dir": str(tmp_path / "half")})
    half.train_dataset_data = pairs
    with pytest.raises(Exception, match=r".") as caught:
        run(half)
    assert "give train_dataset_data and val_dataset_data" in str(find_input_error(caught.value))


@pytest.mark.parametrize("first", [(), ("inference.json",)])
def test_the_evaluation_needs_no_training_config(
    workflow: Any, tmp_path: Path, first: tuple[str, ...]
) -> None:
    options = {"phantoms": 8, "prompt_modes": "control_box", "output_dir": str(tmp_path), "device": "cpu"}
    run(workflow(*first, "evaluate.json", **options))
    assert {row["prompt"] for row in rows(tmp_path / "metrics.csv")} == {"control_box"}


@pytest.mark.parametrize(("options", "seed"), [({}, 3), ({"split_seed": 7}, 7), ({"split_seed": 0}, 0)])
def test_the_split_has_a_seed_of_its_own(workflow: Any, options: dict[str, int], seed: int) -> None:
    training = workflow("train.json", **SMALL, seed=3, **options)
    assert training.parser.get_parsed_content("datalist").seed == seed


def test_the_position_adapters_options_are_the_networks(workflow: Any) -> None:
    options = {"position_norm": "instance", "position_mode": "replace"}
    network = workflow("train.json", **SMALL, **options).parser.get_parsed_content("network_def")
    assert {key: network.describe()[key] for key in options} == options


def test_a_wrong_number_of_epochs_is_refused_wherever_it_is_given(workflow: Any) -> None:
    for key in ("epochs", "train#trainer#max_epochs"):
        with pytest.raises(Exception, match=r".") as caught:
            workflow("train.json", **SMALL, **{key: 0}).initialize()
        error = find_input_error(caught.value)
        assert isinstance(error, InputError) and str(error).startswith("epochs is 0: give a whole number")


def test_the_config_for_several_processes_refuses_one(
    workflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    names = ("train.json", "evaluate.json", "multi_gpu_evaluate.json")
    options = {"phantoms": 8, "prompt_modes": "control_box", "output_dir": str(tmp_path), "device": "cpu"}
    with pytest.raises(Exception, match=r".") as caught:
        workflow(*names, **options).initialize()
    assert "multi_gpu_evaluate.json is for several processes" in str(find_input_error(caught.value))
