"""Training in several processes under torchrun."""

from __future__ import annotations

import logging
import os

import torch
from torch import distributed

from lmsfe_sam.errors import InputError


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
