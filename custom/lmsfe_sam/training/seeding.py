"""Randomness that depends on the seed and the epoch alone, so that a run can go on at any epoch."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd


class SeedEpochs:
    """Handler of the trainer: reseeds everything that draws random numbers when an epoch starts.

    That is Python, numpy and torch, the data loader's generator (order of the images, seeds of its
    workers) and the random transforms. Attach it before handlers that draw random numbers themselves.

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Register with the trainer.

        From the second epoch on ignite first runs the old iterator into its end, at which torch's
        RandomSampler draws once more from the loader's generator: hence the second event.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self)
        engine.add_event_handler(Events.DATALOADER_STOP_ITERATION, self)

    def __call__(self, engine: Any) -> None:
        """Reseed for the epoch that starts."""
        epoch, rank = engine.state.epoch, engine.state.rank
        mixed = np.random.SeedSequence([self.seed, epoch, rank]).generate_state(4)
        own, transforms, order, global_seed = (int(number) for number in mixed)
        random.seed(own)
        np.random.seed(global_seed)
        torch.manual_seed(own)
        loader = engine.data_loader
        set_rnd(loader.dataset, transforms)
        if loader.generator is not None:
            loader.generator.manual_seed(order)
