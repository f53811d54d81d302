"""A tiny promptable network and engine parts that the training's tests share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from monai.engines import default_prepare_batch
from monai.inferers import SimpleInferer
from monai.networks.utils import eval_mode
from torch import Tensor, nn

from lmsfe_sam.model.mask_decoder import DecodedTokens
from lmsfe_sam.model.network import PROMPT_KINDS, ImageEmbedding


class TinyNetwork(nn.Module):
    """Has `LMSFESAM`'s encode and decode: a linear map of the image, shifted by each object's prompts.

    With a box it predicts the box, whatever its weights.
    """

    low_res_size = 8
    prompt_kinds = PROMPT_KINDS

    def __init__(self) -> None:
        super().__init__()
        self.colour = nn.Conv2d(3, 4, 1)
        self.shift = nn.Parameter(torch.zeros(3))
        self.norm = nn.BatchNorm2d(4)
        self.encoded = 0
        self.calls: list[dict[str, Tensor | None]] = []

    def encode(self, image: Tensor) -> ImageEmbedding:
        self.encoded += 1
        return ImageEmbedding(self.norm(self.colour(image)), [])

    def decode_tokens(self, embedding: ImageEmbedding, **prompts: Tensor | None) -> DecodedTokens:
        self.calls.append(prompts)
        given = [p for p in prompts.values() if p is not None]
        objects = given[0].shape[1] if given else 1
        masks = embedding.features[:, None].expand(-1, objects, -1, -1, -1)
        boxes, points = prompts.get("boxes"), prompts.get("points")
        masks = masks + self.shift[0]
        if boxes is not None:
            masks = masks + 100 * torch.nan_to_num(box_maps(boxes, masks.shape[-1]))[:, :, None]
        if points is not None:
            masks = masks + self.shift[1] * points.shape[2]
        lone = torch.zeros(masks.shape[:2], dtype=torch.bool)
        return DecodedTokens(masks, self.shift[2].expand(*masks.shape[:3]), lone)

    def decode(self, embedding: ImageEmbedding, **prompts: Tensor | None) -> tuple[Tensor, Tensor]:
        tokens = self.decode_tokens(embedding, **prompts)
        return tokens.masks[:, :, 0], tokens.iou[:, :, 0]


def box_maps(boxes: Tensor, side: int) -> Tensor:
    """+1 inside and -1 outside of boxes (B,N,4); 0 for a NaN row."""
    place = torch.arange(side) + 0.5
    x0, y0, x1, y1 = (corner[..., None, None] for corner in boxes.unbind(-1))
    inside = (place >= x0) & (place < x1) & (place[:, None] >= y0) & (place[:, None] < y1)
    return torch.where(torch.isnan(x0), 0.0, inside.float() * 2 - 1)


def squares(batch: int = 2, side: int = 16) -> dict[str, Any]:
    """A batch of noise with a bright square in each image, and the squares as labels."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(batch, 3, side, side, generator=generator)
    mask = torch.zeros(batch, 1, side, side, dtype=torch.uint8)
    for b in range(batch):
        mask[b, :, 3 : 9 + b, 4:11] = 1
    names = [f"case_{b}.png" for b in range(batch)]
    return {"image": image + 3 * mask, "label": mask, "name": names}


def engine(network: nn.Module, loss: Any = None) -> Any:
    """The parts of an engine that the iterations use."""
    return SimpleNamespace(
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        inferer=SimpleInferer(),
        loss_function=loss,
        prepare_batch=default_prepare_batch,
        non_blocking=False,
        to_kwargs={},
        amp=False,
        amp_kwargs={},
        scaler=None,
        mode=eval_mode,
        fire_event=lambda event: None,
        state=SimpleNamespace(device=torch.device("cpu"), epoch=1, iteration=1, rank=0, output=None),
    )
