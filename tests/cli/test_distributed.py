"""Training in several processes under torchrun, gloo on the CPU."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from child_processes import environment, run_command, workers_of
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


def assert_same_weights(first: Path, second: Path) -> None:
    states = [torch.load(folder / "checkpoint_last.pt", weights_only=True) for folder in (first, second)]
    for name, tensor in states[0]["network"].items():
        assert torch.equal(tensor, states[1]["network"][name]), name


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
    assert_same_weights(unbroken[0], tmp_path)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_two_nodes_give_the_weights_of_two_processes(unbroken: tuple[Path, str], tmp_path: Path) -> None:
    """Two torchrun commands, as on two machines, that find each other by a rendezvous."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
    launcher += ["--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{free_port()}", "--rdzv_id=nodes"]
    words = [*launcher, *command(*OPTIONS, "--output_dir", tmp_path / "run", configs=CONFIGS)]
    nodes = []
    for number in range(2):
        with (tmp_path / f"node{number}").open("w") as output:
            nodes.append(
                subprocess.Popen(
                    words, cwd=BUNDLE, env=environment(), stdout=output, stderr=subprocess.STDOUT
                )
            )
    codes = [node.wait(TIME_LIMIT) for node in nodes]
    assert codes == [0, 0], [(tmp_path / f"node{number}").read_text() for number in range(2)]
    assert_same_weights(unbroken[0], tmp_path / "run")


def test_a_run_of_two_processes_goes_on_with_one(unbroken: tuple[Path, str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(unbroken[0], folder)
    code, out, err = run(*SMALL, "--phantoms", "20", "--epochs", "4", "--resume", folder)
    assert code == 0, err
    assert "after epoch 3 of 4" in out
    rows = history(folder)
    assert rows[:3] == history(unbroken[0]) and [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    saved = torch.load(folder / "checkpoint_last.pt", weights_only=True)
    assert saved["epoch_length"] == 7  # 14 images, 2 a step


STEP = """
import sys
import numpy as np, torch
from torch.nn.parallel import DistributedDataParallel
sys.path.insert(0, sys.argv[1])
from training_parts import TinyNetwork, engine
from lmsfe_sam.distributed import is_main_process, join_processes, leave_processes
from lmsfe_sam.model.prompt_free import PromptFreeNetwork
from lmsfe_sam.prompts.sampling import MixedPrompts
from lmsfe_sam.training.distillation import Teachers
from lmsfe_sam.training.iteration import PromptedIteration, PromptedSteps
from lmsfe_sam.training.losses import PromptedLoss

join_processes("cpu")
rank, count = torch.distributed.get_rank(), torch.distributed.get_world_size()

def step(images, accumulate, several):
    torch.manual_seed(0)
    steps = PromptedSteps(PromptFreeNetwork(torch.nn.Conv2d(3, 1, 3, padding=1), 16))
    trainer = engine(DistributedDataParallel(steps) if several else steps, PromptedLoss())
    teachers = Teachers([PromptFreeNetwork(torch.nn.Conv2d(3, 1, 1), 16)], share=0.9)
    pixels, label = torch.randn(count, 3, 16, 16), torch.zeros(count, 1, 16, 16, dtype=torch.uint8)
    for i in range(count):
        label[i, :, 2 : 6 + 2 * i, 3 : 9 + i] = 1
    batch = {"image": pixels[images], "label": label[images], "name": [str(i) for i in images]}
    sampler = MixedPrompts({"none": 1})
    iteration = PromptedIteration(sampler, clip_norm=None, accumulate=accumulate, teachers=teachers)
    iteration(trainer, batch)
    return [p.grad.clone() for p in steps.parameters()]

together = step([rank], 1, True)
if is_main_process():
    for first, second in zip(together, step([*range(count)], count, False), strict=True):
        assert first.abs().max() > 0
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)
leave_processes()
"""


def test_a_step_of_four_processes_is_one_of_four_accumulated_batches(tmp_path: Path) -> None:
    script = tmp_path / "step.py"
    script.write_text(STEP)
    launcher = [*LAUNCHER[:-1], "--nproc_per_node=4"]
    process = run_command(tmp_path, *launcher, script, Path(__file__).parents[1], limit=TIME_LIMIT)
    assert process.returncode == 0, process.stderr


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


ENDING = """
import sys
import torch
from lmsfe_sam.distributed import join_processes, leave_processes
from lmsfe_sam.errors import InputError, plain_errors
plain_errors()
join_processes("cpu")
torch.distributed.all_reduce(torch.ones(1000))
if sys.argv[1] == "error":
    raise InputError("a sentence: its remedy.")
leave_processes()
"""


@pytest.mark.parametrize(("how", "times"), [("well", 3), ("error", 1)])
def test_processes_end_without_an_abort(tmp_path: Path, how: str, times: int) -> None:
    script = tmp_path / "ending.py"
    script.write_text(ENDING)
    for _ in range(times):
        process = run_command(tmp_path, *LAUNCHER, script, how, limit=TIME_LIMIT)
        assert (process.returncode == 0) == (how == "well"), process.stderr
        assert "terminate called" not in process.stderr and "Signal 6" not in process.stderr
        assert ("a sentence: its remedy." in process.stderr) == (how == "error")


def test_without_torchrun_it_says_how(tmp_path: Path) -> None:
    code, _, err = run(*SMALL, "--output_dir", tmp_path, configs=CONFIGS)
    assert code == 1 and "torchrun --nproc_per_node=N" in err and "Traceback" not in err
