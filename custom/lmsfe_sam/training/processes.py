"""Threads of a training run, and several processes under torchrun."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import torch
from torch import distributed

from lmsfe_sam.errors import InputError


def use_threads(threads: int | None, dataset_dir: str | Sequence[str] | None) -> None:
    """Let torch compute with so many threads on the CPU.

    None leaves torch's own choice, one a core, but takes one for the demonstration on phantoms: torch's
    threads wait for each other by spinning, and where another program takes one of the cores, a step
    with two threads was seen to last twenty times as long as with one. The demonstration keeps its time
    there, too. (``OMP_WAIT_POLICY=PASSIVE`` in the environment cures the spinning.)
    """
    if threads is None and dataset_dir is None:
        threads = 1
    if threads is not None:
        torch.set_num_threads(threads)


def own_device() -> torch.device:
    """Return this process's GPU, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def join_torchrun(device: torch.device | str) -> None:
    """Join torchrun's process group: NCCL on GPUs, gloo on CPUs. Only the first process goes on talking.

    Raises:
        InputError: this process was not started by torchrun.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        raise InputError(
            "multi_gpu_train.json is for several processes: start it with torchrun --nproc_per_node=N -m "
            "monai.bundle run training ..., or leave the file out."
        )
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    if distributed.get_rank() > 0:
        logging.getLogger("lmsfe_sam").setLevel(logging.ERROR)
