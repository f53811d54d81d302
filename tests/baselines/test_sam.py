"""SAM: segment_anything's network; its names, what trains, and where a gradient goes."""

from __future__ import annotations

import pytest
import torch
from published import filled, fixture, keys, parameters, shapes, unreached
from torch import Tensor

from lmsfe_sam.baselines import build
from lmsfe_sam.errors import InputError
from lmsfe_sam.model.network import LMSFESAM
from lmsfe_sam.model.presets import PRESETS
from tiny import TINY


def prompted_loss(network: LMSFESAM, size: int) -> Tensor:
    """Asks for every kind of prompt and uses every token."""
    embedding = network.encode(torch.rand(1, 3, size, size))
    grid = size // 16
    clicks = network.decode_tokens(
        embedding, points=torch.rand(1, 1, 2, 2) * size, point_labels=torch.tensor([[[1, 0]]])
    )
    box = network.decode_tokens(
        embedding, boxes=torch.rand(1, 1, 4) * size, masks=torch.randn(1, 1, 4 * grid, 4 * grid)
    )
    parts = (clicks.masks, clicks.iou, box.masks, box.iou)
    return torch.stack([part.square().mean() for part in parts]).sum()


def test_names_and_sizes() -> None:
    """MedSAM's key list is SAM ViT-B's."""
    facts = fixture("medsam")["parameters"]
    with torch.device("meta"):
        network = build("sam")
    assert shapes(network) == keys("medsam")
    assert parameters(network) == facts["whole"]
    for part in ("image_encoder", "prompt_encoder", "mask_decoder"):
        assert parameters(network.get_submodule(part)) == facts[part]


def test_what_trains() -> None:
    with torch.device("meta"):
        whole, decoder = build("sam", image_size=256), build("sam", image_size=256, freeze_encoder=True)
    assert all(parameter.requires_grad for parameter in whole.parameters())
    trained = {
        name.split(".")[0] for name, parameter in decoder.named_parameters() if parameter.requires_grad
    }
    assert trained == {"prompt_encoder", "mask_decoder"}


def test_a_gradient_reaches_every_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a small size: the structure is the same."""
    monkeypatch.setitem(PRESETS, "vit_b", TINY["tiny_b"])
    network = filled(build("sam", image_size=64))
    assert unreached(network, prompted_loss(network, 64)) == []


def test_what_it_cannot_take() -> None:
    with pytest.raises(InputError, match="image_size 100 is not possible: give a multiple of 16"):
        build("sam", image_size=100)
