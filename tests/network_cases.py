"""Small networks, images and prompts of every kind for the tests of the network."""

from __future__ import annotations

import torch
from torch import Tensor

from lmsfe_sam import LMSFESAM, ImageEmbedding
from sam_med2d import randomise
from tiny import SIZE

NAN = float("nan")
TOLERANCE = {"atol": 1e-5, "rtol": 0.0}

BOX = torch.tensor([10.0, 12, 40, 50])
CLICKS = torch.tensor([[20.0, 22], [50.0, 9], [33.0, 44]])
LABELS = torch.tensor([1, 0, 1])
MASK = torch.randn(16, 16, generator=torch.Generator().manual_seed(8))


def build(preset: str, seed: int = 0, **toggles: bool) -> LMSFESAM:
    """A small network with random weights everywhere, also where they start at zero."""
    torch.manual_seed(seed)
    return randomise(LMSFESAM(preset, SIZE, **toggles), seed, gain=1.0).eval()


def images(count: int) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(7))


def image_of(embedding: ImageEmbedding, i: int) -> ImageEmbedding:
    return ImageEmbedding(embedding.features[i : i + 1], [skip[i : i + 1] for skip in embedding.skips])


def every_kind(batch: int) -> dict[str, Tensor]:
    """Six objects an image: box, click, clicks, box and clicks, mask and box, nothing."""
    boxes = torch.full((6, 4), NAN)
    boxes[[0, 3, 4]] = BOX
    labels = torch.full((6, 3), -1)
    labels[1, 0] = 1
    labels[2] = LABELS
    labels[3, :2] = LABELS[:2]
    masks = torch.full((6, 16, 16), NAN)
    masks[4] = MASK
    prompts = {"boxes": boxes, "points": CLICKS.expand(6, -1, -1), "point_labels": labels, "masks": masks}
    return {name: value[None].expand(batch, *value.shape) for name, value in prompts.items()}


EACH_KIND = [
    {"boxes": BOX[None, None]},
    {"points": CLICKS[None, None, :1], "point_labels": LABELS[None, None, :1]},
    {"points": CLICKS[None, None], "point_labels": LABELS[None, None]},
    {"boxes": BOX[None, None], "points": CLICKS[None, None, :2], "point_labels": LABELS[None, None, :2]},
    {"boxes": BOX[None, None], "masks": MASK[None, None]},
    {},
]
