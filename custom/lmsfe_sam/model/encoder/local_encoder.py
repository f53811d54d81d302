"""The local branch: `LocalMultiScaleEncoder` (eqs 1-3) and its MHPM (algorithm 1, eq 4).

``docs/reading-the-paper.md`` gives the reasons for each reading. Feature maps are ``(B, C, H, W)``.
"""

from __future__ import annotations

import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from lmsfe_sam.model.encoder.backbone import PLAIN, ConvNormAct, build_backbone
from lmsfe_sam.model.encoder.parameter_cache import ParameterCache

TABLE_SIZE = 8
"""Side of the learned tables, the hyperparameters a and b of algorithm 1."""


class HadamardBranch(ParameterCache):
    """One factor of eq (4): a learned table, resized, through DW3 + GELU + PW1.

    It does not see the image, so in evaluation it is computed once and cached.

    Args:
        channels: channels of the factor.
        table: shape of the table behind the leading 1.
    """

    def __init__(self, channels: int, table: tuple[int, ...]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(1, *table))
        self.depthwise = _conv(channels, 3, len(table) - 1, groups=channels)
        self.act = nn.GELU()
        self.pointwise = _conv(channels, 1, len(table) - 1)

    def forward(self, size: list[int]) -> Tensor:
        """Return the factor at ``size``: ``(1, C, H, W)``, or ``(1, C, L)`` for an axial table."""
        return self._result(size)

    def _compute(self, size: list[int]) -> Tensor:
        mode = "bilinear" if self.table.dim() == 4 else "linear"
        resized = F.interpolate(self.table, size=size, mode=mode, align_corners=True)
        return self.pointwise(self.act(self.depthwise(resized)))


def _conv(channels: int, kernel: int, dimensions: int, groups: int = 1) -> nn.Module:
    make = nn.Conv1d if dimensions == 1 else nn.Conv2d
    return make(channels, channels, kernel, padding=kernel // 2, groups=groups)


class MultiAxialHadamardProductModule(nn.Module):
    """MHPM, algorithm 1 and eq (4): ``(B, C, H, W)`` to the same shape, at a cost linear in pixels.

    Four groups of channels: three are multiplied by learned tables that lie along height x width,
    channel x height and channel x width, the fourth passes a depth-wise separable convolution.
    After the grouped Hadamard attention of EGE-UNet.

    Raises:
        ValueError: ``dim`` is not a multiple of four.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim % 4:
            raise ValueError(f"MHPM splits its channels into four groups, which {dim} channels do not allow.")
        group = dim // 4
        self.norm_in = LayerNorm2d(dim)
        self.xy = HadamardBranch(group, (group, TABLE_SIZE, TABLE_SIZE))
        self.xz = HadamardBranch(group, (group, TABLE_SIZE))
        self.yz = HadamardBranch(group, (group, TABLE_SIZE))
        self.local = nn.Sequential(
            nn.Conv2d(group, group, 1), nn.GELU(), nn.Conv2d(group, group, 3, padding=1, groups=group)
        )
        self.norm_out = LayerNorm2d(dim)
        self.mix = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim), nn.GELU(), nn.Conv2d(dim, dim, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply algorithm 1 to ``x (B, C, H, W)``."""
        h, w = x.shape[-2:]
        x1, x2, x3, x4 = torch.chunk(self.norm_in(x), 4, dim=1)
        x1 = x1 * self.xy([h, w])
        x2 = x2 * self.xz([h])[:, :, :, None]
        x3 = x3 * self.yz([w])[:, :, None, :]
        x4 = self.local(x4)
        return self.mix(self.norm_out(torch.cat([x1, x2, x3, x4], dim=1)))


class LocalMultiScaleEncoder(nn.Module):
    """The local multi-scale feature encoder of section 1.1, eqs (1)-(3).

    A backbone gives features at 1/2, 1/4, 1/8 and 1/16 of the input. The last three are projected,
    pooled to the token grid and concatenated; a pyramid of max pools, each with an MHPM behind it,
    makes F_l of them. The pyramid is YOLOv7's SPPCSPC.

    Args:
        widths: channels of the plain backbone's stem and three stages.
        blocks: residual blocks behind each of the four.
        hidden: hidden channels of the pyramid.
        out_dim: channels of F_l.
        mhpm: put an MHPM behind each pool (a column of table 5).
        backbone: ``plain``, a network of timm by name, which has its own widths, or both (``plain+NAME``),
            with the widths of the plain one.
        image_size: side of the input in pixels, which not every network of timm takes.
    """

    POOLS = (5, 9, 13)

    def __init__(
        self,
        widths: tuple[int, int, int, int],
        blocks: tuple[int, int, int, int],
        hidden: int,
        out_dim: int,
        mhpm: bool = True,
        backbone: str = PLAIN,
        image_size: int = 256,
    ) -> None:
        super().__init__()
        self.stages = build_backbone(backbone, widths, blocks, image_size)
        self.project = nn.ModuleList(ConvNormAct(width, hidden, 1) for width in self.stages.widths[1:])
        self.fuse = nn.Sequential(
            ConvNormAct(3 * hidden, hidden, 1),
            ConvNormAct(hidden, hidden, 3),
            ConvNormAct(hidden, hidden, 1),
        )
        self.pools = nn.ModuleList(
            nn.Sequential(
                nn.MaxPool2d(k, stride=1, padding=k // 2),
                MultiAxialHadamardProductModule(hidden) if mhpm else nn.Identity(),
            )
            for k in self.POOLS
        )
        self.refine = nn.Sequential(ConvNormAct(4 * hidden, hidden, 1), ConvNormAct(hidden, hidden, 3))
        self.shortcut = ConvNormAct(3 * hidden, hidden, 3)
        self.out = nn.Sequential(nn.Conv2d(2 * hidden, out_dim, 1, bias=False), nn.BatchNorm2d(out_dim))

    def forward(self, image: Tensor, grid: list[int]) -> tuple[Tensor, list[Tensor]]:
        """Encode ``image (B, 3, H, W)``.

        Returns:
            F_l, ``(B, out_dim, *grid)``, and the features at 1/2, 1/4, 1/8 and 1/16.
        """
        features = self.stages(image)
        scales: list[Tensor] = []
        for i, project in enumerate(self.project):
            scales.append(F.adaptive_avg_pool2d(project(features[i + 1]), (grid[0], grid[1])))
        x = torch.cat(scales, dim=1)
        fused = self.fuse(x)
        pyramid = [fused]
        for pool in self.pools:
            pyramid.append(pool(fused))
        refined = self.refine(torch.cat(pyramid, dim=1))
        return self.out(torch.cat([refined, self.shortcut(x)], dim=1)), features
