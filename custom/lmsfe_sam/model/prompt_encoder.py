"""SAM's prompt encoder for batches of images, and prompts drawn as maps beside it."""

from __future__ import annotations

import math

import torch
from segment_anything.modeling import PromptEncoder
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom
from torch import Tensor
from torch.nn import functional as F

from lmsfe_sam.model.prompt_maps import PromptMapEncoder, draw_prompts
from lmsfe_sam.prompts.prompt import Prompts


class PointPositions(PositionEmbeddingRandom):
    """SAM's random Fourier positions, with a grid that TorchScript can compile."""

    def forward(self, size: tuple[int, int]) -> Tensor:
        """Return the encoding of a grid's pixel centres, ``(C, H, W)``."""
        h, w = size
        matrix = self.positional_encoding_gaussian_matrix
        y = (torch.arange(h, device=matrix.device, dtype=matrix.dtype) + 0.5) / h
        x = (torch.arange(w, device=matrix.device, dtype=matrix.dtype) + 0.5) / w
        grid = torch.stack([x[None, :].expand(h, w), y[:, None].expand(h, w)], dim=-1)
        angles = 2 * math.pi * ((2 * grid - 1) @ matrix)
        return torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1).permute(2, 0, 1)


class ObjectPromptEncoder(PromptEncoder):
    """SAM's prompt encoder for objects that all have the same number of tokens.

    It keeps segment_anything's parameters and arithmetic.

    Args:
        embed_dim: channels C of a token.
        grid_size: side g of the token grid.
        image_size: side of the input in pixels, which the prompts' coordinates count.
        draw_maps: draw the prompts as maps, too; see `lmsfe_sam.model.prompt_maps`.
    """

    def __init__(self, embed_dim: int, grid_size: int, image_size: int, draw_maps: bool = False) -> None:
        super().__init__(embed_dim, (grid_size, grid_size), (image_size, image_size), mask_in_chans=16)
        self.pe_layer = PointPositions(embed_dim // 2)
        self.map_encoder = PromptMapEncoder(embed_dim) if draw_maps else None

    def get_dense_pe(self) -> Tensor:
        """Return the grid's positions, ``(1, C, g, g)``."""
        return self.pe_layer(self.image_embedding_size)[None]

    def unprompted(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return what `forward` returns for M objects without a prompt.

        Args:
            features: their image embeddings ``(M, C, g, g)``.
        """
        sparse = torch.zeros(
            features.shape[0], 0, features.shape[1], dtype=features.dtype, device=features.device
        )
        dense = self.no_mask_embed.weight[:, :, None, None]
        maps: Tensor | None = None
        if self.map_encoder is not None:
            maps = self.map_encoder.blank(features)
        return sparse, dense, maps

    @torch.jit.unused
    def forward(self, prompts: Prompts, features: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Encode the prompts of M objects.

        Args:
            prompts: boxes ``(M, 4)``, points ``(M, K, 2)``, labels ``(M, K)`` and masks ``(M, h, w)``, in
                pixels of the input, without padding.
            features: the objects' image embeddings ``(M, C, g, g)``.

        Returns:
            Tokens ``(M, T, C)``, the addition to the image embedding, ``(M, C, g, g)`` or ``(1, C, 1, 1)``,
            and the drawn maps ``(M, CHANNELS, 8g, 8g)``; None where the network draws none.
        """
        if not prompts.given():
            return self.unprompted(features)
        clicks = None
        if prompts.points is not None and prompts.point_labels is not None:
            clicks = (prompts.points, prompts.point_labels)
        masks = prompts.masks
        if masks is not None:
            size = list(self.mask_input_size)
            masks = F.interpolate(masks[:, None], size=size, mode="bilinear", align_corners=False)
        sparse, dense = super().forward(clicks, prompts.boxes, masks)
        if self.map_encoder is None:
            return sparse, dense, None
        maps = draw_prompts(prompts, self.input_image_size[0], 8 * features.shape[-1]).to(features.dtype)
        return sparse, dense + self.map_encoder(maps), maps
