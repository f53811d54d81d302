"""Training in two processes under torchrun, gloo on the CPU."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from child_processes import run_command
from training_command import BUNDLE, SMALL, TIME_LIMIT, command, history, run

CONFIGS = ("train.json", "multi_gpu_train.json")


def test_two_processes_train_together(tmp_path: Path) -> None:
    options = (*SMALL, "--phantoms", "20", "--epochs", "2", "--output_dir", tmp_path)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    words = command(*options, configs=CONFIGS)
    process = run_command(BUNDLE, *launcher, *words, limit=TIME_LIMIT)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("DEMONSTRATION") == 1
    assert [row["epoch"] for row in history(tmp_path)] == ["1", "2"]
    saved = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)
    assert saved["epoch_length"] == 3  # 14 images, 7 a process, 2 a step
    assert len(list((tmp_path / "tensorboard").glob("events.*"))) <= 2  # of the first process alone


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
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    process = run_command(tmp_path, *launcher, script, tmp_path / "results", limit=TIME_LIMIT)
    assert process.returncode == 0, process.stderr


def test_without_torchrun_it_says_how(tmp_path: Path) -> None:
    code, _, err = run(*SMALL, "--output_dir", tmp_path, configs=CONFIGS)
    assert code == 1 and "torchrun --nproc_per_node=N" in err and "Traceback" not in err
