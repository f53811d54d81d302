"""Checkpoints of baselines say which network they are of, and are built and loaded again from that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from lmsfe_sam import LMSFESAM
from lmsfe_sam.baselines import build_promptable
from lmsfe_sam.baselines.checkpoints import build_described, load_network
from lmsfe_sam.errors import InputError
from lmsfe_sam.model.checkpoints import read_description, read_image_size, save_weights
from lmsfe_sam.model.prompt_free import PromptFreeNetwork
from tiny import seeded_network

BOXES = torch.tensor([[[3.0, 4, 30, 40]]])


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_weights(build_promptable("ukan", prompt_form="box", image_size=64), tmp_path / "ukan.pt")
    return tmp_path / "ukan.pt"


def test_the_file_beside_it_builds_the_network_again(saved: Path) -> None:
    content = json.loads(saved.with_suffix(".json").read_text())
    assert {key: content[key] for key in ("baseline", "image_size", "prompt_form")} == {
        "baseline": "ukan",
        "image_size": 64,
        "prompt_form": "box",
    }
    assert read_image_size(saved) == 64
    network = load_network(build_described(saved), saved).eval()
    state = torch.load(saved, weights_only=True)
    assert "encoder1.conv.0.weight" in state, "tensors keep their published names"
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert network(torch.zeros(1, 3, 64, 64), boxes=BOXES)[0].shape == (1, 1, 64, 64)


def test_the_configs_network_becomes_what_the_checkpoint_holds(saved: Path) -> None:
    configured = build_promptable("ukan")
    network = load_network(configured, saved)
    assert (network.form, network.image_size) == ("box", 64)
    same = build_promptable("ukan", prompt_form="box", image_size=64)
    assert load_network(same, saved) is same


def test_refusals(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"prompt_form 'none' contradicts checkpoint .* trained with 'box'"):
        load_network(build_promptable("ukan"), saved, prompt_form="none")
    with pytest.raises(InputError, match="is of the baseline 'ukan', but the configs build 'ukan_large'"):
        load_network(build_promptable("ukan_large"), saved)
    with pytest.raises(InputError, match="but the configs build 'tiny_t'"):
        load_network(seeded_network(), saved)
    with pytest.raises(InputError, match="preset 'vit_t' contradicts checkpoint"):
        build_described(saved, "vit_t")
    with pytest.raises(InputError, match=r"of the baseline 'ukan': add configs/baselines/ukan\.json"):
        read_description(saved)
    saved.with_suffix(".json").write_text('{"baseline": "resnet", "image_size": 64}')
    with pytest.raises(InputError, match="describes no baseline: restore it or remove it"):
        build_described(saved)
    saved.with_suffix(".json").write_text('{"baseline": "ukan", "image_size": [64]}')
    with pytest.raises(InputError, match="describes no baseline"):
        build_described(saved)


def test_a_published_file_has_no_description(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = build_promptable("ukan", image_size=64)
    torch.save({"state_dict": source.state_dict()}, tmp_path / "published.pth")
    network = load_network(build_promptable("ukan", image_size=64), tmp_path / "published.pth")
    assert torch.equal(next(network.parameters()), next(source.parameters()))
    with pytest.raises(InputError, match=r"does not fit ukan_large: \d+ tensors .* name the network"):
        load_network(build_promptable("ukan_large", image_size=64), tmp_path / "published.pth")


def test_a_published_file_without_its_config_names_the_remedy(tmp_path: Path) -> None:
    torch.save(build_promptable("ukan", image_size=64).state_dict(), tmp_path / "ukan.pth")
    with pytest.raises(
        InputError, match=r"none of this project's networks: .* configs/baselines/ukan\.json, last"
    ):
        build_described(tmp_path / "ukan.pth")


def test_a_network_of_ones_own(tmp_path: Path) -> None:
    bare = nn.Conv2d(4, 1, 1)
    save_weights(PromptFreeNetwork(bare, 48, "box"), tmp_path / "own.pt")
    network = load_network(nn.Conv2d(4, 1, 1), tmp_path / "own.pt")
    assert (network.form, network.image_size) == ("box", 48)
    assert torch.equal(network.network.weight, bare.weight)
    with pytest.raises(InputError, match="give the network_def that it was trained with"):
        build_described(tmp_path / "own.pt")


def test_ours_loads_as_before(tmp_path: Path) -> None:
    save_weights(LMSFESAM("vit_t", local_encoder=False), tmp_path / "model.pt")
    network = build_described(tmp_path / "model.pt")
    assert isinstance(network, LMSFESAM) and network.toggles["local_encoder"] is False
    assert load_network(network, tmp_path / "model.pt") is network
