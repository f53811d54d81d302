"""The adapters: cross-branch balancing (eqs 5-8), position (eq 9), feature (eq 10), channel-spatial (1.3.3).

``docs/reading-the-paper.md`` gives the reasons for each reading. Before training all of them add nothing,
as their last layer starts at zero, except for the channel-spatial adapters of a loaded SAM-Med2D file.
Token maps are channels-last, ``(B, H, W, C)``, as in segment_anything's image encoder.
"""

from __future__ import annotations

import math

import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from lmsfe_sam.model.encoder.parameter_cache import ParameterCache


class FeatureAdapter(nn.Module):
    """Bottleneck on the last axis, eq (10): ``W2 act(W1 x + b1) + b2``, plus ``x`` with ``skip``.

    ``(..., C) -> (..., C)``. After SAMUS's ``Adapter``. W2 and b2 start at zero.

    Args:
        dim: channels C.
        hidden_dim: channels between the two layers.
        skip: add the input.
    """

    def __init__(self, dim: int, hidden_dim: int, skip: bool) -> None:
        super().__init__()
        self.down = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.up = nn.Linear(hidden_dim, dim)
        self.skip = skip
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply eq (10) to ``x (..., C)``."""
        y = self.up(self.act(self.down(x)))
        return x + y if self.skip else y


class PositionAdapter(ParameterCache):
    """Brings SAM's position table to a smaller grid and lets it adapt, section 1.3.1 and eq (9).

    The source table ``(1, S, S, C)`` passes through stages of max pooling (2, 2), a 3 x 3
    convolution, a layer norm and GELU until it has the grid's size. The result is added to the
    position embedding with a scale that starts at zero (``mode="add"``), or replaces it. None of
    this depends on the image, so in evaluation the stages' result is cached.

    Args:
        dim: channels C.
        source_size: S.
        grid_size: side of the token grid.
        norm: ``"layer"``, SAM's LayerNorm2d over channels, which the text names; or
            ``"instance"``, over height and width, which eq (9) prints.
        mode: ``"add"`` or ``"replace"``.

    Raises:
        ValueError: an unknown norm or mode.
    """

    def __init__(
        self, dim: int, source_size: int, grid_size: int, norm: str = "layer", mode: str = "add"
    ) -> None:
        super().__init__()
        if norm not in ("layer", "instance"):
            raise ValueError(f"norm '{norm}' is unknown: use 'layer' or 'instance'.")
        if mode not in ("add", "replace"):
            raise ValueError(f"mode '{mode}' is unknown: use 'add' or 'replace'.")
        self.source = nn.Parameter(torch.zeros(1, source_size, source_size, dim))
        nn.init.trunc_normal_(self.source, std=0.02)
        stages = max(0, int(math.log2(source_size / grid_size)))
        self.stages = nn.Sequential(*[_position_stage(dim, norm) for _ in range(stages)])
        self.scale = nn.Parameter(torch.zeros(1)) if mode == "add" else None

    def forward(self, pos_embed: Tensor) -> Tensor:
        """Adapt ``pos_embed (1, h, w, C)``; the shape stays."""
        adapted = self._result([pos_embed.shape[1], pos_embed.shape[2]])
        scale = self.scale
        return adapted if scale is None else pos_embed + scale * adapted

    def _compute(self, size: list[int]) -> Tensor:
        adapted = self.stages(self.source.permute(0, 3, 1, 2))
        if adapted.shape[-2] != size[0] or adapted.shape[-1] != size[1]:
            adapted = F.interpolate(adapted, size=size, mode="bilinear", align_corners=False)
        return adapted.permute(0, 2, 3, 1)


def _position_stage(dim: int, norm: str) -> nn.Sequential:
    normalisation = LayerNorm2d(dim) if norm == "layer" else nn.InstanceNorm2d(dim, affine=True)
    return nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(dim, dim, 3, padding=1), normalisation, nn.GELU())


class ChannelSpatialAdapter(nn.Module):
    """SAM-Med2D's adapter, which section 1.3.3 and figure 4 describe; ``(B, H, W, C)`` to the same.

    A squeeze-and-excitation gate over channels, then a strided 3 x 3 convolution and a 4 x 4
    transposed convolution, each with ReLU; plus the input; then a layer norm, whose scale starts
    at zero so that a new adapter adds nothing. The parameters have the shapes of SAM-Med2D's file.

    The two convolutions run as one matrix product each (unfold before the first, fold after the
    second): the same sums, in half the time on a CPU. Height and width may be odd.

    Args:
        dim: channels C, of the two convolutions, too.
        hidden_dim: channels of the gate's bottleneck.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.channel = _channel_gate(dim, hidden_dim)
        self.spatial = nn.Sequential(
            nn.Conv2d(dim, dim, 3, stride=2, padding=1, bias=False),
            nn.ReLU(),
            nn.ConvTranspose2d(dim, dim, 4, stride=2, padding=1, bias=False),
            nn.ReLU(),
        )
        self.norm = _zero_scale_norm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the gate, the two convolutions, the skip and the norm."""
        gated = x * self.channel(x.mean(dim=(1, 2)))[:, None, None, :]
        return self.norm(x + self._spatial(gated))

    def _spatial(self, x: Tensor) -> Tensor:
        _, h, w, c = x.shape
        half = [(h + 1) // 2, (w + 1) // 2]
        columns = F.unfold(x.permute(0, 3, 1, 2), 3, padding=1, stride=2)
        down = F.relu(self.spatial[0].weight.reshape(c, c * 9) @ columns)  # type: ignore[operator]
        rows = self.spatial[2].weight.reshape(c, c * 16).t() @ down  # type: ignore[operator]
        up = F.relu(F.fold(rows, (2 * half[0], 2 * half[1]), 4, padding=1, stride=2))
        return up[:, :, :h, :w].permute(0, 2, 3, 1)


class LightChannelSpatialAdapter(nn.Module):
    """The channel-spatial adapter with depth-wise convolutions, for networks trained from scratch.

    ``(B, H, W, C)`` to the same. SAM-Med2D's form holds 25 C^2 weights in its two convolutions; this
    one holds 34 C. It is not in the paper.

    Args:
        dim: channels C.
        hidden_dim: channels of the gate's bottleneck.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.channel = _channel_gate(dim, hidden_dim)
        self.spatial = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim),
            nn.ReLU(),
            nn.Conv2d(dim, dim, 5, padding=2, groups=dim, bias=False),
        )
        self.norm = _zero_scale_norm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the gate, the two convolutions, the skip and the norm."""
        gated = x * self.channel(x.mean(dim=(1, 2)))[:, None, None, :]
        return self.norm(x + self.spatial(gated.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


def _channel_gate(dim: int, hidden_dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(dim, hidden_dim, bias=False),
        nn.ReLU(),
        nn.Linear(hidden_dim, dim, bias=False),
        nn.Sigmoid(),
    )


def _zero_scale_norm(dim: int) -> nn.LayerNorm:
    norm = nn.LayerNorm(dim)
    nn.init.zeros_(norm.weight)
    return norm


class CrossBranchBalancingAdapter(nn.Module):
    """Balances local and global features, eqs (5)-(8); both ``(B, H, W, C)``, result the same.

    The sum of both is pooled over channels by maximum and mean, a 7 x 7 convolution makes of these
    a spatial weight, and a bottleneck the result, scaled by a learnable factor that starts at 0.5. The
    bottleneck's second layer starts at zero. After BUSSAM's ``MLPAdapter``.

    Args:
        dim: channels C.
        hidden_dim: channels of the bottleneck.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(2, 1, 7, padding=3)
        self.down = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.up = nn.Linear(hidden_dim, dim)
        self.scale = nn.Parameter(torch.tensor(0.5))
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, global_features: Tensor, local_features: Tensor) -> Tensor:
        """Return H of eq (8) for F_g and F_l, ``(B, H, W, C)`` each."""
        total = global_features + local_features
        pooled = torch.stack([total.amax(dim=-1), total.mean(dim=-1)], dim=1)
        weight = torch.sigmoid(self.spatial(pooled)).permute(0, 2, 3, 1)
        return self.scale * self.up(self.act(self.down(weight * total)))
