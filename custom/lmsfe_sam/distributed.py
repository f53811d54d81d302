"""Threads, and the processes that torchrun started: joining them, and dividing a run's images."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import distributed

from lmsfe_sam.errors import InputError

Item = TypeVar("Item")


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


def join_processes(device: torch.device | str, required: bool = False) -> None:
    """Join torchrun's process group: NCCL on GPUs, gloo on CPUs. Only the first process goes on logging.

    Args:
        device: this process's own.
        required: refuse a process that was started alone, instead of leaving it alone.

    Raises:
        InputError: ``required``, and torchrun did not start this process.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        if required:
            raise InputError(
                "multi_gpu_train.json is for several processes: start it with torchrun --nproc_per_node=N -m "
                "monai.bundle run training ..., or leave the file out."
            )
        return
    if distributed.is_initialized():
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(own_device())
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    if distributed.get_rank() > 0:
        logging.getLogger("lmsfe_sam").setLevel(logging.ERROR)


def leave_processes() -> None:
    """Leave the process group, if there is one, as soon as all processes have come this far.

    A process that ends first can end badly, and torchrun then stops the one that still writes results.
    """
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def is_first() -> bool:
    """Whether this is the process that writes, alone or the first of several."""
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0


def own_share(items: Sequence[Item], batch_size: int) -> list[Item]:
    """Return the items that this process evaluates: every WORLD_SIZE-th batch of the whole list.

    Whole batches are dealt out, so that a batch holds the same images however many processes there are,
    and no image is dealt twice to make the shares equal.

    Raises:
        InputError: there are more processes than batches.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return list(items)
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    if len(batches) < processes:
        raise InputError(
            f"{len(items)} images in batches of {batch_size} are too few for {processes} processes: "
            f"start torchrun with --nproc_per_node of at most {len(batches)}."
        )
    return [item for batch in batches[rank::processes] for item in batch]
