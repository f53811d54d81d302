"""Carrying a mask through a cine, against one prompt a frame and against optical flow of the first mask.

    python benchmarks/cine.py [--loops 4] [--frames 24] [--images FOLDER]

Phantom loops with exact masks: a lesion that drifts, one that is pressed flat and let go, a probe that
slides along (everything moves), and a lesion that leaves the picture. With ``--images``, a folder with
``images/`` and ``masks/``: real images warped slowly by a smooth field, speckle and all. The first frame has
the tight box of the true mask. One line a method and motion: mean Dice over the frames in which the lesion
shows, Dice of the last such frame, and of the frames in which it does not, the share that is rightly empty.
"""

from __future__ import annotations

import argparse
import glob
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import map_coordinates
from skimage.registration import optical_flow_ilk

from lmsfe_sam import Predictor
from lmsfe_sam.data.phantoms.anatomy import breast
from lmsfe_sam.data.phantoms.bmode import Scanner, smooth_field
from lmsfe_sam.data.phantoms.lesions import draw_kind, draw_lesion
from lmsfe_sam.files import own_bundle
from lmsfe_sam.predict.postprocessing import paint_objects
from lmsfe_sam.predict.tracking import Tracking, track
from lmsfe_sam.prompts.prompt import ObjectPrompt

SIZE = (256, 340)
Loop = tuple[list[np.ndarray], list[np.ndarray]]
MOTIONS = ("drift", "deformation", "probe", "leaves")


def phantom_loop(seed: int, motion: str, count: int) -> Loop:
    """Return pictures (H, W) uint8 and exact masks (H, W) bool of a loop.

    The scatterers are drawn once and move with the tissue where the probe moves; a lesion that moves in its
    tissue has speckle of its own in every frame, as after decorrelation.
    """
    rng = np.random.default_rng([seed, MOTIONS.index(motion)])
    medium, site = breast(SIZE, rng)
    kind = draw_kind(rng)
    lesion = draw_lesion(kind, SIZE, site, rng)
    scanner = Scanner.random(rng)
    direction = 1 if lesion.outline.x < SIZE[1] / 2 else -1
    state = rng.bit_generator.state
    pictures, masks = [], []
    for frame in range(count):
        t = frame / (count - 1)
        outline = lesion.outline
        shift = 0.0
        if motion == "drift":
            outline = replace(outline, x=outline.x + direction * 50 * t, y=outline.y + 12 * np.sin(4 * t))
        elif motion == "deformation":
            press = 1 - 0.35 * np.sin(np.pi * t)
            outline = replace(outline, semi_y=outline.semi_y * press, semi_x=outline.semi_x / press)
        elif motion == "leaves":
            outline = replace(outline, x=outline.x - direction * (SIZE[1] * 0.9) * t)
        else:
            shift = direction * 40 * t
        rng.bit_generator.state = state  # the same scatterers and the same noise in every frame
        one, mask = deepcopy(medium), np.zeros(SIZE, bool)
        if (outline.level(SIZE)[1] < 1).any():
            replace(lesion, outline=outline).insert(one, mask, rng)
        picture = scanner.scan(one.echogenicity, one.loss, np.random.default_rng([seed, 1]))
        if shift:
            picture = _shift(picture, shift)
            mask = _shift(mask.astype(np.uint8), shift, order=0).astype(bool)
        pictures.append(picture)
        masks.append(mask)
    return pictures, masks


def _shift(picture: np.ndarray, by: float, order: int = 1) -> np.ndarray:
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]].astype(np.float32)
    return map_coordinates(picture, [y, x - by], order=order, mode="nearest")


def warped_loop(image: np.ndarray, mask: np.ndarray, seed: int, count: int) -> Loop:
    """Return a real image and its mask, warped slowly along a smooth field and by a slow shift."""
    rng = np.random.default_rng(seed)
    fields = [0.03 * min(image.shape) * smooth_field(image.shape, (3, 3), rng) for _ in range(2)]
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    pictures, masks = [], []
    for frame in range(count):
        t = frame / (count - 1)
        places = [y + t * fields[0], x + t * fields[1] + 0.06 * image.shape[1] * np.sin(2 * t)]
        pictures.append(map_coordinates(image, places, order=1, mode="nearest"))
        masks.append(map_coordinates(mask.astype(np.uint8), places, order=0, mode="nearest") > 0)
    return pictures, masks


def box_of(mask: np.ndarray) -> list[float]:
    rows, columns = mask.nonzero()
    return [float(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]


def dice(one: np.ndarray, other: np.ndarray) -> float:
    total = one.sum() + other.sum()
    return 2 * (one & other).sum() / total if total else 1.0


def tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.repeat(picture[None], 3, axis=0))


def carried(predictor: Predictor, loop: Loop, settings: Tracking) -> list[np.ndarray]:
    pictures, masks = loop
    prompts = {0: [ObjectPrompt(box_of(masks[0]))]}
    frames = range(len(pictures))
    found = track(predictor.model, lambda k: tensor(pictures[k]), frames, prompts, settings)
    result = []
    for frame in frames:
        prediction = found[frame][0].prediction
        parts = [] if prediction is None else [prediction.parts()]
        result.append(paint_objects(parts, [1.0] * len(parts), masks[0].shape) > 0)
    return result


def each_prompted(predictor: Predictor, loop: Loop) -> list[np.ndarray]:
    result = []
    for picture, mask in zip(*loop, strict=True):
        if not mask.any():
            result.append(mask)
            continue
        predictor.set_image(picture)
        result.append(predictor.segment([ObjectPrompt(box_of(mask))])[0] > 0)
    return result


def flowed(predictor: Predictor, loop: Loop) -> list[np.ndarray]:
    """The network's mask of the first frame, moved along the optical flow from frame to frame."""
    pictures, masks = loop
    predictor.set_image(pictures[0])
    current = (predictor.segment([ObjectPrompt(box_of(masks[0]))])[0] > 0).astype(np.float32)
    result = [current > 0.5]
    y, x = np.mgrid[: current.shape[0], : current.shape[1]].astype(np.float32)
    for before, after in pairwise(pictures):
        v, u = optical_flow_ilk(after.astype(np.float32), before.astype(np.float32), radius=9)
        current = map_coordinates(current, [y + v, x + u], order=1, mode="constant")
        result.append(current > 0.5)
    return result


METHODS: dict[str, Callable[[Predictor, Loop], list[np.ndarray]]] = {
    "mask and box carried": lambda p, loop: carried(p, loop, Tracking()),
    "box carried": lambda p, loop: carried(p, loop, Tracking(feed_mask=False)),
    "true box in every frame": each_prompted,
    "optical flow of the first mask": flowed,
}


def score(found: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> tuple[float, float, float]:
    shown = [dice(one, mask) for one, mask in zip(found, masks, strict=True) if mask.any()]
    gone = [not one.any() for one, mask in zip(found, masks, strict=True) if not mask.any()]
    return float(np.mean(shown)), shown[-1], float(np.mean(gone)) if gone else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loops", type=int, default=4)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--images", type=Path)
    options = parser.parse_args()
    predictor = Predictor.from_bundle(own_bundle())
    loops = {
        motion: [phantom_loop(seed, motion, options.frames) for seed in range(options.loops)]
        for motion in MOTIONS
    }
    if options.images is not None:
        files = sorted((options.images / "images").iterdir())[: options.loops]
        masks = [next((options.images / "masks").glob(f"{glob.escape(file.stem)}.*")) for file in files]
        pairs = [(grey(file), grey(mask) > 127) for file, mask in zip(files, masks, strict=True)]
        loops["real, warped"] = [warped_loop(*pair, seed, options.frames) for seed, pair in enumerate(pairs)]
    print("| motion | method | mean Dice | Dice of the last frame | rightly empty |")
    print("| --- | --- | --- | --- | --- |")
    for motion, own in loops.items():
        for method, run in METHODS.items():
            rows = np.array([score(run(predictor, loop), loop[1]) for loop in own])
            mean, last = rows[:, 0].mean(), rows[:, 1].mean()
            empty = "-" if np.isnan(rows[:, 2]).all() else f"{np.nanmean(rows[:, 2]):.2f}"
            print(f"| {motion} | {method} | {mean:.3f} | {last:.3f} | {empty} |", flush=True)


def grey(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("L"))


if __name__ == "__main__":
    main()
