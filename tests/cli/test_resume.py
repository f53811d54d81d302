"""A run that was killed goes on to the weights of one that was not."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import torch
from training_command import SMALL, TIME_LIMIT, history, run, start

OPTIONS = (*SMALL, "--phantoms", "20", "--epochs", "3", "--seed", "7")


def state(folder: Path, name: str = "checkpoint_last.pt") -> dict[str, Any]:
    return torch.load(folder / name, weights_only=True)


def assert_same(first: Any, second: Any, where: str = "") -> None:
    assert type(first) is type(second), where
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            if key != "seconds":
                assert_same(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list):
        assert len(first) == len(second), where
        for i, (a, b) in enumerate(zip(first, second)):
            assert_same(a, b, f"{where}[{i}]")
    else:
        assert first == second, where


def kill_in_the_middle_of(epoch: int, folder: Path) -> None:
    """Start a run; kill it by SIGKILL once the epoch before is recorded and this one is on its way."""
    process = start(*OPTIONS, "--output_dir", folder)
    limit = time.monotonic() + TIME_LIMIT
    while not (folder / "history.csv").is_file() or len(history(folder)) < epoch - 1:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(history(folder)) < 3


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    code, _, err = run(*OPTIONS, "--output_dir", unbroken)
    assert code == 0, err
    kill_in_the_middle_of(2, killed)
    done = len(history(killed))
    code, out, err = run(*OPTIONS, "--resume", killed)
    assert code == 0, err
    assert f"after epoch {done} of 3" in out

    assert [row["epoch"] for row in history(killed)] == ["1", "2", "3"]
    assert_same(state(unbroken), state(killed))
    assert_same(state(unbroken, "model.pt"), state(killed, "model.pt"))
    assert not list(killed.glob(".*"))

    # a run of other settings is not gone on with, nor one that is finished
    code, out, err = run(*OPTIONS, "--resume", killed)
    assert code == 1 and "has finished its 3 epochs: give a larger --epochs" in err
    code, out, err = run(*OPTIONS, "--resume", killed, "--seed", "8", "--epochs", "4")
    assert code == 1 and "Traceback" not in err
    assert "was started with seed 7, not 8" in err
    settings = json.loads((killed / "run.json").read_text())["settings"]
    assert settings["seed"] == 7
