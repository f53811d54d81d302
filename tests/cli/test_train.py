"""The main job by its real command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from child_processes import run_command
from PIL import Image
from training_command import BUNDLE, SMALL, TIME_LIMIT, command, history, run

from lmsfe_sam import LMSFESAM
from lmsfe_sam.model.checkpoints import network_from_checkpoint, save_weights

HISTORY_COLUMNS = (
    "epoch",
    "loss",
    "val_dice",
    "val_dice_box",
    "val_dice_point",
    "val_dice_none",
    "lr",
    "seconds",
)


def test_the_demonstration_writes_what_it_promises(tmp_path: Path) -> None:
    shipped = BUNDLE / "models" / "model.pt"
    before = shipped.read_bytes() if shipped.is_file() else None
    code, out, err = run(*SMALL, "--phantoms", "20", "--epochs", "2", "--output_dir", tmp_path)
    assert code == 0, err
    assert f"The best weights are in {tmp_path / 'model.pt'}." in out and "run evaluating" in out
    assert "DEMONSTRATION ON SYNTHETIC PHANTOMS" in out and "--dataset_dir FOLDER" in out
    rows = history(tmp_path)
    assert tuple(rows[0]) == HISTORY_COLUMNS
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for row in rows:
        modes = [float(row[f"val_dice_{mode}"]) for mode in ("box", "point", "none")]
        assert float(row["val_dice"]) == pytest.approx(np.mean(modes), abs=1e-5)
    network = network_from_checkpoint(tmp_path / "model.pt")
    assert (network.preset, network.image_size) == ("vit_t", 64)
    split = json.loads((tmp_path / "datalist.json").read_text())
    assert [len(split[part]) for part in ("training", "validation", "test")] == [14, 3, 3]
    assert json.loads((tmp_path / "run.json").read_text())["settings"]["epochs"] == 2
    assert "epoch 2/2" in (tmp_path / "training.log").read_text()
    assert list((tmp_path / "tensorboard").glob("events.*"))
    assert set(torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)) >= {"network", "optimizer"}
    assert (shipped.read_bytes() if shipped.is_file() else None) == before


def test_finished_networks_teach_the_next_one(tmp_path: Path) -> None:
    files = [str(tmp_path / "a.pt"), str(tmp_path / "b.pt")]
    save_weights(LMSFESAM("vit_t", 64), files[0])
    save_weights(LMSFESAM("vit_t", 64, backbone="tf_efficientnet_lite0").half(), files[1])
    shared = (*SMALL, "--phantoms", "10", "--amp", "True", "--accumulate", "2", "--distillation", "0.5")
    code, _, err = run(*shared, "--teachers", files, "--epochs", "1", "--output_dir", tmp_path / "run")
    assert code == 0, err
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert (settings["teachers"], settings["distillation"]) == (files, 0.5)
    saved = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    assert saved.keys() == LMSFESAM("vit_t", 64).state_dict().keys(), "the student's tensors alone"

    code, _, err = run(*shared, "--resume", tmp_path / "run", "--epochs", "2")
    assert code == 1 and "was started with teachers" in err and "Traceback" not in err
    code, out, err = run(*shared, "--teachers", files, "--resume", tmp_path / "run", "--epochs", "2")
    assert code == 0 and "after epoch 1 of 2" in out, err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images and masks in the plain layout, one of them a picture and no mask."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    for i in range(12):
        mask = np.zeros((40, 50), np.uint8)
        mask[10:20, 5 + i : 25 + i] = 255
        Image.fromarray(rng.integers(0, 255, (40, 50), np.uint8)).save(tmp_path / f"data/images/{i}.png")
        if i == 7:
            mask = rng.integers(0, 255, mask.shape, np.uint8)
        Image.fromarray(mask).save(tmp_path / f"data/masks/{i}.png")
    return tmp_path / "data"


def test_a_bad_mask_ends_the_run_in_one_sentence_before_it_starts(folder: Path, tmp_path: Path) -> None:
    code, out, err = run(*SMALL, "--dataset_dir", folder, "--output_dir", tmp_path / "run")
    assert code == 1 and "Traceback" not in out + err
    assert err.rpartition("error: ")[2].count("\n") == 1 and "masks/7.png" in err
    assert not (tmp_path / "run" / "history.csv").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ("--data_dir", "x"),
            "--data_dir is not an option of ['configs/train.json']: did you mean --dataset_dir?",
        ),
        (("--preset", "vit_q"), "preset is 'vit_q': give one of vit_t, vit_b, vit_l, vit_h with --preset."),
        (
            ("--train#trainer#max_epoch", "3"),
            "--train#trainer#max_epoch is not an option of ['configs/train.json']: SupervisedTrainer takes "
            "no max_epoch, did you mean --train#trainer#max_epochs?",
        ),
        (
            ("--output_dir", "configs/train.json/run"),
            "output_dir 'configs/train.json/run' cannot be written to",
        ),
    ],
)
def test_bad_options_end_in_one_sentence(options: tuple[str, str], sentence: str) -> None:
    code, out, err = run(*SMALL, *options)
    assert code == 1 and "Traceback" not in out + err
    assert f"error: {sentence}" in err


def test_a_run_that_the_config_does_not_have_is_refused(tmp_path: Path) -> None:
    words = [word if word != "training" else "train" for word in command("--output_dir", tmp_path / "run")]
    process = run_command(BUNDLE, sys.executable, *words, limit=TIME_LIMIT)
    assert process.returncode == 1 and "Traceback" not in process.stderr
    assert (
        "error: 'train' is not a run of ['configs/train.json']: give one of training, run." in process.stderr
    )
    assert not (tmp_path / "run").exists()
