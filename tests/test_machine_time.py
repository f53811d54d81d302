"""The budget of a run, and what it records of machine time and memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Engine, Events

from lmsfe_sam.training.machine_time import MachineTime
from lmsfe_sam.training.run_folder import RunFolder


class Clocked(MachineTime):
    """A step takes half a minute."""

    seconds = 0.0

    def _clock(self) -> float:
        return self.seconds


def train(folder: Path, minutes: float | None, resume: Path | None = None, epochs: int = 4) -> Engine:
    run = RunFolder(str(folder), str(resume) if resume else None, {"dataset_dir": None, "seed": 7})
    handler = Clocked(run, "cpu", minutes)

    def step(engine: Any, batch: int) -> None:
        handler.seconds += 30

    engine = Engine(step)
    handler.attach(engine)
    engine.run(range(4), max_epochs=epochs)
    run.close()
    return engine


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "machine_time.json").read_text())


def test_the_epoch_in_which_the_budget_ends_is_the_last_and_is_recorded(tmp_path: Path) -> None:
    engine = train(tmp_path / "run", 3.0)
    assert (engine.state.epoch, engine.state.iteration) == (2, 6)
    found = record(tmp_path / "run")
    assert found["minutes"] == 3.0 and found["max_minutes"] == 3.0 and found["finished"] is True
    assert (found["epochs"], found["steps"], found["steps_an_epoch"], found["seed"]) == (2, 6, 4, 7)
    assert found["peak_memory_gib"] > 0


@pytest.mark.parametrize("minutes", [None, 100.0])
def test_without_a_budget_to_end_it_a_run_has_all_its_epochs(tmp_path: Path, minutes: float | None) -> None:
    assert train(tmp_path / "run", minutes).state.epoch == 4
    assert record(tmp_path / "run")["minutes"] == 8.0
    assert record(tmp_path / "run")["finished"] is True


def test_a_resumed_run_adds_to_what_it_had_used(tmp_path: Path) -> None:
    train(tmp_path / "run", None, epochs=1)
    (tmp_path / "run" / "checkpoint_last.pt").write_bytes(b"")
    assert train(tmp_path / "run", 3.0, resume=tmp_path / "run").state.iteration == 2
    assert record(tmp_path / "run")["minutes"] == 3.0


def test_an_epoch_that_is_cut_short_is_completed(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path / "run"), None, {"dataset_dir": None})
    handler = Clocked(run, "cpu", 0.5)
    engine = Engine(lambda engine, batch: setattr(handler, "seconds", handler.seconds + 30))
    ends: list[int] = []
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: ends.append(engine.state.iteration))
    handler.attach(engine)
    engine.run(range(4), max_epochs=3)
    run.close()
    assert ends == [1]


def test_a_run_that_is_stopped_early_is_finished(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path / "run"), None, {"dataset_dir": None, "seed": 7})
    engine = Engine(lambda engine, batch: None)
    engine.add_event_handler(Events.EPOCH_COMPLETED(once=2), lambda engine: engine.terminate())
    MachineTime(run, "cpu").attach(engine)
    engine.run(range(3), max_epochs=5)
    run.close()
    assert (record(tmp_path / "run")["epochs"], record(tmp_path / "run")["finished"]) == (2, True)
