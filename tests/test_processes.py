"""Threads, devices and torchrun."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from lmsfe_sam.distributed import (
    check_device,
    check_device_and_precision,
    join_processes,
    let_idle_threads_sleep,
    local_device,
    set_threads,
)
from lmsfe_sam.errors import InputError


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_demonstration_takes_one_thread_and_data_what_torch_takes() -> None:
    torch.set_num_threads(2)
    set_threads(None, "data")
    assert torch.get_num_threads() == 2
    set_threads(None, None)
    assert torch.get_num_threads() == 1
    set_threads(2, None)
    assert torch.get_num_threads() == 2


def idle_pools() -> int:
    return sum(thread.name == "lmsfe_sam-idle" for thread in threading.enumerate())


def test_a_second_pool_keeps_the_first_from_spinning(monkeypatch: pytest.MonkeyPatch) -> None:
    before = idle_pools()
    torch.set_num_threads(2)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    let_idle_threads_sleep()
    assert idle_pools() == before  # the user has chosen
    monkeypatch.delenv("OMP_WAIT_POLICY")
    for _ in range(2):
        set_threads(2, "data")
    assert idle_pools() == 1
    assert torch.ones(2**20).sum() == 2**20 and torch.get_num_threads() == 2


def test_one_thread_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    before = idle_pools()
    set_threads(1, "data")
    assert idle_pools() == before


def test_without_torchrun_there_is_nothing_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match=r"torchrun --nproc_per_node=N"):
        join_processes("cpu", required_by="multi_gpu_train.json")


def test_the_cpu_where_there_is_no_gpu() -> None:
    if not torch.cuda.is_available():
        assert local_device() == torch.device("cpu")


def test_devices() -> None:
    check_device("cpu")
    for device in ("gpu", "cuda:99", "", None, 3, "meta"):
        with pytest.raises(InputError, match="cpu"):
            check_device(device)


@pytest.mark.parametrize("capable", [False, True])
@pytest.mark.parametrize("amp", [None, False, True])
def test_bfloat16_on_a_cpu_without_instructions_for_it_is_said_to_be_slow(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capable: bool, amp: bool | None
) -> None:
    capabilities = {"architecture": "x86_64", "avx2": True, "avx512_bf16": capable}
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities)
    check_device_and_precision("cpu", amp)
    assert ("leave --amp out" in caplog.text) == (amp is True and not capable)
