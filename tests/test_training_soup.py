"""The mean of several runs' weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lmsfe_sam.errors import InputError
from lmsfe_sam.model.checkpoints import network_from_checkpoint, save_weights
from lmsfe_sam.model.network import LMSFESAM
from lmsfe_sam.model.weights.pretrained import read_state
from lmsfe_sam.training.soup import average_checkpoints, main
from tiny import SIZE, tiny_presets


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[list[Path]]:
    """Three runs of one network, their running statistics included."""
    with tiny_presets():
        files = []
        for seed in range(3):
            torch.manual_seed(seed)
            network = LMSFESAM("tiny_t", image_size=SIZE).train()
            network(torch.randn(2, 3, SIZE, SIZE))
            files.append(tmp_path / str(seed) / "model.pt")
            files[-1].parent.mkdir()
            save_weights(network, files[-1])
        yield files


def test_every_tensor_is_the_mean(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*map(str, runs), "--output", str(tmp_path / "mean.pt")])
    assert "mean of 3" in capsys.readouterr().out
    states = [read_state(run) for run in runs]
    mean = read_state(tmp_path / "mean.pt")
    assert set(mean) == set(states[0])
    different = 0
    for name, tensor in mean.items():
        parts = torch.stack([state[name] for state in states])
        different += bool((parts[0] != parts[1]).any())
        assert tensor.dtype == parts.dtype
        torch.testing.assert_close(tensor.double(), parts.double().mean(dim=0), rtol=1e-5, atol=1e-6)
    assert different > len(mean) / 2
    assert any("running_mean" in name for name in mean)
    network = network_from_checkpoint(tmp_path / "mean.pt")
    assert network.describe() == network_from_checkpoint(runs[0]).describe()


def test_a_part_may_come_from_the_first_file_alone(runs: list[Path], tmp_path: Path) -> None:
    main([*map(str, runs), "--keep", "image_encoder", "--output", str(tmp_path / "mean.pt")])
    first, second, third = (read_state(run) for run in runs)
    for name, tensor in read_state(tmp_path / "mean.pt").items():
        if name.startswith("image_encoder."):
            assert torch.equal(tensor, first[name])
        else:
            expected = (second[name].double() + third[name].double()) / 2
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(
        InputError, match=r"keep 'encoder' is no part of the network: give one of image_encoder"
    ):
        average_checkpoints(runs, ["encoder"])


def test_another_network_and_too_few_files_are_refused(runs: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    save_weights(LMSFESAM("tiny_t", image_size=SIZE, mhpm=False), other)
    with pytest.raises(InputError, match=r"other\.pt' is of another network than .*average runs of one"):
        average_checkpoints([runs[0], other])
    with pytest.raises(InputError, match="two or more"):
        average_checkpoints(runs[:1])
    with pytest.raises(InputError, match=r"no\.pt' does not exist"):
        average_checkpoints([runs[0], tmp_path / "no.pt"])


def test_the_output_is_a_checkpoint(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main([*map(str, runs), "--output", str(tmp_path / "mean")])
    assert not (tmp_path / "mean").exists()
