"""Inference that is killed at random moments and started again, until it ends as a run that never was."""

from __future__ import annotations

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from trials import run_trials

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--kills", type=int, default=3, help="of one trial, before it may end")
    parser.add_argument("--state", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = folder / "in"
        images.mkdir()
        for number in range(options.images):
            pixels = np.random.default_rng(number).integers(0, 256, (480, 640), np.uint8)
            Image.fromarray(pixels).save(images / f"{number:03d}.png")
        started = time.monotonic()
        process = start(images, folder / "whole")
        process.wait()
        length = time.monotonic() - started
        expected = outputs(folder / "whole")

        def trial(number: int) -> str:
            rng, out = random.Random(number), folder / f"out{number}"
            for _ in range(options.kills):
                process = start(images, out)
                try:
                    process.wait(rng.uniform(0.2, 1.0) * length)
                except subprocess.TimeoutExpired:
                    process.send_signal(rng.choice(SIGNALS))
                    process.wait()
                if problem := inconsistent(out):
                    return problem
            if start(images, out).wait():
                return "the last start failed"
            return "" if outputs(out) == expected else "another end than that of a run that was not killed"

        run_trials(options.trials, options.state, trial, "kills of inference")


def start(images: Path, out: Path) -> subprocess.Popen[bytes]:
    """Start inference as a user does."""
    command = ["-m", "monai.bundle", "run", "--config_file", "configs/inference.json", "--input", str(images)]
    return subprocess.Popen(
        [sys.executable, *command, "--output_dir", str(out), "--device", "cpu"],
        cwd=BUNDLE,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def outputs(out: Path) -> dict[str, bytes]:
    """Return the results of a run by their names."""
    files = [*out.glob("masks/*.png"), *out.glob("overlays/*.png"), out / "objects.csv"]
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


def inconsistent(out: Path) -> str:
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


if __name__ == "__main__":
    main()
