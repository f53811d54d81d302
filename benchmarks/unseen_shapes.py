"""Boxes and clicks on structures of a shape and a look that no training phantom has, against the ellipse.

Rings (an ellipse with a bright wall, as a head in cross-section), tubes (a bent vessel along its length),
slabs (a muscle between two fasciae), crescents and stars are drawn into the tissue of phantoms whose numbers
no training uses. For each shape and prompt: mean Dice with a 95 % interval over the pictures, that of the
ellipse inscribed in the same box, and their paired difference.

Run from the root of the repository:
``python benchmarks/unseen_shapes.py --checkpoint bundle/models/model.pt --count 40``.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from lmsfe_sam.data.phantoms.anatomy import breast, neck, smooth_step
from lmsfe_sam.data.phantoms.bmode import Scanner, smooth_field
from lmsfe_sam.evaluation.protocol import inscribed_ellipse, mode_box
from lmsfe_sam.evaluation.statistics import Resampling
from lmsfe_sam.predict.predictor import Predictor
from lmsfe_sam.prompts.simulate import first_click

SIDE = 256
BOXES = ("box", "box_jitter_10", "box_jitter_20")

Shape = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
"""From x and y, -1 to 1 over the structure's extent, to its mask."""


def ring(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return x**2 + (y / rng.uniform(0.7, 0.95)) ** 2 < 1


def tube(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    bend, width = rng.uniform(-0.5, 0.5), rng.uniform(0.1, 0.2)
    return (np.abs(x) < 1) & (np.abs(y - bend * (x**2 - 0.5)) < width)


def slab(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    half, lean = rng.uniform(0.25, 0.5), rng.uniform(-0.2, 0.2)
    return (np.abs(x) < 1) & (np.abs(y - lean * x) < half)


def crescent(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    shift = rng.uniform(0.35, 0.6)
    return (x**2 + y**2 < 1) & (x**2 + (y + shift) ** 2 > rng.uniform(0.75, 0.95) ** 2)


def star(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    points, depth = int(rng.integers(4, 8)), rng.uniform(0.25, 0.4)
    return np.hypot(x, y) < (1 - depth) + depth * np.cos(points * np.arctan2(y, x) + rng.uniform(0, 6))


SHAPES: dict[str, Shape] = {"ring": ring, "tube": tube, "slab": slab, "crescent": crescent, "star": star}


def draw(name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture (H, W) uint8 and the mask (H, W) bool of its structure."""
    rng = np.random.default_rng([seed, list(SHAPES).index(name)])
    medium, _ = (neck if rng.random() < 0.5 else breast)((SIDE, SIDE), rng)
    extent = rng.uniform(0.16, 0.42) * SIDE
    centre = rng.uniform(0.3 * SIDE, 0.7 * SIDE, 2)
    angle = rng.normal(0, 0.4)
    down, across = (np.indices((SIDE, SIDE)) + 0.5 - centre[:, None, None]) / extent
    x = np.cos(angle) * across + np.sin(angle) * down
    y = np.cos(angle) * down - np.sin(angle) * across
    mask = SHAPES[name](x, y, rng)
    depth = distance_transform_edt(mask) - distance_transform_edt(~mask)
    inside = smooth_step(depth / rng.uniform(2, 5) + 0.5)
    level = rng.choice([rng.uniform(-22, -8), rng.uniform(7, 14)], p=[0.7, 0.3])
    texture = rng.uniform(1, 4) * smooth_field((SIDE, SIDE), (12, 12), rng)
    wall = rng.uniform(8, 20) if name == "ring" else rng.choice([0, rng.uniform(4, 12)])
    medium.echogenicity += inside * (level + texture) + wall * np.exp(-((depth / 2.5) ** 2))
    return Scanner.random(rng).scan(medium.echogenicity.astype(np.float32), medium.loss, rng), mask


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description="Dice on shapes that no training phantom has.")
    parser.add_argument("--checkpoint", default="bundle/models/model.pt")
    parser.add_argument("--count", type=int, default=40, help="pictures of each shape")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    predictor = Predictor.from_checkpoint(options.checkpoint)
    print("| shape | prompt | Dice | 95 % interval | ellipse | difference | 95 % interval |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    total: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for name in SHAPES:
        scores: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for number in range(options.count):
            picture, mask = draw(name, options.seed * 10_000 + number)
            predictor.set_image(picture)
            for mode in BOXES:
                box = mode_box(mode, mask, options.seed, f"{name}{number}")
                masks, _, _ = predictor.predict(box=box)
                scores[mode].append((dice(masks[0], mask), dice(inscribed_ellipse(box, mask.shape), mask)))
            masks, iou, _ = predictor.predict(points=[first_click(mask)], labels=[1])
            scores["point"].append((dice(masks[int(np.argmax(iou))], mask), float("nan")))
        for mode, values in scores.items():
            print(row(name, mode, values))
            total[mode] += values
    for mode, values in total.items():
        print(row("all", mode, values))


def row(name: str, mode: str, values: list[tuple[float, float]]) -> str:
    own, ellipse = np.array(values).T
    resampling = Resampling([str(number) for number in range(len(values))])
    mean, low, high = resampling.estimate(own)
    cells = [name, mode, f"{mean:.3f}", f"{low:.3f} to {high:.3f}"]
    if np.isnan(ellipse).any():
        return f"| {' | '.join([*cells, '-', '-', '-'])} |"
    gap, least, most = resampling.estimate(own - ellipse)
    cells += [f"{ellipse.mean():.3f}", f"{gap:+.3f}", f"{least:+.3f} to {most:+.3f}"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
