"""TransResUNet: the numbers of its authors' Keras functions, grey and in colour."""

from __future__ import annotations

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
from torch import nn

from lmsfe_sam.baselines import build
from lmsfe_sam.baselines.transresunet import VGG_LAYERS, TransResUNet
from lmsfe_sam.errors import InputError

MODULES = {
    "enc1": "block1_conv2",
    "enc2": "block2_conv2",
    "enc3": "block3_conv3",
    "centre": "centre",
    "up3": "up3",
    "up2": "up2",
}


@pytest.mark.parametrize("case", ["grey", "colour"])
@torch.no_grad()
def test_computes_what_is_published(case: str) -> None:
    facts = cases("transresunet")[case]
    image = uniform(facts["inputs"]["image"]["tag"], facts["inputs"]["image"]["shape"])
    network = filled(build("transresunet", in_channels=image.shape[1]))
    joined: dict[str, torch.Tensor] = {}
    for name, path in (("concat3", "up3"), ("concat2", "up2"), ("concat1", "last")):
        hook = lambda module, inputs, name=name: joined.__setitem__(name, inputs[0])  # noqa: E731
        network.get_submodule(path).register_forward_pre_hook(hook)
    with outputs_of(network, MODULES) as found:
        logits = network(image)
    found = {name: found[name].relu() for name in MODULES} | joined
    found |= {"logits": logits, "output": logits.sigmoid()}
    assert set(facts["tensors"]) == set(found)
    for name, expected in facts["tensors"].items():
        check(found[name], expected, name)


def test_names_and_sizes() -> None:
    facts = fixture("transresunet")
    with torch.device("meta"):
        grey, colour = build("transresunet", in_channels=1), build("transresunet")
    assert shapes(grey) == keys("transresunet")
    assert parameters(grey) == facts["parameters"]["grey"] == 5_869_383
    assert parameters(colour) == facts["parameters"]["colour"] == 5_869_377
    assert multiply_adds(grey, (1, 1, 256, 256)) == facts["multiply_adds"]["256"]


def test_a_gradient_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    network = build("transresunet", in_channels=1)
    assert unreached(network, network(torch.rand(1, 1, 32, 32)).square().mean()) == []


def test_starts_from_torchvisions_vgg16() -> None:
    from torchvision.models import vgg16

    with torch.device("meta"):
        state = vgg16().features[:16].state_dict()
    state = {f"features.{name}": torch.rand(tensor.shape) for name, tensor in state.items()}
    network = TransResUNet()
    network.load_backbone(state)
    for name, place in VGG_LAYERS.items():
        assert torch.equal(network.get_submodule(name).weight, state[f"features.{place}.weight"])
    with pytest.raises(InputError, match=r"features.0 is missing .*: give torchvision's vgg16"):
        network.load_backbone(nn.Conv2d(1, 1, 1).state_dict())


def test_what_it_cannot_take() -> None:
    with pytest.raises(InputError, match="cannot take 60 x 64 pixels: give sides that are multiples of 8"):
        build("transresunet")(torch.zeros(1, 3, 60, 64))
