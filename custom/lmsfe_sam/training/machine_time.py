"""Machine time and memory of a run: recorded after each epoch, and a budget that ends training."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from lmsfe_sam.errors import InputError
from lmsfe_sam.files import atomic_write, read_text
from lmsfe_sam.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

FILE = "machine_time.json"


class MachineTime:
    """Handler: writes ``machine_time.json`` after each epoch, and stops the run when its budget is used up.

    Machine time is the processor time of this process on a CPU, whatever else the machine does, and the time
    on the clock on a GPU. A resumed run adds to what it had used. The epoch in which the budget ends is cut
    short, validated and recorded. Attach it last, behind the validation and the recorder.

    Args:
        folder: of the run.
        device: that it trains on.
        max_minutes: the budget in minutes of machine time; None for none.
    """

    def __init__(
        self, folder: RunFolder, device: str | torch.device, max_minutes: float | None = None
    ) -> None:
        self.folder = folder
        self.on_gpu = torch.device(device).type == "cuda"
        self.max_minutes = max_minutes
        self.used_before = 0.0
        self._started = 0.0

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.stop_at_budget)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)

    @property
    def minutes(self) -> float:
        """Machine time so far."""
        return self.used_before + (self._clock() - self._started) / 60

    def start(self, engine: Engine) -> None:
        """Start the clock, where an earlier part of the run left it.

        Raises:
            InputError: the record of that part is damaged.
        """
        source = self.folder.source
        if source is not None and (source / FILE).is_file():
            self.used_before = _minutes_before(source / FILE)
        self._started = self._clock()

    def stop_at_budget(self, engine: Any) -> None:
        """End the current epoch now, and make it the last one."""
        if self.max_minutes is not None and self.minutes >= self.max_minutes:
            logger.info("The budget of %g minutes of machine time is used up.", self.max_minutes)
            engine.state.max_epochs = engine.state.epoch
            engine.terminate_epoch()

    def write(self, engine: Any) -> None:
        """Write what has been used so far, and whether this was the last epoch, early stopping included."""
        if not self.folder.main_process:
            return
        content = {
            "minutes": round(self.minutes, 2),
            "max_minutes": self.max_minutes,
            "device": "gpu" if self.on_gpu else "cpu",
            "precision": "bfloat16" if getattr(engine, "amp", False) else "single",
            "peak_memory_gib": round(self._memory() / 2**30, 2),
            "epochs": engine.state.epoch,
            "steps": engine.state.iteration,
            "steps_an_epoch": engine.state.epoch_length,
            "seed": self.folder.settings.get("seed"),
            "finished": engine.state.epoch >= engine.state.max_epochs or bool(engine.should_terminate),
        }
        with atomic_write(self.folder / FILE) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def _clock(self) -> float:
        return time.monotonic() if self.on_gpu else time.process_time()

    def _memory(self) -> int:
        """Largest memory in bytes so far: of the GPU, or of the process (0 on Windows, which tells none)."""
        if self.on_gpu:
            return torch.cuda.max_memory_allocated()
        try:
            import resource
        except ImportError:
            return 0
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _minutes_before(file: Path) -> float:
    try:
        content = json.loads(read_text(file))
    except (OSError, ValueError, RecursionError):
        content = None
    minutes = content.get("minutes") if isinstance(content, dict) else None
    if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not 0 <= minutes < 1e9:
        raise InputError(
            f"resume '{file.parent}' cannot be gone on with, as its {file.name} is damaged: "
            "put the file back, or remove it to count from 0."
        )
    return float(minutes)
