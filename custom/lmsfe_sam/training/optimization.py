"""Parameter groups for the optimizer, and the moving average of the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

BACKBONE = "image_encoder.local_encoder.stages."


def parameter_groups(
    network: nn.Module, weight_decay: float, learning_rate: float, backbone_rate: float = 1.0
) -> list[dict[str, Any]]:
    """Return groups for an optimizer: matrices and kernels that decay, the rest that does not.

    Norms, biases, scales and anything else of one dimension or fewer do not decay. Frozen parameters
    are left out.

    Args:
        network: what trains.
        weight_decay: of matrices and kernels.
        learning_rate: of all but the backbone.
        backbone_rate: learning rate of the local encoder's backbone, as a share of ``learning_rate``; with 1
            it is in the groups of the rest.
    """
    own_rate = BACKBONE if backbone_rate != 1 else ()
    trained = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    rest = [parameter for name, parameter in trained if not name.startswith(own_rate)]
    backbone = [parameter for name, parameter in trained if name.startswith(own_rate)]
    groups = []
    for members, rate in ((rest, learning_rate), (backbone, backbone_rate * learning_rate)):
        groups += [
            {"params": [p for p in members if p.ndim > 1], "weight_decay": weight_decay, "lr": rate},
            {"params": [p for p in members if p.ndim <= 1], "weight_decay": 0.0, "lr": rate},
        ]
    return [group for group in groups if group["params"]]


def warmed_up_average(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """Return the update ``average += (1 - d) (current - average)``, a ``multi_avg_fn`` of `AveragedModel`.

    d is ``decay``, but at most (1 + n) / (10 + n) after n updates, so that a short run is not held
    back by its random start; torch's `get_ema_multi_avg_fn` has no such warm-up.

    Args:
        decay: 0..1; its half-life is about ``ln 2 / (1 - decay)`` steps.
    """

    @torch.no_grad()
    def update(averages: Sequence[Tensor], currents: Sequence[Tensor], count: Tensor | int) -> None:
        number = int(count)
        weight = 1.0 - min(decay, (1.0 + number) / (10.0 + number))
        if averages[0].is_floating_point():  # one call for each type of tensor
            torch._foreach_lerp_(list(averages), list(currents), weight)
        else:
            torch._foreach_copy_(list(averages), list(currents))

    return update
