"""SAM's prompt encoder for batches of images, and prompts drawn as maps beside its tokens.

SAM passes boxes and clicks to its decoder as tokens only. A network trained from scratch on few images learns
where a box's edge lies much sooner from a map, in which a convolution sees it; SAM's presets draw none.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from segment_anything.modeling import PromptEncoder
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom
from torch import Tensor, nn
from torch.nn import functional as F

from lmsfe_sam.prompts.prompt import Prompts

CHANNELS = 7
"""Box, inscribed ellipse, clicks inside (fine, coarse), clicks outside (fine, coarse), earlier mask."""

CLICK_SIGMAS = (0.0125, 0.06)
"""Widths of a click's Gaussians, as a share of the image's side: about 3 and 15 pixels of 256."""

EDGE = 1.0 / 256
"""Width of a drawn box's edge, as a share of the image's side."""


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
        draw_maps: draw the prompts as maps, too.
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


class PromptMapEncoder(nn.Module):
    """Turns drawn prompts into an addition to the image embedding.

    ``(M, CHANNELS, 8g, 8g)`` to ``(M, dim, g, g)``; without any prompt it is not called.

    Args:
        dim: channels of the image embedding.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.channels = CHANNELS
        self.layers = nn.Sequential(
            nn.Conv2d(CHANNELS, 16, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, dim, 1),
        )

    def blank(self, features: Tensor) -> Tensor:
        """Return the maps of objects without a prompt, for ``features (M, dim, g, g)``."""
        side = 8 * features.shape[-1]
        size = [features.shape[0], self.channels, side, side]
        return torch.zeros(size, dtype=features.dtype, device=features.device)

    def forward(self, maps: Tensor) -> Tensor:
        """Encode ``maps (M, CHANNELS, 8g, 8g)`` of `draw_prompts`."""
        return self.layers(maps)


def draw_prompts(prompts: Prompts, image_size: int, size: int) -> Tensor:
    """Draw the prompts of M objects, as far as they are given.

    Args:
        prompts: boxes ``(M, 4)``, points ``(M, K, 2)`` and labels ``(M, K)`` without padding, masks
            ``(M, h, w)``; at least one of them.
        image_size: side of the input in pixels.
        size: side of the maps.

    Returns:
        ``(M, CHANNELS, size, size)``; a channel whose prompt is absent is zero.
    """
    count, device = len(prompts), next(iter(prompts.given().values())).device
    axis = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size
    empty = torch.zeros(count, 1, size, size, device=device)
    box_maps = torch.cat([empty, empty], dim=1)
    click_maps = torch.cat([empty] * 4, dim=1)
    mask_map = empty
    if prompts.boxes is not None:
        box_maps = _draw_boxes(prompts.boxes / image_size, axis)
    if prompts.points is not None:
        centres = (prompts.points + 0.5) / image_size
        positive = _draw_clicks(centres, prompts.point_labels == 1, axis)
        negative = _draw_clicks(centres, prompts.point_labels == 0, axis)
        click_maps = torch.cat([positive, negative], dim=1)
    if prompts.masks is not None:
        masks = prompts.masks[:, None].float()
        mask_map = torch.tanh(
            0.5 * F.interpolate(masks, size=[size, size], mode="bilinear", align_corners=False)
        )
    return torch.cat([box_maps, click_maps, mask_map], dim=1)


def _draw_boxes(boxes: Tensor, axis: Tensor) -> Tensor:
    x0, y0, x1, y1 = boxes[:, :, None].unbind(1)
    inside_x = torch.sigmoid((axis - x0) / EDGE) * torch.sigmoid((x1 - axis) / EDGE)
    inside_y = torch.sigmoid((axis - y0) / EDGE) * torch.sigmoid((y1 - axis) / EDGE)
    from_x = ((2 * axis - x0 - x1) / (x1 - x0).clamp(min=EDGE)) ** 2
    from_y = ((2 * axis - y0 - y1) / (y1 - y0).clamp(min=EDGE)) ** 2
    box = inside_y[:, :, None] * inside_x[:, None, :]
    ellipse = torch.exp(-math.log(2) * (from_y[:, :, None] + from_x[:, None, :]))
    return torch.stack([box, ellipse], dim=1)


def _draw_clicks(centres: Tensor, chosen: Any, axis: Tensor) -> Tensor:
    from_x = (axis - centres[:, :, 0:1]) ** 2
    from_y = (axis - centres[:, :, 1:2]) ** 2
    maps = []
    for sigma in CLICK_SIGMAS:
        along_x = torch.exp(-from_x / (2 * sigma**2)) * chosen[:, :, None]
        along_y = torch.exp(-from_y / (2 * sigma**2))
        maps.append((along_y[:, :, :, None] * along_x[:, :, None, :]).amax(dim=1))
    return torch.stack(maps, dim=1)
