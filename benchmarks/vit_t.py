"""The default network: encode, decode, a whole `Predictor` call, a training step, and memory.

Run from the root of the repository: ``python benchmarks/vit_t.py``.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from lmsfe_sam import LMSFESAM, Predictor
from timing import arguments, interleave, print_times

ROOT = Path(__file__).resolve().parents[1]
BOX = [120, 90, 330, 260]

MEMORY = """
import re, numpy as np, torch
def peak():
    return re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
torch.set_num_threads({threads})
before = peak()
from lmsfe_sam import LMSFESAM, Predictor
imported = peak()
predictor = Predictor(LMSFESAM("vit_t"))
for _ in range(3):
    predictor.set_image(np.zeros((460, 600, 3), np.uint8))
    predictor.predict(box={box})
print(before, imported, peak())
"""


def inference(repeats: int) -> None:
    """Time what a user waits for, on an image of 600 x 460 pixels."""
    predictor = Predictor(LMSFESAM("vit_t"))
    first = Predictor(LMSFESAM("vit_t"))
    first.model.to(memory_format=torch.contiguous_format)
    model = predictor.model
    array = np.random.default_rng(0).integers(0, 256, (460, 600, 3), dtype=np.uint8)
    image = torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        embedding = model.encode(image)
    predictor.set_image(array)
    eight = torch.tensor([30.0, 40, 120, 150]).repeat(1, 8, 1) + torch.arange(8)[None, :, None]
    tasks = {
        "encode": lambda: model.encode(image),
        "decode, a box": lambda: model.decode(embedding, boxes=eight[:, :1]),
        "decode, a click": lambda: model.decode(
            embedding, points=eight[:, :1, None, :2], point_labels=torch.ones(1, 1, 1)
        ),
        "decode, 8 boxes (each)": lambda: model.decode(embedding, boxes=eight),
        "network without a prompt": lambda: model(image),
        "Predictor.set_image": lambda: predictor.set_image(array),
        "Predictor.predict": lambda: predictor.predict(box=BOX),
        "set_image and predict": lambda: (predictor.set_image(array), predictor.predict(box=BOX)),
        "the same, channels first": lambda: (first.set_image(array), first.predict(box=BOX)),
    }
    samples = interleave(tasks, repeats, warm_up=3)
    print_times("vit_t at 256", samples, {"decode, 8 boxes (each)": 8})


def memory(threads: int) -> None:
    """Print the peak of resident memory of a fresh process that segments one image (Linux only)."""
    program = MEMORY.format(threads=threads, box=BOX)
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    torch_alone, imported, peak = (int(word) / 1024 for word in out.stdout.split()[-3:])
    print("\nPeak resident memory [MiB]")
    print(f"torch and numpy imported {torch_alone:.0f}, lmsfe_sam, too {imported:.0f}, segmenting {peak:.0f}")


def training(repeats: int) -> None:
    """Time training steps as ``train.json`` makes them: 8 images, its prompts, its corrections, its loss.

    The second kind has the shipped network as a teacher.
    """
    from lmsfe_sam.prompts.sampling import MixedPrompts
    from lmsfe_sam.training.distillation import Teachers, read_teachers
    from lmsfe_sam.training.iteration import PromptedSteps
    from lmsfe_sam.training.losses import PromptedLoss

    config = json.loads((ROOT / "bundle" / "configs" / "train.json").read_text())
    options = {name: value for name, value in config["train"]["loss"].items() if name != "_target_"}
    loss_function = PromptedLoss(**options)
    sampler = MixedPrompts(config["prompt_kinds"], config["prompts_per_image"])
    batch = config["batch_size"]
    torch.manual_seed(0)
    steps = PromptedSteps(LMSFESAM("vit_t"), config["correction_steps"]).train()
    optimizer = torch.optim.AdamW(steps.parameters(), lr=1e-4)
    images = torch.randn(batch, 3, 256, 256)
    target = torch.zeros(batch, 1, 256, 256)
    for i in range(batch):
        target[i, :, 60 + 5 * i : 130 + 9 * i, 40 + 7 * i : 150 + 3 * i] = 1
    rng = np.random.default_rng(0)
    teachers = read_teachers([str(ROOT / "bundle" / "models" / "model.pt")], 256, "cpu")

    def step(teachers: Teachers | None = None) -> None:
        with torch.enable_grad():
            optimizer.zero_grad(set_to_none=True)
            prompts = sampler(target, rng)[0]
            soft = (
                [] if teachers is None else [teachers.soften(target, teachers.predict(images, prompts, rng))]
            )
            first, *others = steps(images, prompts, target, rng)
            losses = [loss_function(first, target, *soft), *(loss_function(each, target) for each in others)]
            torch.stack(losses).mean().backward()
            optimizer.step()

    tasks = {"training step": step, "with a teacher": lambda: step(teachers)}
    samples = interleave(tasks, repeats, warm_up=2)
    print_times(f"vit_t, {batch} images a step, {config['prompts_per_image']} prompts an image", samples)
    seconds = samples["training step"]
    print(
        f"images/s: {batch / statistics.median(seconds.wall):.1f} (median), {batch / min(seconds.wall):.1f} "
        f"(best); {batch / statistics.median(seconds.cpu):.1f} a second of processor time"
    )


def main() -> None:
    options = arguments("Time the default network.", repeats=31)
    inference(options.repeats)
    memory(options.threads)
    training(max(3, options.repeats // 3))


if __name__ == "__main__":
    main()
