"""How far two outlines of the same lesion are apart: the pairs of a set that show the same frame twice.

A set that holds one frame twice (with and without markings, or as two files) has two outlines of it, drawn
at different times or by different readers. Their Dice is what one outline scores as a prediction of the
other: no network that knows nothing of who drew can be expected to do much better. Three figures are printed:

- whole: the two outlines as they are, as far as a click or no prompt can decide;
- same lesion: only pairs above a Dice of .7, where both mean the same thing;
- same box: in those, the second outline stretched to the first one's tight box, as a box prompt allows.

Run from the root of the repository: ``python benchmarks/label_noise.py --dataset_dir DIR``.
"""

from __future__ import annotations

import argparse

import numpy as np
from skimage.registration import phase_cross_correlation
from skimage.transform import AffineTransform, warp

from lmsfe_sam.data.datalist import build_datalist
from lmsfe_sam.data.duplicates import find_pairs
from lmsfe_sam.data.masks.reading import resize_mask
from lmsfe_sam.data.transforms.loading import load_image_and_mask
from lmsfe_sam.evaluation.metrics import dice
from lmsfe_sam.evaluation.protocol import inscribed_ellipse
from lmsfe_sam.evaluation.statistics import Resampling
from lmsfe_sam.predict.preprocessing import prepare
from lmsfe_sam.prompts.simulate import tight_box

SIZE = 256
FARTHEST = 16
"""Pixels that one frame may be shifted against the other."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Two outlines of one frame, against each other.")
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--alike", type=float, default=0.98, help="least correlation of the two frames")
    parser.add_argument("--same", type=float, default=0.7, help="least Dice of the same lesion")
    options = parser.parse_args()
    records = build_datalist(options.dataset_dir).select("all")
    pairs = find_pairs([record["image"] for record in records])
    rows = [compare(records[pair.first], records[pair.second]) for pair in pairs]
    rows = [row for row in rows if row[0] >= options.alike]
    if not rows:
        raise SystemExit(f"No two frames of '{options.dataset_dir}' correlate by {options.alike} or more.")
    same = [row for row in rows if row[1] >= options.same]
    print(
        f"{len(pairs)} near-duplicates, {len(rows)} of them the same frame, "
        f"{len(same)} the same lesion in it\n"
    )
    print("| Dice at 256 x 256 | pairs | mean | 95 % interval | median | first quartile |")
    print("| --- | --- | --- | --- | --- | --- |")
    line("whole", [row[1] for row in rows])
    line("same lesion", [row[1] for row in same])
    line("same lesion, same box", [row[2] for row in same])
    line("the ellipse in that box, for comparison", [row[3] for row in same])


def compare(first: dict, second: dict) -> tuple[float, float, float, float]:
    """Correlation of two frames; Dice of their masks, of the masks in one box, of the ellipse in it."""
    (frame, mask), (other_frame, other) = load(first), load(second)
    shift = phase_cross_correlation(frame, other_frame, normalization=None)[0]
    if np.abs(shift).max() > FARTHEST:
        return 0.0, 0.0, 0.0, 0.0
    moved = AffineTransform(translation=-shift[::-1])
    seen = warp(np.ones_like(frame), moved) > 0.99
    similarity = np.corrcoef(frame[seen], warp(other_frame, moved)[seen])[0, 1]
    other = warp(other.astype(float), moved) > 0.5
    if not other.any():
        return float(similarity), 0.0, 0.0, 0.0
    box = tight_box(mask)
    ellipse = inscribed_ellipse(box, mask.shape)
    return float(similarity), dice(mask, other), dice(mask, stretch(other, box)), dice(mask, ellipse)


def load(record: dict) -> tuple[np.ndarray, np.ndarray]:
    """One picture in grey and its mask, both (SIZE, SIZE)."""
    image, mask = load_image_and_mask(record)
    resized = resize_mask(mask, (SIZE, SIZE))
    return prepare(image, SIZE).mean(dim=0).numpy().astype(float), resized > 0


def stretch(mask: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Bring a mask's own tight box to ``box``."""
    own = tight_box(mask)
    scale = (own[2:] - own[:2]) / (box[2:] - box[:2])
    back = AffineTransform(scale=scale, translation=own[:2] - 0.5 - scale * (box[:2] - 0.5))
    return warp(mask.astype(float), back) > 0.5


def line(name: str, values: list[float]) -> None:
    """Print a row; each pair is drawn by itself in the bootstrap."""
    mean, low, high = Resampling([str(number) for number in range(len(values))]).estimate(values)
    print(
        f"| {name} | {len(values)} | {mean:.3f} | {low:.3f} to {high:.3f} | "
        f"{np.median(values):.3f} | {np.quantile(values, 0.25):.3f} |"
    )


if __name__ == "__main__":
    main()
