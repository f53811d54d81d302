"""What is seen of a run while it goes."""

from __future__ import annotations

import sys
from typing import Any

from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys as Keys
from tqdm import tqdm


class ProgressBar:
    """Handler of the trainer: one bar for the whole run, with the loss and the last validation Dice.

    The recorder logs a line an epoch beside it.

    Args:
        validator: the evaluator whose ``metrics`` hold ``val_dice``.
        interval: least time in seconds between two pictures of the bar where the output is no terminal.
    """

    def __init__(self, validator: Engine, interval: float = 10.0) -> None:
        self.validator = validator
        self.interval = interval
        self.bar: Any = None

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.STARTED, self.open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.fail)

    def open(self, engine: Engine) -> None:
        """Draw the empty bar."""
        state: Any = engine.state
        self.bar = tqdm(
            total=state.max_epochs * state.epoch_length,
            initial=state.epoch * state.epoch_length,
            desc="training",
            unit="step",
            mininterval=0.1 if sys.stderr.isatty() else self.interval,
            dynamic_ncols=True,
            file=sys.stderr,
        )

    def __call__(self, engine: Engine) -> None:
        """Advance by one step."""
        state: Any = engine.state
        self.bar.set_description(f"epoch {state.epoch}/{state.max_epochs}", refresh=False)
        self.bar.set_postfix(self._figures(state.output[Keys.LOSS]), refresh=False)
        self.bar.update()
        if state.iteration % state.epoch_length == 0:
            self.bar.clear()  # the validation's lines come next

    def close(self, engine: Engine) -> None:
        """Leave the finished bar on the screen."""
        if self.bar is not None:
            self.bar.close()

    def fail(self, engine: Engine, error: BaseException) -> None:
        """Close the bar, then let the error go on."""
        self.close(engine)
        raise error

    def _figures(self, loss: float) -> dict[str, str]:
        figures = {"loss": f"{loss:.3f}"}
        dice = self.validator.state.metrics.get("val_dice")
        if dice is not None:
            figures["val_dice"] = f"{dice:.3f}"
        return figures
