"""What is kept of a run after each epoch, and how a run goes on from it."""

from __future__ import annotations

import io
import logging
import pickle
import shutil
import time
from pathlib import Path
from typing import Any, cast

import torch
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys as Keys
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from lmsfe_sam.errors import InputError
from lmsfe_sam.files import atomic_write
from lmsfe_sam.model.checkpoints import save_weights
from lmsfe_sam.model.network import LMSFESAM
from lmsfe_sam.training.run_folder import BEST, HISTORY_COLUMNS, LAST, RunFolder, write_history

logger = logging.getLogger(__name__)

SCHEDULE_POSITION = ("last_epoch", "_step_count", "_last_lr")
"""What of a schedule's state is where it stands. Its length comes from the config, so that a run can be
given more epochs."""


class RunRecorder:
    """Handler of the trainer: after each epoch writes ``history.csv``, the best weights and the checkpoint.

    The best weights (``model.pt``, the average's) are those of the highest validation Dice.
    ``checkpoint_last.pt`` holds all that the next epoch depends on, so that a run killed at any moment
    goes on from there to the weights of an unbroken one: with ``folder.last_checkpoint`` set, it is read
    when the trainer starts. Attach it after the validation and after the schedule.

    Args:
        folder: the run's folder.
        network: what trains.
        average: its running average, of an `LMSFESAM`.
        optimizer: of the network.
        scheduler: of the optimizer.
        validator: the evaluator; its key metric picks the best.
        early_stop: MONAI's `EarlyStopHandler` on that evaluator, or None.
    """

    def __init__(
        self,
        folder: RunFolder,
        network: nn.Module,
        average: AveragedModel,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        validator: Any,
        early_stop: Any = None,
    ) -> None:
        self.folder = folder
        self.network = network
        self.average = average
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.validator = validator
        self.early_stop = early_stop
        self.history: list[dict[str, Any]] = []
        self._losses: list[float] = []
        self._started = 0.0

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.STARTED, self.restore)
        engine.add_event_handler(Events.EPOCH_STARTED, self.start_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.note_loss)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def start_epoch(self, engine: Engine) -> None:
        """Start the clock."""
        self._losses = []
        self._started = time.monotonic()

    def note_loss(self, engine: Any) -> None:
        """Keep a step's loss for the epoch's mean."""
        self._losses.append(engine.state.output[Keys.LOSS])

    def __call__(self, engine: Engine) -> None:
        """Record the epoch that has just been trained and, as a rule, validated."""
        validated = self.validator.state.epoch == engine.state.epoch
        metrics = self.validator.state.metrics if validated else {}
        row: dict[str, Any] = {
            "epoch": engine.state.epoch,
            "loss": round(sum(self._losses) / len(self._losses), 6),
            "lr": float(f"{self.optimizer.param_groups[0]['lr']:.6g}"),
            "seconds": round(time.monotonic() - self._started, 2),
        }
        row |= {name: round(float(metrics[name]), 6) for name in HISTORY_COLUMNS if name in metrics}
        self.history.append(row)
        if not self.folder.main_process:
            return
        if self.validator.state.best_metric_epoch == engine.state.epoch:
            save_weights(cast(LMSFESAM, self.average.module), self.folder / BEST)
        buffer = io.BytesIO()  # torch.save to a file on a full disk raises no OSError
        torch.save(self.state(engine), buffer)
        with atomic_write(self.folder / LAST) as temporary:
            temporary.write_bytes(buffer.getbuffer())
        write_history(self.folder, self.history)
        self._report(row, engine.state.max_epochs)

    def _report(self, row: dict[str, Any], epochs: int | None) -> None:
        line = f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.3f}, {row['seconds']:.0f} s"
        if "val_dice" in row:
            prefix, state = "val_dice_", self.validator.state
            modes = (f"{k.removeprefix(prefix)} {v:.3f}" for k, v in row.items() if k.startswith(prefix))
            line += f", validation Dice {row['val_dice']:.3f} ({', '.join(modes)})"
            line += f", best {state.best_metric:.3f} in epoch {state.best_metric_epoch}"
        logger.info(line)

    def state(self, engine: Any) -> dict[str, Any]:
        """Return all that the next epoch depends on: tensors and plain Python values only."""
        stop = self.early_stop._handler if self.early_stop else None
        return {
            "epoch": engine.state.epoch,
            "epoch_length": engine.state.epoch_length,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": {key: self.scheduler.state_dict()[key] for key in SCHEDULE_POSITION},
            "scaler": engine.scaler.state_dict() if engine.scaler else None,
            "best_metric": float(self.validator.state.best_metric),
            "best_metric_epoch": self.validator.state.best_metric_epoch,
            "early_stop": {"counter": stop.counter, "best_score": stop.best_score} if stop else None,
            "history": self.history,
        }

    def restore(self, engine: Any) -> None:
        """Go on from the folder's checkpoint, if it is there to be gone on with.

        Raises:
            InputError: all of its epochs are done, or they had another number of steps.
        """
        path = self.folder.last_checkpoint
        if path is None:
            return
        saved = read_checkpoint(path)
        epochs, length = engine.state.max_epochs, engine.state.epoch_length
        if saved["epoch"] >= epochs:
            raise InputError(
                f"resume '{path.parent}' has finished its {saved['epoch']} epochs: give a larger --epochs, "
                "or start a new run."
            )
        if saved["epoch_length"] != length:
            raise InputError(
                f"resume '{path.parent}' had {saved['epoch_length']} steps an epoch, not {length}: "
                "give it the data and the number of processes that it was started with."
            )
        self.network.load_state_dict(saved["network"])
        self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict({**self.scheduler.state_dict(), **saved["schedule"]})
        if engine.scaler and saved["scaler"]:
            engine.scaler.load_state_dict(saved["scaler"])
        self.validator.state.best_metric = saved["best_metric"]
        self.validator.state.best_metric_epoch = saved["best_metric_epoch"]
        if self.early_stop and saved["early_stop"]:
            stop = self.early_stop._handler
            stop.counter, stop.best_score = saved["early_stop"]["counter"], saved["early_stop"]["best_score"]
        self.history = saved["history"]
        engine.state.epoch = saved["epoch"]
        engine.state.iteration = saved["epoch"] * length
        if self.folder.main_process:
            self._take_over(path.parent)
        logger.info("Going on with '%s' after epoch %d of %d.", path.parent, saved["epoch"], epochs)

    def _take_over(self, source: Path) -> None:
        """Bring the earlier epochs' results into a run that goes on in another folder."""
        write_history(self.folder, self.history)
        if source.resolve() != self.folder.path.resolve():
            for name in (BEST, Path(BEST).with_suffix(".json").name):
                shutil.copyfile(source / name, self.folder / name)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a run's checkpoint without running anything that it holds.

    Raises:
        InputError: it is damaged, or holds more than tensors and plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"resume '{path}' is damaged or no checkpoint of a training run: start a new run."
        ) from error
