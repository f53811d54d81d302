"""The progress bar."""

from __future__ import annotations

from typing import Any

import pytest
from ignite.engine import Engine, Events

from lmsfe_sam.training.handlers import ProgressBar


def run(epochs: int, fail_at: int | None = None) -> None:
    validator = Engine(lambda engine, batch: None)
    validator.state.metrics = {}

    def step(engine: Engine, batch: int) -> dict[str, Any]:
        if engine.state.iteration == fail_at:
            raise ValueError("the step's own error")
        return {"loss": 0.125}

    trainer = Engine(step)
    trainer.state.max_epochs, trainer.state.epoch_length = epochs, 3
    ProgressBar(validator, interval=0).attach(trainer)

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine: Engine) -> None:
        validator.state.metrics = {"val_dice": 0.75}

    trainer.run(range(3), max_epochs=epochs)


def test_shows_steps_loss_and_validation_dice(capfd: pytest.CaptureFixture[str]) -> None:
    run(2)
    err = capfd.readouterr().err
    assert "epoch 2/2" in err and "6/6" in err
    assert "loss=0.125" in err and "val_dice=0.750" in err


def test_an_error_passes_through(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="the step's own error"):
        run(1, fail_at=2)
