"""U-KAN (Li et al., AAAI 2025, https://arxiv.org/abs/2406.02918): a U-Net with KAN layers at the bottom.

Tensor names are those of ``Seg_UKAN`` in https://github.com/CUHK-AIM-Group/U-KAN, whose weights load.
The published model has 6.36 million parameters; the class's own defaults there give one of 25.4 million.

In a Kolmogorov-Arnold (KAN) layer each input passes a learnable curve on its way to each output. The curves
are cubic B-splines plus a scaled SiLU, as in the layer that U-KAN takes from
https://github.com/Blealtan/efficient-kan.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lmsfe_sam.baselines.blocks import check_image

DEGREE = 3
INTERVALS = 5
"""Intervals of the splines on [-1, 1]; `DEGREE` more lie on either side."""

BASES = INTERVALS + DEGREE
NOISE = 0.1


class UKAN(nn.Module):
    """``(B, in_channels, H, W)`` to logits ``(B, 1, H, W)``.

    Args:
        in_channels: of the image.
        widths: channels at 1/8, 1/16 and 1/32; a quarter and an eighth of the first before that.
    """

    multiple = 32
    """Sides of an image are multiples of this."""

    def __init__(self, in_channels: int = 3, widths: tuple[int, int, int] = (128, 160, 256)) -> None:
        super().__init__()
        self.in_channels = in_channels
        first, second, third = widths
        self.encoder1 = TwoConv(in_channels, first // 8, first // 8)
        self.encoder2 = TwoConv(first // 8, first // 4, first // 4)
        self.encoder3 = TwoConv(first // 4, first, first)
        self.patch_embed3 = PatchEmbedding(first, second)
        self.block1 = nn.ModuleList([KANBlock(second)])
        self.norm3 = nn.LayerNorm(second)
        self.patch_embed4 = PatchEmbedding(second, third)
        self.block2 = nn.ModuleList([KANBlock(third)])
        self.norm4 = nn.LayerNorm(third)
        self.decoder1 = TwoConv(third, third, second)
        self.dblock1 = nn.ModuleList([KANBlock(second)])
        self.dnorm3 = nn.LayerNorm(second)
        self.decoder2 = TwoConv(second, second, first)
        self.dblock2 = nn.ModuleList([KANBlock(first)])
        self.dnorm4 = nn.LayerNorm(first)
        self.decoder3 = TwoConv(first, first, first // 4)
        self.decoder4 = TwoConv(first // 4, first // 4, first // 8)
        self.decoder5 = TwoConv(first // 8, first // 8, first // 8)
        self.final = nn.Conv2d(first // 8, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits of ``image``.

        Raises:
            InputError: another number of channels, or sides that are no multiples of 32.
        """
        check_image(image, self.in_channels, self.multiple, "ukan")
        t1 = F.max_pool2d(self.encoder1(image), 2)
        t2 = F.max_pool2d(self.encoder2(t1), 2)
        t3 = F.max_pool2d(self.encoder3(t2), 2)
        t4 = _kan_stage(self.patch_embed3(t3), self.block1, self.norm3)
        x = _kan_stage(self.patch_embed4(t4), self.block2, self.norm4)
        x = _kan_stage(_enlarge(self.decoder1(x)) + t4, self.dblock1, self.dnorm3)
        x = _kan_stage(_enlarge(self.decoder2(x)) + t3, self.dblock2, self.dnorm4)
        x = _enlarge(self.decoder3(x)) + t2
        x = _enlarge(self.decoder4(x)) + t1
        return self.final(_enlarge(self.decoder5(x)))


class TwoConv(nn.Module):
    """Twice 3 x 3 convolution, batch norm, ReLU: ``(B, inputs, H, W)`` to ``(B, outputs, H, W)``."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, hidden, 3, padding=1),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply both to ``x``."""
        return self.conv(x)


class PatchEmbedding(nn.Module):
    """Strided convolution and a layer norm: ``(B, inputs, H, W)`` to ``(B, outputs, H/2, W/2)``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(outputs)
        _start(self.proj)

    def forward(self, x: Tensor) -> Tensor:
        """Embed ``x``."""
        return _on_tokens(self.norm, self.proj(x))


class KANBlock(nn.Module):
    """Layer norm and `KANLayers`, beside a skip; ``(B, C, H, W)`` to the same."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm2 = nn.LayerNorm(dim)
        self.layer = KANLayers(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the layers make of ``x``."""
        return x + self.layer(_on_tokens(self.norm2, x))


class KANLayers(nn.Module):
    """Three times a KAN layer on each token, then a depth-wise convolution; ``(B, C, H, W)`` to the same."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.dwconv_1 = KANLinear(dim, dim), DepthWise(dim)
        self.fc2, self.dwconv_2 = KANLinear(dim, dim), DepthWise(dim)
        self.fc3, self.dwconv_3 = KANLinear(dim, dim), DepthWise(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the three pairs."""
        x = self.dwconv_1(_on_tokens(self.fc1, x))
        x = self.dwconv_2(_on_tokens(self.fc2, x))
        return self.dwconv_3(_on_tokens(self.fc3, x))


class KANLinear(nn.Module):
    """``(..., inputs)`` to ``(..., outputs)``: ``W silu(x)`` plus one spline for each pair; no bias.

    Args:
        inputs, outputs: channels.
    """

    grid: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base_weight = nn.Parameter(torch.empty(outputs, inputs))
        self.spline_weight = nn.Parameter(torch.empty(outputs, inputs, BASES))
        self.spline_scaler = nn.Parameter(torch.empty(outputs, inputs))
        self.register_buffer("grid", uniform_knots().repeat(inputs, 1))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start with splines that are small noise at the knots within [-1, 1]."""
        nn.init.kaiming_uniform_(self.base_weight, a=math.sqrt(5))
        nn.init.kaiming_uniform_(self.spline_scaler, a=math.sqrt(5))
        knots = uniform_knots()
        at_knots = spline_bases(knots[DEGREE:-DEGREE, None], knots[None])[:, 0]
        noise = (torch.rand(*self.base_weight.shape, len(at_knots)) - 0.5) * NOISE / INTERVALS
        self.spline_weight.copy_(noise @ torch.linalg.pinv(at_knots).t())

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to the last axis of ``x``."""
        curves = (self.spline_weight * self.spline_scaler[..., None]).flatten(1)
        return F.linear(F.silu(x), self.base_weight) + F.linear(
            spline_bases(x, self.grid).flatten(-2), curves
        )


class DepthWise(nn.Module):
    """Depth-wise 3 x 3 convolution with bias, batch norm, ReLU; ``(B, C, H, W)`` to the same."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.bn = nn.BatchNorm2d(dim)
        _start(self.dwconv)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the three to ``x``."""
        return F.relu(self.bn(self.dwconv(x)))


def uniform_knots() -> Tensor:
    """The knots -2.2, -1.8, ..., 2.2: ``(12,)``."""
    return torch.arange(-DEGREE, INTERVALS + DEGREE + 1) * (2 / INTERVALS) - 1


def spline_bases(x: Tensor, knots: Tensor) -> Tensor:
    """Evaluate the cubic B-splines, by the recursion of Cox and de Boor.

    Args:
        x: ``(..., inputs)``.
        knots: ``(inputs, 12)``, ascending.

    Returns:
        ``(..., inputs, 8)``; zero for an ``x`` outside of the knots, each interval open at its end.
    """
    x = x[..., None]
    bases = ((x >= knots[:, :-1]) & (x < knots[:, 1:])).to(x.dtype)
    for degree in range(1, DEGREE + 1):
        left, right = knots[:, : -degree - 1], knots[:, degree + 1 :]
        rising = (x - left) / (knots[:, degree:-1] - left)
        falling = (right - x) / (right - knots[:, 1:-degree])
        bases = rising * bases[..., :-1] + falling * bases[..., 1:]
    return bases


def _start(conv: nn.Conv2d) -> None:
    """Normal with the deviation sqrt(2 / fan out), as published for all but the plain convolutions."""
    fan_out = math.prod(conv.kernel_size) * conv.out_channels // conv.groups
    nn.init.normal_(conv.weight, std=math.sqrt(2 / fan_out))
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)


def _on_tokens(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a module that works on the last axis to the channels of ``x (B, C, H, W)``."""
    return module(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _kan_stage(x: Tensor, blocks: nn.ModuleList, norm: nn.Module) -> Tensor:
    for block in blocks:
        x = block(x)
    return _on_tokens(norm, x)


def _enlarge(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
