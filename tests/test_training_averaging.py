"""The running average of the weights."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lmsfe_sam.training.handlers import AverageWeights
from lmsfe_sam.training.optimization import warmed_up_average


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    return AveragedModel(network, multi_avg_fn=warmed_up_average(decay), use_buffers=True)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_follows_the_weights_with_a_decay_that_warms_up(decay: float) -> None:
    network = nn.Linear(1, 1, bias=False)
    average = averaged(network, decay)
    expected = None
    for n, value in enumerate([1.0, 2.0, 4.0, 8.0, 16.0]):
        network.weight.data.fill_(value)
        average.update_parameters(network)
        d = min(decay, (1 + n) / (10 + n))
        expected = value if expected is None else d * expected + (1 - d) * value
    assert average.module.weight.item() == pytest.approx(expected)


def test_takes_running_statistics_and_counters_too() -> None:
    network = nn.BatchNorm1d(2)
    average = averaged(network, 0.9)
    for _ in range(3):
        network(torch.randn(8, 2) + 5)
        average.update_parameters(network)
    assert average.module.num_batches_tracked == 3
    assert 0 < average.module.running_mean.min() < network.running_mean.min()


def test_the_handler_updates_after_each_step() -> None:
    network = nn.Linear(1, 1)
    average = averaged(network, 0.5)
    engine = Engine(lambda engine, batch: None)
    AverageWeights(average, network).attach(engine)
    engine.run([1, 2, 3], max_epochs=2)
    assert average.n_averaged == 6
