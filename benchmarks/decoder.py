"""Several box prompts on one ViT-B image: in one batch against one by one, and segment_anything's decoder.

Run from the root of the repository: ``python benchmarks/decoder.py``.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lmsfe_sam import LMSFESAM, ImageEmbedding
from lmsfe_sam.model.presets import PRESETS
from timing import arguments, interleave, print_target, print_times

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from sam_med2d import build_sam, randomise

OFF = dict.fromkeys(("local_encoder", "mhpm", "adapters", "balancing_adapter"), False)


def one_by_one(model: LMSFESAM, embedding: ImageEmbedding, boxes: Tensor) -> Tensor:
    return torch.cat([model.decode(embedding, boxes=box[None, None])[0] for box in boxes], dim=1)


def main() -> None:
    options = arguments("Time the mask decoder.", repeats=21)
    sam = randomise(build_sam(PRESETS["vit_b"], 256), 0)
    model = LMSFESAM("vit_b", **OFF).eval()
    model.load_state_dict(sam.state_dict())
    generator = torch.Generator().manual_seed(0)
    embedding = ImageEmbedding(torch.randn(1, 256, 16, 16, generator=generator), [])
    corner = torch.rand(32, 2, generator=generator) * 150
    boxes = torch.cat([corner, corner + 20 + torch.rand(32, 2, generator=generator) * 80], dim=1)

    def plain(count: int) -> Tensor:
        sparse, dense = sam.prompt_encoder(None, boxes[:count], None)
        positions = sam.prompt_encoder.get_dense_pe()
        low, _ = sam.mask_decoder(embedding.features, positions, sparse, dense, multimask_output=False)
        return torch.nn.functional.interpolate(low, (256, 256), mode="bilinear", align_corners=False)

    with torch.no_grad():
        expected = plain(32).transpose(0, 1)
        for found in (model.decode(embedding, boxes=boxes[None])[0], one_by_one(model, embedding, boxes)):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)

    for count, target in ((8, 0.55), (32, 0.50)):
        tasks = {
            "one by one": partial(one_by_one, model, embedding, boxes[:count]),
            "in one batch": partial(model.decode, embedding, boxes=boxes[None, :count]),
            "segment_anything, one batch": partial(plain, count),
        }
        samples = interleave(tasks, options.repeats, warm_up=2)
        print_times(f"{count} boxes on one image, a box", samples, dict.fromkeys(tasks, count))
        print_target(f"{count} in one batch / one by one", samples, "in one batch", "one by one", target)


if __name__ == "__main__":
    main()
