"""U-KAN: names, numbers and sizes of its authors' code, of both models and of one KAN layer."""

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
    normal,
    outputs_of,
    parameters,
    shapes,
    tokens,
    uniform,
    unreached,
)
from torch import nn

from lmsfe_sam.baselines import build
from lmsfe_sam.baselines.ukan import KANLinear, spline_bases, uniform_knots
from lmsfe_sam.errors import InputError

MAPS = [f"encoder{i}" for i in range(1, 4)] + [f"decoder{i}" for i in range(1, 6)]
BLOCKS = {
    "patch_embed3": "patch_embed3",
    "patch_embed4": "patch_embed4",
    "block1": "block1.0",
    "block2": "block2.0",
    "block2.dwconv_1": "block2.0.layer.dwconv_1",
    "dblock1": "dblock1.0",
    "dblock2": "dblock2.0",
}
LAST = {
    "norm3": "norm3",
    "norm4": "norm4",
    "dnorm3": "dnorm3",
    "dnorm4": "dnorm4",
    "block2.fc1": "block2.0.layer.fc1",
}
"""Modules that work on the last axis."""


@pytest.mark.parametrize(("name", "case"), [("ukan", "default"), ("ukan_large", "large")])
@torch.no_grad()
def test_computes_what_is_published(name: str, case: str) -> None:
    facts = cases("ukan")[case]
    network = filled(build(name))
    with outputs_of(network, {**{name: name for name in MAPS}, **BLOCKS, **LAST}) as found:
        found["output"] = network(uniform("image", facts["inputs"]["image"]["shape"]))
    assert set(facts["tensors"]) == set(found)
    for key, expected in facts["tensors"].items():
        tensor = tokens(found[key]) if key in BLOCKS else found[key]
        check(tensor.reshape(expected["shape"]) if key in LAST else tensor, expected, key)


@torch.no_grad()
def test_one_kan_layer() -> None:
    """The first row lies on knots, so that half-open intervals matter."""
    facts, layer = cases("ukan")["kan_linear"]["tensors"], filled(KANLinear(6, 5))
    x = 1.5 * normal("kan", [24, 6])
    x[0] = uniform_knots()[:6]
    check(spline_bases(x, layer.grid), facts["bases"], "bases")
    check(layer(x), facts["output"], "output")


def test_splines() -> None:
    """They sum to one within [-1, 1] and are zero outside of the knots."""
    inside = spline_bases(torch.linspace(-1, 0.999, 50)[:, None], uniform_knots()[None])
    torch.testing.assert_close(inside.sum(dim=-1), torch.ones(50, 1))
    outside = spline_bases(torch.tensor([[-2.3], [2.21], [100.0]]), uniform_knots()[None])
    assert not outside.any()


def test_splines_start_as_small_noise_at_the_knots() -> None:
    torch.manual_seed(0)
    layer = KANLinear(40, 30)
    knots = uniform_knots()[3:-3]
    bases = spline_bases(knots[:, None], uniform_knots()[None])[:, 0]
    curves = layer.spline_weight.detach() @ bases.t()
    assert 0.0099 < curves.abs().max() <= 0.01 + 1e-6
    assert curves.std().item() == pytest.approx(0.02 / 12**0.5, rel=0.03)


@pytest.mark.parametrize(
    ("name", "file", "row"), [("ukan", "keys.txt", "default"), ("ukan_large", "keys_large.txt", "large")]
)
def test_names_and_sizes(name: str, file: str, row: str) -> None:
    facts = fixture("ukan")
    with torch.device("meta"):
        network = build(name)
    assert shapes(network) == keys("ukan", file)
    assert parameters(network) == facts["parameters"][row]
    assert multiply_adds(network, (1, 3, 256, 256)) == facts["multiply_adds"][f"{row}@256"]


def test_norms() -> None:
    with torch.device("meta"):
        network = build("ukan")
    norms = [m for m in network.modules() if isinstance(m, nn.LayerNorm | nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {1e-5}


def test_a_gradient_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    network = build("ukan").eval()
    assert unreached(network, network(torch.rand(1, 3, 64, 96)).square().mean()) == []


def test_what_it_cannot_take() -> None:
    with pytest.raises(InputError, match="cannot take 64 x 80 pixels: give sides that are multiples of 32"):
        build("ukan")(torch.zeros(1, 3, 64, 80))
