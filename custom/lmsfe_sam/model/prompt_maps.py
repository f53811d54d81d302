"""Prompts drawn as maps: an option that stays off in SAM's presets.

SAM hands boxes and clicks to its decoder as tokens alone. A network trained from scratch on few
images learns where a box's edge lies much sooner from a map, in which a convolution sees it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lmsfe_sam.prompts.prompt import Prompts

CHANNELS = 7
"""Box, inscribed ellipse, clicks inside (fine, coarse), clicks outside (fine, coarse), earlier mask."""

CLICK_SIGMAS = (0.0125, 0.06)
"""Widths of a click's Gaussians, as a share of the image's side: about 3 and 15 pixels of 256."""

EDGE = 1.0 / 256
"""Width of a drawn box's edge, as a share of the image's side."""


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
