"""Which parameters train, and which of them decay."""

from __future__ import annotations

from typing import Any

from torch import nn

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
