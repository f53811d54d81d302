"""MONAI's own components in place of this project's, named on the real command line as README names them."""

from __future__ import annotations

import csv
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from child_processes import run_command
from PIL import Image
from training_command import BUNDLE, TIME_LIMIT

README = BUNDLE.parent / "README.md"
NOISE = np.random.default_rng(0).integers(0, 256, (90, 120), np.uint8)


def documented(option: str) -> str:
    """The value that README gives an option."""
    (found,) = set(re.findall(rf"--{option} ('[^']+')", README.read_text()))
    return shlex.split(found)[0]


def call(*words: object) -> str:
    """Run a command to its good end; return what it wrote."""
    process = run_command(BUNDLE, sys.executable, "-m", "monai.bundle", "run", *words, limit=TIME_LIMIT)
    assert process.returncode == 0, process.stderr
    return process.stdout + process.stderr


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.fromarray(NOISE).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def test_a_network_of_monai_trains_is_evaluated_and_infers(tmp_path: Path, image: Path) -> None:
    network = ["--network_def", documented("network_def"), "--device", "cpu"]
    small = [*network, "--phantoms", 12, "--image_size", 64, "--threads", 1]
    once = ["--batch_size", 4, "--prompts_per_image", 1, "--train#trainer#max_epochs", 2]
    run, scores, out = tmp_path / "run", tmp_path / "scores", tmp_path / "out"
    call("training", "--config_file", "configs/train.json", *small, *once, "--output_dir", run)
    assert json.loads((run / "run.json").read_text())["settings"]["epochs"] == 2
    weights = ["--checkpoint", run / "model.pt"]
    files = "['configs/train.json','configs/evaluate.json']"
    call("evaluating", "--config_file", files, *small, *weights, "--bootstrap", 10, "--output_dir", scores)
    with (scores / "metrics.csv").open(newline="") as file:
        modes = {row["prompt"] for row in csv.DictReader(file)}
    assert {mode for mode in modes if not mode.startswith("control")} == {"none"}
    call("--config_file", "configs/inference.json", *network, *weights, "--input", image, "--output_dir", out)
    assert Image.open(out / "masks" / "image.png").size == NOISE.shape[::-1]


@pytest.mark.parametrize(
    ("run_id", "inferer", "options"),
    [
        ("evaluating", documented("inferer"), []),  # the run's name in older bundles
        ("run", '{"_target_": "SimpleInferer"}', ["--mode", "zoom"]),
    ],
)
def test_inferers_of_monai_stand_in_for_ours(
    run_id: str, inferer: str, options: list[str], tmp_path: Path, image: Path
) -> None:
    words = ["--config_file", "configs/inference.json", "--device", "cpu", "--inferer", inferer, *options]
    call(run_id, *words, "--input", image, "--output_dir", tmp_path / "out")
    assert Image.open(tmp_path / "out" / "masks" / "image.png").size == NOISE.shape[::-1]
