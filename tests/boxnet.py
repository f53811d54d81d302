"""A stand-in for the network that segments exactly what the prompt says, so that places can be checked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lmsfe_sam.model.network import ImageEmbedding


class BoxNetwork(nn.Module):
    """A box gives its own filling, a click a disc, nothing the bright pixels.

    The predicted IoU is 1 minus the share of the input that the box covers, .5 without a box.
    """

    image_size = 64
    low_res_size = 16
    prompt_kinds = ("box", "clicks", "none")
    radius = 6.0

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        self.encoded = 0
        self.decoded: list[int] = []
        self.seen: Tensor | None = None

    def encode(self, image: Tensor) -> ImageEmbedding:
        assert image.shape[1:] == (3, self.image_size, self.image_size)
        assert type(image) is Tensor
        self.encoded += 1
        self.seen = image
        return ImageEmbedding(image, [])

    def decode(
        self,
        embedding: ImageEmbedding,
        boxes: Tensor,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        masks: Tensor | None = None,
        multimask_output: bool | None = None,
        return_low_res: bool = False,
    ) -> Any:
        count = boxes.shape[1]
        self.decoded.append(count)
        objects = []
        for image in range(len(boxes)):
            for row in range(count):
                clicks = []
                if points is not None:
                    clicks = list(zip(points[image, row], point_labels[image, row], strict=True))
                objects.append(self._segment(embedding.features[image], boxes[image, row], clicks))
        logits = torch.stack([logits for logits, _ in objects]).unflatten(0, (-1, count))
        iou = torch.stack([iou for _, iou in objects]).unflatten(0, (-1, count))
        if masks is not None:
            logits = logits + nn.functional.interpolate(masks, size=logits.shape[-2:], mode="bilinear")
        if multimask_output:
            logits, iou = logits[:, :, None].repeat(1, 1, 3, 1, 1), iou[..., None].repeat(1, 1, 3)
        low_res = nn.functional.avg_pool2d(logits.flatten(0, 1), 4).unflatten(0, logits.shape[:2])
        return logits, iou, low_res

    def _segment(self, image: Tensor, box: Tensor, clicks: list) -> tuple[Tensor, Tensor]:
        centres = torch.arange(self.image_size) + 0.5
        y, x = centres[:, None], centres[None]
        if not box.isnan().any():
            x0, y0, x1, y1 = box
            depth = torch.minimum(torch.minimum(x - x0, x1 - x), torch.minimum(y - y0, y1 - y))
            return depth, 1 - (x1 - x0) * (y1 - y0) / self.image_size**2
        logits = image.mean(dim=0)
        for (px, py), label in clicks:
            disc = self.radius - torch.hypot(x - px, y - py)
            if label == 1:
                logits = disc
            elif label == 0:
                logits = torch.minimum(logits, -disc)
        return logits, torch.tensor(0.5)
