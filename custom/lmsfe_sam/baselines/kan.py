"""A Kolmogorov-Arnold layer: each input passes a learnable curve on its way to each output.

The curves are cubic B-splines plus a scaled SiLU, as in the layer that U-KAN takes over from
https://github.com/Blealtan/efficient-kan. Tensor names are those of U-KAN's published files.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DEGREE = 3
INTERVALS = 5
"""Intervals of the splines on [-1, 1]; `DEGREE` more lie on either side."""

BASES = INTERVALS + DEGREE
NOISE = 0.1


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
