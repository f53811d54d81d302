"""Every epoch's randomness follows from the seed and its number alone."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.data import CacheDataset, DataLoader
from monai.engines.workflow import Workflow
from monai.transforms import Compose, RandScaleIntensityd

from lmsfe_sam.training.handlers import SeedEpochs


def seen(seed: int, epochs: list[int], workers: int = 0) -> list[tuple[Any, ...]]:
    """What the batches of some epochs hold, and numbers drawn from the global generators."""
    data = [{"image": torch.full((1, 2, 2), float(i + 1))} for i in range(6)]
    dataset = CacheDataset(data, Compose([RandScaleIntensityd("image", 0.5, prob=1)]), progress=False)
    loader = DataLoader(dataset, batch_size=2, shuffle=True, generator=torch.Generator(), num_workers=workers)
    rows: list[tuple[Any, ...]] = []

    class Engine(Workflow):
        def _iteration(self, engine: Any, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
            drawn = (random.random(), float(np.random.rand()), float(torch.rand(())))
            rows.append((engine.state.epoch, *batch["image"][:, 0, 0, 0].tolist(), *drawn))
            return {}

    engine = Engine(
        "cpu", max_epochs=max(epochs), data_loader=loader, handlers=[SeedEpochs(seed)], decollate=False
    )

    @engine.on(Events.STARTED)
    def go_on() -> None:
        engine.state.epoch = min(epochs) - 1
        engine.state.iteration = engine.state.epoch * 3

    engine.run()
    return rows


def test_an_epoch_is_the_same_whatever_came_before() -> None:
    whole = seen(5, [1, 2, 3])
    assert len({row[1:] for row in whole}) == 9
    assert seen(5, [2, 3]) == whole[3:]
    assert seen(6, [1])[0] != whole[0]


def test_the_same_with_workers() -> None:
    whole = seen(5, [1, 2], workers=1)
    assert seen(5, [2], workers=1) == whole[3:]
    assert len({row[1:] for row in whole}) == 6
