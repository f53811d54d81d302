"""The first click on an image against the next ones, over HTTP at a MONAI Label server on this machine.

Run from the root of the repository, where MONAI Label is installed: ``python benchmarks/label_clicks.py``.
The server is started with random weights of a preset; a round is an image that it has not seen, a click
on it, the same click again with a second one, and a third. Times are what a client waits for the mask.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from label_server import INTERACTIVE, Server, running  # noqa: E402
from lmsfe_sam import LMSFESAM  # noqa: E402
from lmsfe_sam.data.phantoms.rendering import render_phantom  # noqa: E402
from lmsfe_sam.model.checkpoints import save_weights  # noqa: E402

SIZE = (480, 640)
CLICKS = [[320, 200], [300, 240], [20, 30]]
REQUESTS = {
    "first click": {"foreground": CLICKS[:1]},
    "second click": {"foreground": CLICKS[:2]},
    "third click, outside": {"foreground": CLICKS[:2], "background": CLICKS[2:]},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time clicks at a MONAI Label server.")
    parser.add_argument("--preset", default="vit_b", help="the network (default vit_b)")
    parser.add_argument("--repeats", type=int, default=7, help="images (default 7)")
    parser.add_argument("--threads", type=int, default=1, help="the server's threads (default 1)")
    options = parser.parse_args()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"{options.preset}, random weights, {SIZE[1]} x {SIZE[0]} PNG, torch {torch.__version__}, "
        f"{options.threads} thread(s), {os.cpu_count()} {platform.machine()} cores, load {load} at the "
        f"start, {options.repeats} images\n"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = write_bundle(folder / "bundle", options.preset)
        studies = folder / "studies"
        studies.mkdir()
        for number in range(1 + options.repeats):
            Image.fromarray(render_phantom(number, SIZE)[0]).save(studies / f"us_{number}.png")
        with running(
            studies, folder / "app", "--bundle", str(bundle), "--names", INTERACTIVE, threads=options.threads
        ) as server:
            samples = measure(server, 1 + options.repeats)
    print_table(samples)


def write_bundle(folder: Path, preset: str) -> Path:
    """The repository's configs with random weights."""
    shutil.copytree(ROOT / "bundle" / "configs", folder / "configs")
    (folder / "models").mkdir()
    torch.manual_seed(0)
    save_weights(LMSFESAM(preset=preset), folder / "models" / "model.pt")
    return folder


def measure(server: Server, images: int) -> dict[str, list[float]]:
    """Return the seconds of each kind of click; the first image warms the server up."""
    samples: dict[str, list[float]] = {name: [] for name in REQUESTS}
    for number in range(images):
        for name, params in REQUESTS.items():
            start = time.perf_counter()
            response = server.post_infer(f"us_{number}", params, output="image")
            seconds = time.perf_counter() - start
            assert response.status_code == 200, response.text
            if number:
                samples[name].append(seconds)
    return samples


def print_table(samples: dict[str, list[float]]) -> None:
    first = statistics.median(samples["first click"])
    print("| request | median, ms | fastest | slowest | times as fast as the first |\n|---|---|---|---|---|")
    for name, seconds in samples.items():
        median = statistics.median(seconds)
        figures = " | ".join(f"{1000 * value:.0f}" for value in (median, min(seconds), max(seconds)))
        print(f"| {name} | {figures} | {first / median:.1f} |")


if __name__ == "__main__":
    main()
