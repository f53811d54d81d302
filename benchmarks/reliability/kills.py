"""Runs that are killed at random moments and started again, until they end as a run that never was."""

from __future__ import annotations

import argparse
import csv
import random
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from commands import Command, run
from PIL import Image
from trials import run_kills

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STOPPED = {signal.SIGTERM: 143, signal.SIGINT: 130}
SMALL = ["--image_size", "64", "--batch_size", "2", "--prompts_per_image", "1", "--correction_steps", "0"]
EPOCHS = 4


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["inference", "training"])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--kills", type=int, default=3, help="of one trial, before it may end")
    parser.add_argument("--state", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "in", options.images)
        words, inconsistent, results = {
            "inference": (inference, torn_results, inference_results),
            "training": (training, torn_run, training_results),
        }[options.what]
        started = time.monotonic()
        code, printed = run(words(folder / "in", folder / "whole"), folder / "log")
        if code:
            raise SystemExit(printed)
        length = time.monotonic() - started

        def trial(number: int, out: Path) -> str:
            return killed(words, folder, out, random.Random(number), options.kills, length, inconsistent)

        what = f"kills of {options.what}"
        run_kills(options.trials, options.state, trial, results, folder / "whole", "**/.*", what)


def killed(
    words: Callable[[Path, Path], list[str]],
    folder: Path,
    out: Path,
    rng: random.Random,
    kills: int,
    length: float,
    inconsistent: Callable[[Path], str],
) -> str:
    """Kill a run so often, then let it end; return what is wrong, or nothing."""
    for _ in range(kills):
        command = Command(words(folder / "in", out), folder / "log")
        if command.wait(rng.uniform(0.02, 0.8) * length) is None:
            number = rng.choice(SIGNALS)
            code = command.stop(number)
            said = command.printed()
            if code is None:
                return f"{number.name}: did not end"
            if code == STOPPED.get(number) and "Traceback" in said:
                return f"{number.name}: {said[-300:]}"
        if problem := inconsistent(out):
            return problem
    code, said = run(words(folder / "in", out), folder / "log")
    if code == 1 and "has finished its" in said:  # killed after its last epoch
        return ""
    return f"the last start: exit code {code}, {said[-300:]}" if code else ""


def write_images(folder: Path, count: int) -> None:
    """Write a data set that inference reads, too: the masks are in a folder beside it."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (240, 320), np.uint8)
        mask = np.zeros((240, 320), np.uint8)
        mask[50:150, 40 + 9 * number : 200] = 255
        Image.fromarray(pixels).save(folder / "images" / f"{number:03d}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number:03d}.png")


def inference(source: Path, out: Path) -> list[str]:
    """Return the words of the command."""
    start = ["run", "--config_file", "configs/inference.json", "--device", "cpu"]
    return [*start, "--input", str(source / "images"), "--output_dir", str(out)]


def training(source: Path, out: Path) -> list[str]:
    """Return the words of the command: a start, or going on where an epoch is finished."""
    start = ["run", "training", "--config_file", "configs/train.json", "--device", "cpu", *SMALL]
    start += ["--dataset_dir", str(source), "--epochs", str(EPOCHS), "--seed", "7"]
    return [*start, "--resume" if (out / "checkpoint_last.pt").exists() else "--output_dir", str(out)]


def inference_results(out: Path) -> dict[str, bytes]:
    """Return the results of a run by their names."""
    files = [*out.glob("masks/*.png"), *out.glob("overlays/*.png"), out / "objects.csv"]
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


def training_results(out: Path) -> dict[str, Any]:
    """Return the weights and the history of a run, without times."""
    weights = torch.load(out / "model.pt", weights_only=True)
    rows = list(csv.DictReader((out / "history.csv").read_text().splitlines()))
    plain = {name: tensor.numpy().tobytes() for name, tensor in weights.items()}
    return {**plain, "history": [{**row, "seconds": ""} for row in rows]}


def torn_results(out: Path) -> str:
    """Return what is torn after a kill, or nothing; the image that was being written may lack its rows."""
    masks = {path.name for path in out.glob("masks/[!.]*.png")}
    for path in out.glob("*/[!.]*.png"):
        with Image.open(path) as image:
            image.load()
    rows: list[str] = []
    if (out / "objects.csv").exists():
        text = (out / "objects.csv").read_text()
        if not text.endswith("\n"):
            return "a torn row"
        rows = [row["image"] for row in csv.DictReader(text.splitlines())]
    if set(rows) - masks or len(masks - set(rows)) > 1 or len(rows) != len(set(rows)):
        return f"{len(rows)} rows of {len(masks)} masks"
    return ""


def torn_run(out: Path) -> str:
    """Return what is torn after a kill, or nothing; the epoch that was being written may lack its row."""
    for path in out.glob("[!.]*.pt"):
        torch.load(path, weights_only=True)
    if (out / "checkpoint_last.pt").exists():
        kept = len(torch.load(out / "checkpoint_last.pt", weights_only=True)["history"])
        path = out / "history.csv"
        rows = path.read_text().splitlines()[1:] if path.exists() else []
        if not kept - 1 <= len(rows) <= kept:
            return f"{len(rows)} rows of {kept} epochs"
    return ""


if __name__ == "__main__":
    main()
