"""Training in two processes under torchrun, gloo on the CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from child_processes import environment, run_command
from training_command import BUNDLE, SMALL, TIME_LIMIT, command, history, run

CONFIGS = ("train.json", "multi_gpu_train.json")


OPTIONS = (*SMALL, "--phantoms", "20", "--epochs", "3")
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the output of a run of two processes."""
    folder = tmp_path_factory.mktemp("unbroken")
    words = command(*OPTIONS, "--output_dir", folder, configs=CONFIGS)
    process = run_command(BUNDLE, *LAUNCHER, *words, limit=TIME_LIMIT)
    assert process.returncode == 0, process.stderr
    return folder, process.stdout


def test_two_processes_train_together(unbroken: tuple[Path, str]) -> None:
    folder, out = unbroken
    assert out.count("DEMONSTRATION") == 1
    assert [row["epoch"] for row in history(folder)] == ["1", "2", "3"]
    saved = torch.load(folder / "checkpoint_last.pt", weights_only=True)
    assert saved["epoch_length"] == 3  # 14 images, 7 a process, 2 a step
    assert len(list((folder / "tensorboard").glob("events.*"))) <= 2  # of the first process alone


def workers_of(launcher: int) -> list[int]:
    """Return the processes that a torchrun started, those that train."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [int(child) for child in children if "monai.bundle" in Path(f"/proc/{child}/cmdline").read_text()]


@pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="finds the workers in /proc, which Linux has"
)
def test_a_killed_process_is_replaced_and_the_run_ends_as_the_unbroken_one(
    unbroken: tuple[Path, str], tmp_path: Path
) -> None:
    words = command(*OPTIONS, "--output_dir", tmp_path, configs=CONFIGS)
    launcher = [*LAUNCHER, "--max_restarts=1", "--monitor_interval=0.5"]
    with (tmp_path / "output.txt").open("w") as output:
        process = subprocess.Popen(
            [*launcher, *words], cwd=BUNDLE, env=environment(), stdout=output, stderr=subprocess.STDOUT
        )
        limit = time.monotonic() + TIME_LIMIT
        while not (tmp_path / "history.csv").is_file():
            assert process.poll() is None and time.monotonic() < limit, (tmp_path / "output.txt").read_text()
            time.sleep(0.02)
        os.kill(workers_of(process.pid)[-1], signal.SIGKILL)
        code = process.wait(TIME_LIMIT)
    text = (tmp_path / "output.txt").read_text()
    assert code == 0, text
    assert "were started again" in text and "Going on with" in text
    assert [row["epoch"] for row in history(tmp_path)] == ["1", "2", "3"]
    first, second = (
        torch.load(folder / "checkpoint_last.pt", weights_only=True) for folder in (unbroken[0], tmp_path)
    )
    for name, tensor in first["network"].items():
        assert torch.equal(tensor, second["network"][name]), name


LEAVING = """
import sys, time
from pathlib import Path
from lmsfe_sam.distributed import is_main_process, join_processes, leave_processes
join_processes("cpu")
results = Path(sys.argv[1])
if is_main_process():
    time.sleep(1)
    results.touch()
leave_processes()
assert results.is_file()
"""


def test_no_process_leaves_while_the_first_still_writes(tmp_path: Path) -> None:
    script = tmp_path / "leaving.py"
    script.write_text(LEAVING)
    process = run_command(tmp_path, *LAUNCHER, script, tmp_path / "results", limit=TIME_LIMIT)
    assert process.returncode == 0, process.stderr


def test_without_torchrun_it_says_how(tmp_path: Path) -> None:
    code, _, err = run(*SMALL, "--output_dir", tmp_path, configs=CONFIGS)
    assert code == 1 and "torchrun --nproc_per_node=N" in err and "Traceback" not in err
