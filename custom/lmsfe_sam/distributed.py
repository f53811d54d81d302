"""Devices, threads, and torchrun's processes: joining them, dividing images among them, gathering results."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from lmsfe_sam.errors import InputError

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

_parked = threading.Event()


def set_threads(threads: int | None = None, dataset_dir: str | Sequence[str] | None = None) -> None:
    """Let torch compute with so many threads on the CPU, and have idle ones sleep.

    None leaves torch's own choice, one a core, but takes one for the demonstration on phantoms, which then
    keeps its time on a busy machine, too.
    """
    if threads is None and dataset_dir is None:
        threads = 1
    if threads is not None:
        torch.set_num_threads(threads)
    let_idle_threads_sleep()


def let_idle_threads_sleep() -> None:
    """Have OpenMP's threads wait for each other asleep, as ``OMP_WAIT_POLICY=PASSIVE`` does.

    By default they spin for a while, and where another program takes one of the cores, a step was seen to
    last twenty times as long. The variable is read while torch is imported, which MONAI does before it reads
    any config, so that it cannot be set from here. But GNU's OpenMP all but stops spinning once it manages
    more threads than there are cores, and a second, idle pool makes it do so. Other OpenMP libraries are not
    affected. An OMP_WAIT_POLICY of the user's stands.
    """
    threads = torch.get_num_threads()
    if (
        threads == 1
        or "OMP_WAIT_POLICY" in os.environ
        or any(thread.name == "lmsfe_sam-idle" for thread in threading.enumerate())
    ):
        return
    started = threading.Event()

    def open_pool() -> None:
        # Large enough for torch to use all of its threads; the pool lives as long as this thread.
        torch.zeros(threads * 2**17).add_(1)
        started.set()
        _parked.wait()

    threading.Thread(target=open_pool, name="lmsfe_sam-idle", daemon=True).start()
    started.wait()


def local_device() -> torch.device:
    """Return this process's GPU, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def check_device(device: Any) -> None:
    """Refuse a device that this machine does not have.

    Raises:
        InputError: unknown name, or a GPU where there is none.
    """
    try:
        torch.zeros(1, device=torch.device(device)).item()  # the device "meta" has no numbers
    except (RuntimeError, TypeError, AssertionError) as error:
        raise InputError(
            f"device is {str(device)!r}, which this machine does not have: give cpu"
            + (" or cuda" if torch.cuda.is_available() else "")
            + " with --device."
        ) from error


def check_device_and_precision(device: Any, amp: Any) -> None:
    """Refuse a device as `check_device` does; warn of bfloat16 on a CPU without instructions for it.

    Such a CPU computes the same, but a hundred times slower.

    Raises:
        InputError: see `check_device`.
    """
    check_device(device)
    if amp is True and torch.device(device).type == "cpu" and _lacks_bfloat16(torch.cpu.get_capabilities()):
        logger.warning(
            "amp is True, but this CPU has no instructions for bfloat16, which makes it many times slower: "
            "leave --amp out."
        )


def _lacks_bfloat16(capabilities: Mapping[str, Any]) -> bool:
    """Whether an x86 CPU has no instructions for bfloat16; other CPUs are not judged."""
    known = ("avx512_bf16", "amx_bf16", "avx10_1")
    return capabilities.get("architecture") == "x86_64" and not any(capabilities.get(key) for key in known)


def join_processes(device: torch.device | str, required_by: str | None = None) -> None:
    """Join torchrun's process group: NCCL on GPUs, gloo on CPUs. Only the main process goes on logging.

    Args:
        device: this process's own.
        required_by: the config that makes no sense in a process that was started alone, and refuses it.

    Raises:
        InputError: ``required_by``, and torchrun did not start this process.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        if required_by:
            raise InputError(
                f"{required_by} is for several processes: start it with torchrun --nproc_per_node=N -m "
                "monai.bundle run ..., or leave the file out."
            )
        return
    if distributed.is_initialized():
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(local_device())
    # torchrun's own store outlives a restart, and holds the addresses of the processes that are gone.
    store, rank, processes = next(rendezvous("env://"))
    store = distributed.PrefixStore(f"restart_{restart_count()}", store)
    distributed.init_process_group("nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=processes)
    if not on_gpu:
        atexit.register(_drop_group)
    if distributed.get_rank() > 0:
        logging.getLogger("lmsfe_sam").setLevel(logging.ERROR)


def launch_id() -> str | None:
    """Return what all processes of one torchrun have in common, through its restarts: its ``--rdzv_id``.

    None without torchrun, and where it was given no id and makes none (it does with ``--standalone``).
    """
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return None if name == "none" else name


def restart_count() -> int:
    """Return how often torchrun has started these processes again because some had failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def leave_processes() -> None:
    """Leave the process group, if there is one, as soon as all processes have come this far.

    A process that ends first can end badly, and torchrun then stops the one that still writes results.
    """
    if _is_distributed():
        distributed.barrier()
        distributed.destroy_process_group()


def _drop_group() -> None:
    """Drop the group of a process that ends by an error, without waiting for the others.

    Threads of gloo that are still there when the interpreter is gone can end it with "terminate called
    without an active exception" in place of the error. NCCL could wait here for processes that hang.
    """
    if _is_distributed():
        distributed.destroy_process_group()


def is_main_process() -> bool:
    """Whether this is the process that writes, alone or the first of several."""
    return not _is_distributed() or distributed.get_rank() == 0


def local_items(items: Sequence[Item], batch_size: int) -> list[Item]:
    """Return the items that this process evaluates: every WORLD_SIZE-th batch of the whole list.

    Whole batches are dealt out, so that a batch holds the same images however many processes there are,
    and no image is dealt twice to make the parts equal, as `monai.data.partition_dataset` does. Only where
    there are fewer batches than processes, smaller ones are dealt.

    Raises:
        InputError: there are more processes than images.
    """
    if not _is_distributed():
        return list(items)
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    if len(items) < processes:
        raise InputError(
            f"validation or evaluation on {len(items)} images cannot be shared by {processes} processes: "
            f"start at most {len(items)} of them, which are torchrun's --nnodes times --nproc_per_node."
        )
    if len(items) <= batch_size * (processes - 1):
        batch_size = len(items) // processes
    batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    return [item for batch in batches[rank::processes] for item in batch]


def gather(items: Sequence[Item]) -> list[Item] | None:
    """Return the items of all processes, by rank, on the main process; None on the others."""
    if not _is_distributed():
        return list(items)
    parts: list[list[Item]] | None = None
    if distributed.get_rank() == 0:
        parts = [[] for _ in range(distributed.get_world_size())]
    distributed.gather_object(list(items), parts)
    return None if parts is None else [item for part in parts for item in part]


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()
