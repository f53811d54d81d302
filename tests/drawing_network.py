"""A stand-in for the network that draws its prompts, and records the prompts that it was given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lmsfe_sam.model.network import ImageEmbedding


class DrawingNetwork(nn.Module):
    """A box gives the ellipse in it, positive clicks give discs with those of negative ones taken out.

    Without a prompt the pixels brighter than 0 are lesion. The predicted IoU is .25 for boxes, .5 for
    clicks and .75 without. The image is the embedding.
    """

    image_size = 256
    low_res_size = 64
    prompt_kinds = ("box", "clicks", "none")

    def __init__(self, radius: float = 20) -> None:
        super().__init__()
        self.radius = radius
        self.encoded = 0
        self.calls: list[dict[str, Any]] = []

    def encode(self, image: Tensor) -> ImageEmbedding:
        assert image.shape[1:] == (3, self.image_size, self.image_size)
        assert type(image) is Tensor
        self.encoded += 1
        return ImageEmbedding(image, [])

    def decode(self, embedding: ImageEmbedding, **prompts: Any) -> Any:
        self.calls.append(prompts)
        images = embedding.features
        if prompts.get("boxes") is not None:
            logits, iou = self._ellipses(prompts["boxes"]), 0.25
        elif prompts.get("points") is not None:
            logits, iou = self._discs(prompts["points"], prompts["point_labels"]), 0.5
        else:
            logits, iou = images[:, :1], 0.75
        predicted = torch.full(logits.shape[:2], iou)
        if not prompts.get("return_low_res"):
            return logits, predicted
        return logits, predicted, nn.functional.avg_pool2d(logits, 4)

    def describe(self) -> dict[str, object]:
        return {"preset": "drawing", "image_size": self.image_size}

    def _centres(self) -> tuple[Tensor, Tensor]:
        line = torch.arange(self.image_size) + 0.5
        return line[:, None], line[None, :]

    def _ellipses(self, boxes: Tensor) -> Tensor:
        y, x = self._centres()
        x0, y0, x1, y1 = (side[..., None, None] for side in boxes.unbind(-1))
        return 1 - ((2 * x - x0 - x1) / (x1 - x0)) ** 2 - ((2 * y - y0 - y1) / (y1 - y0)) ** 2

    def _discs(self, points: Tensor, labels: Tensor) -> Tensor:
        y, x = self._centres()
        away = torch.hypot(x - points[..., 0, None, None] - 0.5, y - points[..., 1, None, None] - 0.5)
        inside = self.radius - away

        def nearest(label: int) -> Tensor:
            chosen = torch.where((labels == label)[..., None, None], inside, torch.tensor(-1e3))
            return chosen.nan_to_num(-1e3).amax(dim=2)

        return torch.minimum(nearest(1), -nearest(0))
