"""Sharing the images of a run among the processes that torchrun started."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import distributed

from lmsfe_sam.errors import InputError

Item = TypeVar("Item")


def join_processes(device: torch.device | str) -> None:
    """Join the process group of torchrun; do nothing in a process that was started alone.

    NCCL on GPUs, of which each process takes its own; gloo on a CPU.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if on_gpu else "gloo")


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
