"""Batch inference of many small images: memory over time, and two workers against one.

``python benchmarks/batch.py memory`` runs a job of 10,000 images of 64 x 64 on Ray, and writes a plot of the
memory of its processes; ``python benchmarks/batch.py workers`` times one worker and two, of one thread each.
The network is vit_t at 64 pixels with random weights, and 100 phantoms stand for all images.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image

from lmsfe_sam import LMSFESAM
from lmsfe_sam.data.phantoms.rendering import render_phantom
from lmsfe_sam.model.checkpoints import save_weights

SIZE = 64
KINDS = {"writing process": "lmsfe_sam.batch", "workers": "MapWorker", "Ray": ""}
"""Processes of a job, by what their command lines hold; the first that fits counts."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure batch inference on Ray.")
    parser.add_argument("what", choices=["memory", "workers"])
    parser.add_argument("--images", type=int, help="default: 10000 for memory, 500 for workers")
    parser.add_argument("--rounds", type=int, default=3, help="of workers")
    parser.add_argument("--plot", type=Path, default=Path("memory.svg"), help="of memory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "in", options.images or (10000 if options.what == "memory" else 500))
        save_weights(LMSFESAM("vit_t", image_size=SIZE), folder / "model.pt")
        if options.what == "memory":
            memory(folder, options.plot)
        else:
            workers(folder, options.rounds)


def write_images(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(min(count, 100)):
        Image.fromarray(render_phantom(number, (SIZE, SIZE))[0]).save(folder / f"{number:05d}.png")
    for number in range(100, count):
        (folder / f"{number:05d}.png").write_bytes((folder / f"{number % 100:05d}.png").read_bytes())


def start(folder: Path, output: Path, workers: int) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "lmsfe_sam.batch", "--input", folder / "in", "--output", output]
    words += ["--workers", str(workers), "--checkpoint", folder / "model.pt", "--device", "cpu"]
    return subprocess.Popen(words)


# --- memory ---------------------------------------------------------------------------------------


def memory(folder: Path, plot: Path) -> None:
    job = start(folder, folder / "out", 2)
    began, samples = time.monotonic(), []
    while job.poll() is None:
        masks = folder / "out" / "masks"
        found = len([*masks.iterdir()]) if masks.is_dir() else 0
        samples.append((time.monotonic() - began, found, measure(job.pid)))
        time.sleep(2)
    if job.returncode:
        raise SystemExit(job.returncode)
    draw(samples, plot)
    total = samples[-1][1]
    for kind in KINDS:
        places = (total // 10, total // 2, total)
        values = [next(s[2][kind] for s in samples if s[1] >= place) for place in places]
        print(f"{kind}: {values[0]:.0f} MB at a tenth, {values[1]:.0f} at half, {values[2]:.0f} at the end")
    summary = json.loads((folder / "out" / "summary.json").read_text())
    print(f"{summary['finished']} images, {summary['images_per_second']:.3g} images/s")


def measure(job: int) -> dict[str, float]:
    """Return the memory of a job's processes in MB, by kind; what several share is divided among them."""
    sizes = dict.fromkeys(KINDS, 0.0)
    for process in descendants(job):
        try:
            words = Path(f"/proc/{process}/cmdline").read_text()
            content = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            continue  # it has ended
        kind = next(kind for kind, part in KINDS.items() if part in words)
        kilobytes = next((line.split()[1] for line in content.splitlines() if line.startswith("Pss:")), "0")
        sizes[kind] += int(kilobytes) / 1000
    return sizes


def descendants(process: int) -> Iterator[int]:
    yield process
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            found = children.read_text().split()
        except OSError:
            continue  # the thread has ended
        for child in found:
            yield from descendants(int(child))


def draw(samples: list[tuple[float, int, dict[str, float]]], path: Path) -> None:
    from matplotlib import pyplot

    figure, left = pyplot.subplots(figsize=(6.4, 3.2), layout="constrained")
    minutes = [seconds / 60 for seconds, _, _ in samples]
    for kind in KINDS:
        left.plot(minutes, [sizes[kind] for _, _, sizes in samples], label=kind)
    right = left.twinx()
    right.plot(minutes, [done for _, done, _ in samples], "k:", label="images")
    left.set(xlabel="minutes", ylabel="MB", ylim=(0, None))
    right.set(ylabel="images (dotted)", ylim=(0, None))
    left.legend(loc="lower right")
    figure.savefig(path)


# --- workers --------------------------------------------------------------------------------------


def workers(folder: Path, rounds: int) -> None:
    ratios, whole = [], []
    print("| round | one worker | two | ratio | whole job, one | two | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for number in range(1, rounds + 1):
        times, jobs = {}, {}
        for count in (1, 2):
            output = folder / f"out{number}-{count}"
            began = time.monotonic()
            if code := start(folder, output, count).wait():
                raise SystemExit(code)
            written = sorted(mask.stat().st_mtime for mask in (output / "masks").iterdir())
            times[count] = written[-1] - written[len(written) // 10]  # both workers are at work by then
            jobs[count] = time.monotonic() - began
        ratios.append(times[2] / times[1])
        whole.append(jobs[2] / jobs[1])
        pairs = ((times, ratios[-1]), (jobs, whole[-1]))
        cells = [f"{own[1]:.1f} s | {own[2]:.1f} s | {ratio:.2f}" for own, ratio in pairs]
        print(f"| {number} | {' | '.join(cells)} |", flush=True)
    print(
        f"two workers take {statistics.median(ratios):.2f} of the time of one once all are at work, "
        f"{statistics.median(whole):.2f} with Ray's start and end (medians of {rounds})"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
