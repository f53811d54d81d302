"""The real training command, made small: a few phantoms at 64 x 64, one thread."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from child_processes import environment

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"
SMALL = ("--image_size", "64", "--batch_size", "2", "--prompts_per_image", "2", "--device", "cpu")
TIME_LIMIT = 400


def command(*options: object, configs: Sequence[str] = ("train.json",)) -> list[str]:
    files = str([f"configs/{name}" for name in configs])
    start = ["-m", "monai.bundle", "run", "training", "--config_file", files]
    return [*start, *map(str, options)]


def start(*options: object, configs: Sequence[str] = ("train.json",)) -> subprocess.Popen[str]:
    """Start the command in the bundle's folder; its output is collected."""
    return subprocess.Popen(
        [sys.executable, *command(*options, configs=configs)],
        cwd=BUNDLE,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*options: object, configs: Sequence[str] = ("train.json",)) -> tuple[int, str, str]:
    """Run the command to its end: exit code, stdout, stderr."""
    process = start(*options, configs=configs)
    out, err = process.communicate(timeout=TIME_LIMIT)
    return process.returncode, out, err


def history(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))
