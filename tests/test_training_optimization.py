"""Which parameters train and which decay."""

from __future__ import annotations

import torch
from torch import nn

from lmsfe_sam.training.optimization import parameter_groups


def test_only_matrices_and_kernels_decay_and_frozen_ones_are_left_out() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    network[3].requires_grad_(False)
    scale = nn.Parameter(torch.tensor(0.5))
    network.register_parameter("scale", scale)
    decaying, others = parameter_groups(network, 0.3, learning_rate=1e-3)
    assert decaying["weight_decay"] == 0.3 and others["weight_decay"] == 0
    assert {id(p) for p in decaying["params"]} == {id(network[0].weight), id(network[2].weight)}
    names = [network[0].bias, network[1].weight, network[1].bias, network[2].bias, scale]
    assert {id(p) for p in others["params"]} == {id(p) for p in names}
