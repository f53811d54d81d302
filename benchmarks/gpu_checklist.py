"""What a GPU does with the network: speed against batch, memory, half precision, pinned memory, windows.

Run from the root of the repository on a machine with a GPU, and commit what it writes:
``python benchmarks/gpu_checklist.py --output docs/gpu.md``. ``--device cpu`` runs the same steps in a small
form, to see that they work.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from lmsfe_sam import LMSFESAM
from lmsfe_sam.data.phantoms.rendering import render_phantom
from lmsfe_sam.distributed import check_device
from lmsfe_sam.errors import plain_errors
from lmsfe_sam.files import atomic_write
from lmsfe_sam.inference.inferers import LABELS, PROMPTS, ZoomInferer
from lmsfe_sam.inference.sliding import PromptedWindowInferer
from lmsfe_sam.model.checkpoints import network_from_checkpoint
from lmsfe_sam.predict.preprocessing import prepare
from lmsfe_sam.prompts.prompt import ObjectPrompt, Prompts
from lmsfe_sam.prompts.simulate import tight_box

PRECISIONS: dict[str, torch.dtype | None] = {
    "float32": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

Table = list[list[str]]
"""Rows of cells, the header first."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128)
    prompts: tuple[int, ...] = (1, 8, 32)
    phantoms: int = 64
    repeats: int = 20
    sides: tuple[int, ...] = (2048, 4096, 8192)
    boxes: int = 200
    window_batches: tuple[int, ...] = (4, 16, 64)


SMALL = Plan(
    batches=(1, 2),
    prompts=(1, 4),
    phantoms=2,
    repeats=1,
    sides=(384,),
    boxes=4,
    window_batches=(2,),
)


class Machine:
    """A device: what has to be waited for, and what memory it took."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.is_gpu = self.device.type == "cuda"

    def describe(self) -> str:
        if not self.is_gpu:
            return f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"
        properties = torch.cuda.get_device_properties(self.device)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"

    def wait(self) -> None:
        if self.is_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, task: Callable[[], object], repeats: int) -> float:
        """Median seconds of a task, behind one unmeasured run."""
        taken = []
        for _ in range(repeats + 1):
            self.wait()
            began = time.perf_counter()
            task()
            self.wait()
            taken.append(time.perf_counter() - began)
        return statistics.median(taken[1:])

    def peak(self, task: Callable[[], object]) -> str:
        """Most memory of the device while a task runs, in MiB; unknown on a CPU."""
        if not self.is_gpu:
            task()
            return ""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        task()
        self.wait()
        return f"{torch.cuda.max_memory_allocated(self.device) / 2**20:.0f}"

    def precision(self, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)


def throughput(network: LMSFESAM, machine: Machine, plan: Plan) -> Table:
    """Images encoded in a second, and memory, by batch and precision."""
    rows = [
        ["batch", *(f"{name}, images/s" for name in PRECISIONS), *(f"{name}, MiB" for name in PRECISIONS)]
    ]
    for batch in plan.batches:
        images = torch.randn(batch, 3, network.image_size, network.image_size, device=machine.device)
        speeds, peaks = [], []
        for dtype in PRECISIONS.values():

            def encode(images: Tensor = images, dtype: torch.dtype | None = dtype) -> object:
                with machine.precision(dtype):
                    return network.encode(images)

            peaks.append(machine.peak(encode))
            speeds.append(f"{batch / machine.seconds(encode, plan.repeats):.1f}")
        rows.append([str(batch), *speeds, *peaks])
    return rows


def decoding(network: LMSFESAM, machine: Machine, plan: Plan) -> Table:
    """Boxes decoded in a second on one image, by how many are decoded together."""
    rows = [["boxes together", *(f"{name}, boxes/s" for name in PRECISIONS)]]
    side = network.image_size
    image = torch.randn(1, 3, side, side, device=machine.device)
    corners = torch.rand(1, max(plan.prompts), 2, device=machine.device) * side / 2
    boxes = torch.cat([corners, corners + side / 4], dim=-1)
    for count in plan.prompts:
        speeds = []
        for dtype in PRECISIONS.values():
            with machine.precision(dtype):
                embedding = network.encode(image)
                taken = machine.seconds(
                    lambda e=embedding, n=count: network.decode(e, boxes=boxes[:, :n]),  # type: ignore[misc]
                    plan.repeats,
                )
            speeds.append(f"{count / taken:.1f}")
        rows.append([str(count), *speeds])
    return rows


def half_precision(network: LMSFESAM, machine: Machine, plan: Plan) -> Table:
    """How far masks of phantoms in half precision are from those in single precision."""
    rows = [
        [
            "precision",
            "largest difference of a logit",
            "pixels that differ",
            "least Dice",
            "IoU head, largest",
        ]
    ]
    answers = {
        name: list(_phantom_answers(network, machine, plan, dtype)) for name, dtype in PRECISIONS.items()
    }
    for name in list(PRECISIONS)[1:]:
        differences, changed, dices, heads = [], [], [], []
        for (logits, iou), (exact, exact_iou) in zip(answers[name], answers["float32"], strict=True):
            mask, expected = logits > 0, exact > 0
            differences.append(float((logits - exact).abs().max()))
            changed.append(float((mask != expected).float().mean()))
            total = int(mask.sum() + expected.sum())
            dices.append(2 * int((mask & expected).sum()) / total if total else 1.0)
            heads.append(float((iou - exact_iou).abs().max()))
        rows.append(
            [
                name,
                f"{max(differences):.3f}",
                f"{100 * statistics.mean(changed):.3f} %",
                f"{min(dices):.4f}",
                f"{max(heads):.4f}",
            ]
        )
    return rows


def _phantom_answers(
    network: LMSFESAM, machine: Machine, plan: Plan, dtype: torch.dtype | None
) -> Iterator[tuple[Tensor, Tensor]]:
    side = network.image_size
    for number in range(plan.phantoms):
        image, mask = render_phantom(number, (side, side))
        box = torch.tensor(tight_box(mask), dtype=torch.float32, device=machine.device)[None, None]
        with machine.precision(dtype):
            embedding = network.encode(prepare(image, side)[None].to(machine.device))
            logits, iou = network.decode(embedding, boxes=box)
        yield logits.float().cpu(), iou.float().cpu()


def pinned_memory(network: LMSFESAM, machine: Machine, plan: Plan) -> Table:
    """Sending a batch of images as they are, and from pinned memory."""
    rows = [["batch", "pageable, ms", "pinned, ms"]]
    for batch in plan.batches:
        images = torch.zeros(batch, 3, network.image_size, network.image_size)
        taken = [machine.seconds(lambda i=images: i.to(machine.device), plan.repeats)]  # type: ignore[misc]
        if machine.is_gpu:
            ready = images.pin_memory()
            taken.append(
                machine.seconds(
                    lambda r=ready: r.to(machine.device, non_blocking=True),  # type: ignore[misc]
                    plan.repeats,
                )
            )
        rows.append([str(batch), *(f"{1000 * seconds:.3f}" for seconds in taken), *[""] * (2 - len(taken))])
    return rows


def windows(network: LMSFESAM, machine: Machine, plan: Plan) -> Table:
    """A large image with many boxes: seconds of one run, and memory, which must not grow with the image."""
    rows = [["side", "boxes", "way", "windows together", "precision", "seconds", "MiB"]]
    rng = np.random.default_rng(0)
    for side in plan.sides:
        image = torch.from_numpy(rng.integers(0, 256, (3, side, side), np.uint8))
        corners = rng.integers(0, side - side // 8, (plan.boxes, 2))
        sizes = rng.integers(16, side // 8, (plan.boxes, 2))
        boxes = np.concatenate([corners, corners + sizes], axis=1)
        prompts = Prompts.of([ObjectPrompt(box=box) for box in boxes.tolist()]).given()
        prompted = MetaTensor(image[None], meta={PROMPTS: prompts})
        for batch in plan.window_batches:
            inferers = {
                "window": PromptedWindowInferer(sw_batch_size=batch),
                "zoom": ZoomInferer(batch_size=batch, cached_embeddings=0),
            }
            for way, inferer in inferers.items():
                for name in ("float32", "bfloat16"):
                    answers = []

                    def segment(inferer: Any = inferer, name: str = name, answers: list = answers) -> None:
                        with machine.precision(PRECISIONS[name]):
                            answers.append(inferer(prompted, network)[LABELS])  # noqa: B023

                    began = time.perf_counter()
                    peak = machine.peak(segment)
                    taken = time.perf_counter() - began
                    assert answers[-1].shape == (1, 1, side, side)
                    rows.append([str(side), str(plan.boxes), way, str(batch), name, f"{taken:.2f}", peak])
    return rows


STEPS: dict[str, Callable[[LMSFESAM, Machine, Plan], Table]] = {
    "Encoding": throughput,
    "Decoding": decoding,
    "Half precision against single": half_precision,
    "Pinned memory": pinned_memory,
    "Windows of large images": windows,
}


def markdown(rows: Table) -> str:
    header, *body = rows
    lines = [header, ["---"] * len(header), *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


@torch.no_grad()
def checklist(network: LMSFESAM, machine: Machine, plan: Plan) -> str:
    """Measure everything, printing each table as it comes; return the page."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    parts = [
        "# The network on a GPU",
        f"`python benchmarks/gpu_checklist.py`: {machine.describe()}, torch {torch.__version__}, "
        f"{network.preset} at {network.image_size}; medians of {plan.repeats} run(s).",
    ]
    print("\n\n".join(parts), flush=True)
    for title, step in STEPS.items():
        section = f"## {title}\n\n{step.__doc__}\n\n{markdown(step(network, machine, plan))}"
        print(f"\n{section}", flush=True)
        parts.append(section)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    parts.append(
        f"Peak of the process in the computer's own memory: {most:.0f} MiB, {host:.0f} at the start."
    )
    print(f"\n{parts[-1]}")
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure the network on a GPU.")
    parser.add_argument("--device", default="cuda", help="cpu runs a small form (default cuda)")
    parser.add_argument("--checkpoint", default="bundle/models/model.pt")
    parser.add_argument("--output", type=Path, help="a markdown file for the tables")
    options = parser.parse_args(arguments)
    plain_errors()
    check_device(options.device)
    machine = Machine(options.device)
    network = network_from_checkpoint(options.checkpoint).to(machine.device).eval()
    page = checklist(network, machine, Plan() if machine.is_gpu else SMALL)
    if options.output:
        with atomic_write(options.output) as temporary:
            temporary.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
