"""Batch jobs on Ray, of which a worker, the driver or every process is killed at a random moment."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from pyarrow import parquet
from trials import run_kills

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from batch import descendants

ROOT = Path(__file__).resolve().parents[2]
VICTIMS = ("worker", "driver", "all")
BATCH = [sys.executable, "-m", "lmsfe_sam.batch"]
LIMIT = 300.0
"""Seconds that a job may take."""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the first trial; each has the next one")
    parser.add_argument("--state", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = write_images(folder / "in", options.images)
        stand_in = folder / "stand_in.json"
        network = {"network": "$__import__('boxnet').BoxNetwork()", "image_size": 64, "device": "cpu"}
        stand_in.write_text(json.dumps(network))
        words = [*BATCH, "--input", folder / "in", "--part", "8", "--piece", "2", "--config_file"]
        words += [ROOT / "bundle" / "configs" / "inference.json", stand_in, "--output"]
        subprocess.run([*words, folder / "whole"], env=environment(), check=True, capture_output=True)

        def trial(number: int, output: Path) -> str:
            rng = random.Random(options.seed + number)
            problem = killed([*words, output], output, VICTIMS[number % 3], rng.randrange(len(images)), rng)
            problem = problem or torn(output, images)
            if not problem:  # without Ray, which is quicker
                rerun = subprocess.run([*words, output], env=environment(), capture_output=True, text=True)
                problem = rerun.stderr[-300:] if rerun.returncode else torn(output, images)
            if not problem and rows(output) != Counter(images):
                problem = "rows are missing"
            return problem

        what = "batch, killed"
        run_kills(options.trials, options.state, trial, masks, folder / "whole", ".scratch/*", what)


def environment() -> dict[str, str]:
    paths = [str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    plain = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return {**plain, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def write_images(folder: Path, count: int) -> list[str]:
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = [f"{number:03d}.png" for number in range(count)]
    for name in names:
        pixels = rng.integers(0, 256, (8, 10), np.uint8).repeat(40, 0).repeat(40, 1)
        Image.fromarray(pixels).save(folder / name)
    return names


def killed(words: list[object], output: Path, victim: str, after: int, rng: random.Random) -> str:
    """Run a job on two workers, and kill a part of it after so many masks; return what went wrong."""
    with (output.parent / "log").open("w") as log:
        job = subprocess.Popen(
            [*map(str, words), "--workers", "2"], env=environment(), stdout=log, stderr=subprocess.STDOUT
        )
        limit = time.monotonic() + LIMIT
        while job.poll() is None and len([*output.glob("masks/*")]) < after:
            if time.monotonic() > limit:
                job.kill()
                return "it hangs before the kill"
            time.sleep(0.002)
        time.sleep(rng.random() / 10)
        family = [*descendants(job.pid)]
        if victim == "worker":
            family = [process for process in family if "MapWorker" in command(process)]
            family = rng.sample(family, min(1, len(family)))
        for process in [job.pid] if victim == "driver" else family:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            code = job.wait(LIMIT)
        except subprocess.TimeoutExpired:
            job.kill()
            return "it hangs after the kill"
    limit = time.monotonic() + 60
    while victim != "worker" and any("MapWorker" in command(process) for process in family):
        if time.monotonic() > limit:
            return "workers are left"
        time.sleep(0.1)
    if victim == "worker" and code:
        return f"a worker's end was the job's: {(output.parent / 'log').read_text()[-300:]}"
    return ""


def command(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


def torn(output: Path, images: list[str]) -> str:
    """Return what is wrong with an output that a job may have left at any moment."""
    found = rows(output)
    if {*found} - {*images} or max(found.values(), default=1) > 1:
        return "a row is there twice, or of no image"
    try:
        whole = masks(output)
    except OSError as error:
        return f"a torn mask: {error}"
    if {*found} - {*whole}:
        return "a row without a mask"
    return ""


def rows(output: Path) -> Counter[str]:
    parts = sorted(output.glob("objects/*.parquet"))
    return Counter(image for part in parts for image in parquet.read_table(part)["image"].to_pylist())


def masks(output: Path) -> dict[str, bytes]:
    return {path.name: np.asarray(Image.open(path)).tobytes() for path in output.glob("masks/*.png")}


if __name__ == "__main__":
    main()
