"""U-Net: MONAI's at 31 M, and the 14.75 M one with the numbers of its authors' code."""

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

from lmsfe_sam.baselines import build
from lmsfe_sam.errors import InputError

STAGES = ["inc", *(f"down{i}" for i in range(1, 5)), *(f"up{i}" for i in range(4, 0, -1))]


def test_small_has_the_published_names() -> None:
    assert shapes(build("unet", size="small")) == keys("unet")


@torch.no_grad()
def test_small_computes_what_is_published() -> None:
    network, case = filled(build("unet", size="small")), cases("unet")["256"]
    with outputs_of(network, {name: name for name in STAGES}) as found:
        found["logits"] = network(uniform("image", [1, 3, 256, 256]))
    found["output"] = found["logits"].sigmoid()
    for name, expected in case["tensors"].items():
        check(found[name], expected, name)


def test_sizes() -> None:
    facts = fixture("unet")
    with torch.device("meta"):
        large, small = build("unet"), build("unet", size="small")
    assert parameters(large) == 31_113_217
    assert parameters(small) == facts["parameters"]["UNet n_classes=1"] == 14_751_873
    assert multiply_adds(small, (1, 3, 256, 256)) == facts["multiply_adds"]["256"]


def test_large_maps_an_image_of_any_channels_to_logits() -> None:
    image = torch.rand(2, 4, 48, 80)
    assert build("unet", in_channels=4)(image).shape == (2, 1, 48, 80)


@pytest.mark.parametrize("size", ["small", "large"])
def test_a_gradient_reaches_every_parameter(size: str) -> None:
    torch.manual_seed(0)
    network = build("unet", size=size).eval()
    missing = unreached(network, network(torch.rand(1, 3, 32, 32)).square().mean())
    assert missing == []


def test_what_it_cannot_take() -> None:
    with pytest.raises(InputError, match="unet has no size 'huge': choose one of large, small"):
        build("unet", size="huge")
    small = build("unet", size="small")
    with pytest.raises(InputError, match="cannot take 40 x 64 pixels: give sides that are multiples of 16"):
        small(torch.zeros(1, 3, 40, 64))
    with pytest.raises(InputError, match=r"was given shape \[1, 4, 64, 64\]: give \(B, 3, H, W\)"):
        small(torch.zeros(1, 4, 64, 64))
