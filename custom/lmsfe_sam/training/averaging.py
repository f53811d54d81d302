"""Exponential moving average of the weights: what is validated and what is saved.

The average itself is `torch.optim.swa_utils.AveragedModel`; here are its decay and the handler that
feeds it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def warmed_up_average(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """Return the update ``average += (1 - d) (current - average)`` for `AveragedModel`'s ``multi_avg_fn``.

    d is ``decay``, but at most (1 + n) / (10 + n) after n updates, so that a short run is not held
    back by its random start.

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


class AverageWeights:
    """Handler of the trainer: takes the network into the average after each step.

    Args:
        average: the running average.
        network: what it follows.
    """

    def __init__(self, average: AveragedModel, network: nn.Module) -> None:
        self.average = average
        self.network = network

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Take the network's present weights in."""
        self.average.update_parameters(self.network)
