"""Handlers of the trainer: randomness, the moving average, validation, records and the progress bar."""

from __future__ import annotations

import io
import logging
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from monai.handlers import ValidationHandler
from monai.utils.enums import CommonKeys as Keys
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from lmsfe_sam.errors import InputError
from lmsfe_sam.files import atomic_write
from lmsfe_sam.model.checkpoints import Described, save_weights
from lmsfe_sam.stopping import held_signals
from lmsfe_sam.training.run_folder import BEST, HISTORY_COLUMNS, LAST, RunFolder, write_history

logger = logging.getLogger(__name__)

SCHEDULE_POSITION = ("last_epoch", "_step_count", "_last_lr")
"""The position in a schedule's state. Its length comes from the config, so that a run can be given more
epochs."""

CHECKPOINT: dict[str, type | tuple[type, ...]] = {
    "epoch": int,
    "epoch_length": int,
    "network": dict,
    "average": dict,
    "optimizer": dict,
    "schedule": dict,
    "scaler": (dict, type(None)),
    "best_metric": (float, int),
    "best_metric_epoch": int,
    "early_stop": (dict, type(None)),
    "history": list,
}
"""What a run's checkpoint holds."""


class SeedEpochs:
    """Reseed all random number generators at the start of an epoch, so that a run can be resumed there.

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


class AverageWeights:
    """Update the average of the weights after each step.

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
        """Update the average with the network's present weights."""
        self.average.update_parameters(self.network)


class ValidateEpochs(ValidationHandler):
    """MONAI's handler, which validates every ``interval`` epochs, and the last epoch in any case."""

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED(event_filter=self._is_due), self)

    def _is_due(self, engine: Engine, epoch: int) -> bool:
        return epoch % self.interval == 0 or epoch == engine.state.max_epochs


class RunRecorder:
    """Write ``history.csv``, the best weights and the checkpoint after each epoch.

    The best weights (``model.pt``, the average's) are those of the highest validation Dice.
    ``checkpoint_last.pt`` holds all that the next epoch depends on, so that a run killed at any moment
    goes on from there to the weights of an unbroken one: with ``folder.last_checkpoint`` set, it is read
    when the trainer starts. Attach it after the validation and after the schedule.

    Args:
        folder: the run's folder.
        network: what trains.
        average: its running average, of a `lmsfe_sam.model.promptable.PromptableNetwork`.
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
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.record_loss)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def start_epoch(self, engine: Engine) -> None:
        """Start the clock."""
        self._losses = []
        self._started = time.monotonic()

    def record_loss(self, engine: Any) -> None:
        """Add a step's loss to the epoch's mean."""
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
            save_weights(cast(Described, self.average.module), self.folder / BEST)
        buffer = io.BytesIO()  # torch.save to a file on a full disk raises no OSError
        torch.save(self.state(engine), buffer)
        with held_signals():
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
            "early_stop": dict(stop.state_dict()) if stop else None,
            "history": self.history,
        }

    def restore(self, engine: Any) -> None:
        """Continue from the folder's checkpoint, if there is one.

        With another number of processes an epoch has another number of steps, and the learning rate goes on
        from the same place of its schedule.

        Raises:
            InputError: all of its epochs are done, or the checkpoint does not fit.
        """
        path = self.folder.last_checkpoint
        if path is None:
            return
        saved = read_checkpoint(path)
        if self.folder.main_process and path.parent.resolve() == self.folder.path.resolve():
            write_history(self.folder, saved["history"])  # a kill may have come between the two files
        epochs, length = engine.state.max_epochs, engine.state.epoch_length
        if saved["epoch"] >= epochs and not self.folder.restarted:
            raise InputError(
                f"resume '{path.parent}' has finished its {saved['epoch']} epochs: give a larger --epochs, "
                "or start a new run."
            )
        if saved["epoch_length"] != length:
            logger.warning(
                "'%s' had %d steps an epoch, and goes on with %d: another number of processes.",
                *(path.parent, saved["epoch_length"], length),
            )
        try:
            self._load(engine, saved)
        except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"resume '{path}' is of another network or optimizer, or damaged "
                f"({' '.join(str(error).split())[:150]}): repeat the options that the run was started with."
            ) from error
        engine.state.epoch = saved["epoch"]
        engine.state.iteration = saved["epoch"] * length
        if self.folder.main_process:
            self._copy_records(path.parent)
        logger.info("Going on with '%s' after epoch %d of %d.", path.parent, saved["epoch"], epochs)

    def _load(self, engine: Any, saved: dict[str, Any]) -> None:
        self.network.load_state_dict(saved["network"])
        self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        position = dict(saved["schedule"])
        if saved["epoch_length"] != engine.state.epoch_length:
            position |= {"last_epoch": saved["epoch"] * engine.state.epoch_length}
            position |= {"_step_count": position["last_epoch"] + 1}
        self.scheduler.load_state_dict({**self.scheduler.state_dict(), **position})
        if engine.scaler and saved["scaler"]:
            engine.scaler.load_state_dict(saved["scaler"])
        self.validator.state.best_metric = saved["best_metric"]
        self.validator.state.best_metric_epoch = saved["best_metric_epoch"]
        if self.early_stop and saved["early_stop"]:
            stop = self.early_stop._handler
            stop.load_state_dict({**stop.state_dict(), **saved["early_stop"]})  # older ones hold fewer keys
        self.history = saved["history"]

    def _copy_records(self, source: Path) -> None:
        """Copy the earlier epochs' results into a run that goes on in another folder.

        Raises:
            InputError: the best weights so far are missing.
        """
        write_history(self.folder, self.history)
        if source.resolve() == self.folder.path.resolve():
            return
        if self.validator.state.best_metric_epoch < 0:
            logger.info("'%s' was not validated yet, so that it has no %s to copy.", source, BEST)
            return
        for name in (BEST, Path(BEST).with_suffix(".json").name):
            if not (source / name).is_file():
                raise InputError(f"resume '{source}' has lost its {name}: put it back, or start a new run.")
            shutil.copyfile(source / name, self.folder / name)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a run's checkpoint without running anything that it holds.

    Raises:
        InputError: it is damaged, or holds more than tensors and plain values, or others than a run's.
    """
    message = f"resume '{path}' is damaged or no checkpoint of a training run: start a new run."
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged pickle makes of it
        raise InputError(message) from error
    kinds = saved if isinstance(saved, dict) else {}
    if not all(key in kinds and isinstance(kinds[key], kind) for key, kind in CHECKPOINT.items()):
        raise InputError(message)
    rows = saved["history"]
    if not all(isinstance(row, dict) and row.keys() <= set(HISTORY_COLUMNS) for row in rows):
        raise InputError(message)
    if saved["epoch"] < 1 or len(rows) != saved["epoch"] or set(saved["schedule"]) != set(SCHEDULE_POSITION):
        raise InputError(message)
    return saved


class ProgressBar:
    """One progress bar for the whole run, with loss and last validation Dice; ignite has one bar per epoch.

    Args:
        validator: the evaluator whose ``metrics`` hold ``val_dice``.
        interval: seconds at least between two updates of the bar where the output is not a terminal.
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
        self.bar.set_postfix(self._metrics(state.output[Keys.LOSS]), refresh=False)
        self.bar.update()
        if state.iteration % state.epoch_length == 0:
            self.bar.clear()  # the validation's lines come next

    def close(self, engine: Engine) -> None:
        """Leave the finished bar on the screen."""
        if self.bar is not None:
            self.bar.close()

    def fail(self, engine: Engine, error: BaseException) -> None:
        """Close the bar and raise the error again."""
        self.close(engine)
        raise error

    def _metrics(self, loss: float) -> dict[str, str]:
        shown = {"loss": f"{loss:.3f}"}
        dice = self.validator.state.metrics.get("val_dice")
        if dice is not None:
            shown["val_dice"] = f"{dice:.3f}"
        return shown
