"""Threads, devices and torchrun."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from lmsfe_sam.distributed import join_processes, own_device, use_threads
from lmsfe_sam.errors import InputError


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_demonstration_takes_one_thread_and_data_what_torch_takes() -> None:
    torch.set_num_threads(2)
    use_threads(None, "data")
    assert torch.get_num_threads() == 2
    use_threads(None, None)
    assert torch.get_num_threads() == 1
    use_threads(2, None)
    assert torch.get_num_threads() == 2


def test_without_torchrun_there_is_nothing_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match=r"torchrun --nproc_per_node=N"):
        join_processes("cpu", required=True)


def test_the_cpu_where_there_is_no_gpu() -> None:
    if not torch.cuda.is_available():
        assert own_device() == torch.device("cpu")
