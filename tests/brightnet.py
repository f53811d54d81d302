"""A stand-in for the network that segments what is bright in and near the box: it can follow an object."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from boxnet import BoxNetwork


class BrightNetwork(BoxNetwork):
    """Of bright pixels in or near the box; the predicted IoU is .9 where there are some, else .1."""

    reach = 6.0

    def decode(self, embedding: Any, boxes: Tensor, masks: Tensor | None = None, **options: Any) -> Any:
        self.fed = masks
        return super().decode(embedding, boxes, **options)

    def _segment(self, image: Tensor, box: Tensor, clicks: list) -> tuple[Tensor, Tensor]:
        bright = image.mean(dim=0) > 0
        if not box.isnan().any():
            centres = torch.arange(self.image_size) + 0.5
            y, x = centres[:, None], centres[None]
            x0, y0, x1, y1 = box
            near = (x > x0 - self.reach) & (x < x1 + self.reach)
            bright = bright & near & (y > y0 - self.reach) & (y < y1 + self.reach)
        return torch.where(bright, 5.0, -5.0), torch.tensor(0.9 if bright.any() else 0.1)
