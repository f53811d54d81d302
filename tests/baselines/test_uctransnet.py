"""UCTransNet: names, numbers and sizes of its authors' code, at 224 and 256 pixels."""

from __future__ import annotations

import re

import pytest
import torch
from published import (
    cases,
    check,
    filled,
    fixture,
    keys,
    multiply_adds,
    outputs_of,
    parameters,
    shapes,
    uniform,
    unreached,
)
from torch import Tensor, nn

from lmsfe_sam.baselines import build
from lmsfe_sam.errors import InputError

SINGLE = {
    **{name: name for name in ("inc", "down1", "down2", "down3", "down4", "up4", "up3", "up2", "up1")},
    **{f"embed{i}": f"mtc.embeddings_{i}" for i in range(1, 5)},
    "reconstruct1": "mtc.reconstruct_1",
    "reconstruct4": "mtc.reconstruct_4",
    "cca4": "up4.coatt",
}
FOURFOLD = {
    "layer0.attn": "mtc.encoder.layer.0.channel_attn",
    "layer0": "mtc.encoder.layer.0",
    "encoder": "mtc.encoder",
    "mtc": "mtc",
}


def computed(network: nn.Module, image: Tensor) -> dict[str, Tensor]:
    with torch.no_grad(), outputs_of(network, {**SINGLE, **FOURFOLD}) as found:
        logits = network(image)
    for name in FOURFOLD:
        found.update({f"{name}.{i}": part for i, part in enumerate(found.pop(name), start=1)})
    return {**found, "logits": logits, "output": logits.sigmoid()}


@pytest.mark.parametrize("size", [224, 256])
def test_computes_what_is_published(size: int) -> None:
    case = cases("uctransnet")[str(size)]
    network = filled(build("uctransnet", image_size=size))
    found = computed(network, uniform("image", case["inputs"]["image"]["shape"]))
    assert len(case["tensors"]) == 34
    for name, expected in case["tensors"].items():
        check(found[name], expected, name)


def test_has_the_published_names() -> None:
    with torch.device("meta"):
        assert shapes(build("uctransnet")) == keys("uctransnet")
        other = shapes(build("uctransnet", image_size=256))
    different = {name for name, shape in keys("uctransnet").items() if other[name] != shape}
    assert different == {f"mtc.embeddings_{i}.position_embeddings" for i in range(1, 5)}


@pytest.mark.parametrize("size", [224, 256])
def test_sizes(size: int) -> None:
    facts = fixture("uctransnet")
    with torch.device("meta"):
        network = build("uctransnet", image_size=size)
    assert parameters(network) == facts["parameters"][str(size)]
    assert multiply_adds(network, (1, 3, size, size)) == facts["multiply_adds"][str(size)]


def test_norms_within_the_transformer_have_their_own_eps() -> None:
    with torch.device("meta"):
        network = build("uctransnet")
    norms = [module for module in network.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 4 * 9 + 4
    assert {norm.eps for norm in norms} == {1e-6}


def test_a_gradient_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    network = build("uctransnet", image_size=32).eval()
    assert unreached(network, network(torch.rand(1, 3, 32, 32)).square().mean()) == []


def test_drops_out_in_training_only() -> None:
    network = build("uctransnet", image_size=32)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert not torch.equal(network(image), network(image))
        assert torch.equal(network.eval()(image), network(image))


def test_what_it_cannot_take() -> None:
    with torch.device("meta"):
        network = build("uctransnet", image_size=32)
    with pytest.raises(InputError, match=re.escape("built for 32 x 32 pixels and was given 32 x 48: resize")):
        network(torch.zeros(1, 3, 32, 48))
    with pytest.raises(InputError, match="cannot work at 100 pixels: give a multiple of 16"):
        build("uctransnet", image_size=100)
