"""SAM-Med2D (Cheng et al., https://arxiv.org/abs/2308.16184): SAM at 256 x 256 with an adapter in each block.

Tensor names are those of https://github.com/OpenGVLab/SAM-Med2D, so ``sam-med2d_b.pth`` loads with
``load_pretrained`` as it is. Its input: `lmsfe_sam.baselines.preprocessing.prepare_sam_med2d`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lmsfe_sam.baselines.sam import Sam
from lmsfe_sam.model.adapters import ChannelSpatialAdapter
from lmsfe_sam.model.image_encoder import Block
from lmsfe_sam.model.network import ImageEmbedding
from lmsfe_sam.model.presets import get_preset


class SamMed2D(Sam):
    """271,241,776 parameters, of which the adapters hold 180,504,576.

    Unless ``multimask_output`` says otherwise, `decode` returns the best of the three masks by predicted IoU,
    from any prompt: that is what was trained, and SAM's first token never was.

    Args:
        image_size: side of the square input; 256 as published.
        freeze_encoder: SAM's part of the image encoder does not train, the adapters do: as published.

    Raises:
        InputError: the size is no multiple of 16.
    """

    def __init__(self, image_size: int = 256, freeze_encoder: bool = True) -> None:
        super().__init__(image_size, freeze_encoder)
        sizes = get_preset("vit_b")
        for i in range(sizes.depth):
            window = 0 if i in sizes.global_blocks else sizes.window_size
            block = AdaptedBlock(
                sizes.embed_dim,
                sizes.num_heads,
                image_size // 16,
                window,
                int(sizes.mlp_ratio * sizes.embed_dim),
                int(sizes.adapter_ratio * sizes.embed_dim),
            )
            block.requires_grad_(not freeze_encoder)
            block.Adapter.requires_grad_(True)
            self.image_encoder.blocks[i] = block

    def describe(self) -> dict[str, object]:
        """What `lmsfe_sam.baselines.build` needs to build this network again."""
        return {**super().describe(), "name": "sam_med2d"}

    def decode(
        self,
        embedding: ImageEmbedding,
        boxes: Tensor | list[Tensor] | None = None,
        points: Tensor | list[Tensor] | None = None,
        point_labels: Tensor | list[Tensor] | None = None,
        masks: Tensor | list[Tensor] | None = None,
        multimask_output: bool | None = None,
        return_low_res: bool = False,
    ) -> Any:
        """Decode as `LMSFESAM.decode` does; with ``multimask_output`` None, the best of the three masks."""
        three = multimask_output is None or multimask_output
        decoded = super().decode(embedding, boxes, points, point_labels, masks, three, return_low_res)
        return best_of_three(decoded) if multimask_output is None else decoded

    def forward(
        self,
        image: Tensor,
        boxes: Tensor | list[Tensor] | None = None,
        points: Tensor | list[Tensor] | None = None,
        point_labels: Tensor | list[Tensor] | None = None,
        masks: Tensor | list[Tensor] | None = None,
        multimask_output: bool | None = None,
        return_low_res: bool = False,
    ) -> Any:
        """Segment ``image (B, 3, S, S)`` as `LMSFESAM` does, with the best of the three masks."""
        options = (boxes, points, point_labels, masks, multimask_output)
        decoded = self.decode(self.encode(image), *options, return_low_res)
        return decoded[0] if not return_low_res and all(option is None for option in options) else decoded


class AdaptedBlock(Block):
    """SAM's block with a channel-spatial adapter beside the MLP; ``(B, H, W, C)`` to the same.

    The adapter's norm starts at one, as published, so a new adapter adds something from the start.

    Args:
        dim, num_heads, grid_size, window_size, mlp_dim: see `Block`.
        adapter_dim: channels of the adapter's gate.
    """

    def __init__(
        self, dim: int, num_heads: int, grid_size: int, window_size: int, mlp_dim: int, adapter_dim: int
    ) -> None:
        super().__init__(dim, num_heads, grid_size, window_size, mlp_dim)
        self.Adapter = ChannelSpatialAdapter(dim, adapter_dim)
        nn.init.ones_(self.Adapter.norm.weight)

    def forward(self, x: Tensor, local: Tensor | None = None) -> Tensor:
        """Attend, then apply MLP and adapter to the same normalised tokens ``x``; no local features."""
        x = x + self.attn(self.norm1(x))
        normed = self.norm2(x)
        return x + self.mlp(normed) + self.Adapter(normed)


def best_of_three(decoded: tuple[Any, ...]) -> tuple[Any, ...]:
    """Choose, for each object, the mask of the highest predicted IoU.

    Args:
        decoded: what `LMSFESAM.decode` returns with three masks: logits ``(B, N, 3, S, S)``, predicted IoU
            ``(B, N, 3)`` and, where asked for, low-resolution logits; or lists of B such tensors.

    Returns:
        The same without the axis of three.
    """
    if isinstance(decoded[1], list):
        images = [best_of_three(image) for image in zip(*decoded, strict=True)]
        return tuple(list(part) for part in zip(*images, strict=True))
    best = decoded[1].argmax(dim=-1)[..., None]
    return tuple(_take(part, best) for part in decoded)


def _take(part: Tensor, best: Tensor) -> Tensor:
    place = best.dim() - 1
    index = best.reshape(*best.shape, *[1] * (part.dim() - best.dim()))
    return torch.take_along_dim(part, index, dim=place).squeeze(place)
