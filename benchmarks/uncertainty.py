"""How much of the true outline lies in the band of uncertainty, and how wide that band is.

The band is where a network's probability is between a low and a high level. For each prompt and each pair of
levels: the share of the true outline's pixels inside of the band (mean over the images, with a 95 % interval
over groups), and the band's area over the length of the true outline, which is its mean width.

Run from the root of the repository, on a validation part:
``python benchmarks/uncertainty.py --dataset_dir DIR --checkpoint bundle/models/model.pt``.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import numpy as np
import torch
from skimage.segmentation import find_boundaries

from lmsfe_sam.data.datalist import build_datalist
from lmsfe_sam.data.masks.objects import connected_parts
from lmsfe_sam.data.masks.reading import resize_mask
from lmsfe_sam.data.transforms.loading import load_image_and_mask
from lmsfe_sam.evaluation.protocol import mode_rng
from lmsfe_sam.evaluation.statistics import Resampling
from lmsfe_sam.predict.decoding import decode_prompts
from lmsfe_sam.predict.predictor import Predictor
from lmsfe_sam.predict.preprocessing import prepare
from lmsfe_sam.prompts.prompt import ObjectPrompt, Prompts
from lmsfe_sam.prompts.simulate import first_click, jitter_box, tight_box

LEVELS = ((0.25, 0.75), (0.1, 0.9), (0.05, 0.95), (0.02, 0.98))


def main() -> None:
    parser = argparse.ArgumentParser(description="Coverage and width of the band of uncertainty.")
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--checkpoint", default="bundle/models/model.pt")
    parser.add_argument("--split", default="val")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = Predictor.from_checkpoint(options.checkpoint).model
    records = build_datalist(options.dataset_dir).select(options.split)
    coverage, width = defaultdict(list), defaultdict(list)
    groups = []
    for record in records:
        size = network.image_size
        image, mask = load_image_and_mask(record)
        truth = resize_mask(mask, (size, size)) > 0
        if not truth.any():
            continue
        groups.append(str(record.get("group", record["image"])))
        largest = max(connected_parts(truth), key=np.count_nonzero)
        with torch.inference_mode():
            embedding = network.encode(prepare(image, size)[None])
            for mode, (prompts, target) in asked(truth, largest, str(record["image"])).items():
                logits, _ = decode_prompts(network, embedding, prompts)
                probability = logits[0, 0].sigmoid().numpy()
                outline = find_boundaries(target, mode="inner")
                for low, high in LEVELS:
                    band = (probability > low) & (probability < high)
                    coverage[mode, low].append(band[outline].mean())
                    width[mode, low].append(band.sum() / outline.sum())
    resampling = Resampling(groups)
    print(f"{len(groups)} images, {size} x {size}\n")
    print("| prompt | band between | share of the true outline in it | 95 % interval | mean width (px) |")
    print("| --- | --- | --- | --- | --- |")
    for (mode, low), values in coverage.items():
        mean, least, most = resampling.estimate(values)
        print(
            f"| {mode} | {low:g} and {1 - low:g} | {mean:.3f} | {least:.3f} to {most:.3f} | "
            f"{np.mean(width[mode, low]):.1f} |"
        )


def asked(truth: np.ndarray, largest: np.ndarray, name: str) -> dict[str, tuple[Prompts, np.ndarray]]:
    """Prompts of one image in the network's pixels, each with its target."""
    box = tight_box(largest)
    loose = jitter_box(box, 0.1, mode_rng(0, name, "box_jitter_10"))
    kinds = {
        "box": ObjectPrompt(box=tuple(box)),
        "box_jitter_10": ObjectPrompt(box=tuple(loose)),
        "point": ObjectPrompt(points=[first_click(largest)], labels=[1]),
    }
    batches = {mode: Prompts.of([prompt]).map(lambda values: values[None]) for mode, prompt in kinds.items()}
    return {**{mode: (batch, largest) for mode, batch in batches.items()}, "none": (Prompts(), truth)}


if __name__ == "__main__":
    main()
