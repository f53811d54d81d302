"""The table of baselines: what it builds, what it refuses, and what it imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lmsfe_sam import LMSFESAM
from lmsfe_sam.baselines import BASELINES, build, build_promptable, names
from lmsfe_sam.errors import InputError
from lmsfe_sam.model.prompt_free import load_exactly


@pytest.mark.parametrize("name", list(BASELINES))
def test_every_row_builds(name: str) -> None:
    with torch.device("meta"):
        network = build(name)
    assert isinstance(network, LMSFESAM) == BASELINES[name].promptable
    if BASELINES[name].promptable:
        for part in ("image_encoder", "encode", "decode", "forward", "decode_tokens"):
            assert callable(getattr(network, part))


def test_names() -> None:
    expected = "unet uctransnet transresunet ukan ukan_large sam edgesam medsam sam_med2d"
    assert names() == expected.split()


@pytest.mark.parametrize("name", [name for name, row in BASELINES.items() if not row.promptable])
@pytest.mark.parametrize("channels", [3, 4])
def test_an_image_becomes_logits(name: str, channels: int) -> None:
    options = {"image_size": 64} if name == "uctransnet" else {}
    network = build(name, in_channels=channels, **options).eval()
    with torch.no_grad():
        logits = network(torch.rand(2, channels, 64, 64))
    assert logits.shape == (2, 1, 64, 64)
    assert logits.min() < logits.max()


def test_refusals() -> None:
    known = ", ".join(names())
    with pytest.raises(InputError, match=f"baseline 'resnet' is unknown: choose one of {known}."):
        build("resnet")
    with pytest.raises(InputError, match="baseline 'resnet' is unknown"):
        build_promptable("resnet")
    with pytest.raises(InputError, match="ukan has no option 'widths': possible are in_channels"):
        build("ukan", widths=(8, 8, 8))
    with pytest.raises(
        InputError, match="sam has no option 'depth': possible are image_size, freeze_encoder"
    ):
        build("sam", depth=3)
    with pytest.raises(
        InputError, match="unet has no option 'depth': possible are in_channels, size, image_size"
    ):
        build_promptable("unet", depth=3)
    with pytest.raises(InputError, match="unet has no form 'clicks': choose one of none, box"):
        build_promptable("unet", prompt_form="clicks")
    with pytest.raises(InputError, match="sam takes prompts by itself: leave prompt_form 'box' out"):
        build_promptable("sam", prompt_form="box")


@pytest.mark.parametrize(
    ("name", "size", "multiple"),
    [
        ("ukan", 100, 32), ("ukan_large", 48, 32), ("transresunet", 100, 8), ("uctransnet", 100, 16),
        ("edgesam", 48, 32),
    ],
)  # fmt: skip
def test_a_size_that_it_cannot_take_is_refused_when_it_is_built(name: str, size: int, multiple: int) -> None:
    """Not by the first batch, after all images have been read."""
    sentence = f"{name} cannot work at {size} pixels: give a multiple of {multiple}"
    with pytest.raises(InputError, match=sentence), torch.device("meta"):
        build_promptable(name, image_size=size)
    with pytest.raises(InputError, match="unet cannot work at 31 pixels: give 32 or more"):
        build_promptable("unet", size="large", image_size=31)
    with (
        pytest.raises(InputError, match="unet cannot work at 40 pixels: give a multiple of 16"),
        torch.device("meta"),
    ):
        build_promptable("unet", size="small", image_size=40)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sam", {"image_size": 256, "freeze_encoder": True}),
        ("medsam", {"image_size": 256}),
        ("sam_med2d", {"freeze_encoder": False}),
        ("edgesam", {"image_size": 512}),
        ("ukan", {"prompt_form": "box"}),
        ("unet", {"size": "small", "image_size": 128}),
        ("uctransnet", {"image_size": 64, "prompt_form": "box"}),
    ],
)
def test_a_description_builds_the_network_again(name: str, options: dict[str, object]) -> None:
    with torch.device("meta"):
        network = build_promptable(name, **options)
        described = network.describe()
        again = build_promptable(described.pop("baseline"), **described)
    assert isinstance(network, nn.Module)
    assert isinstance(again, nn.Module)
    assert again.describe() == network.describe()
    assert again.describe().items() >= {"baseline": name, **options}.items()
    assert [p.shape for p in again.parameters()] == [p.shape for p in network.parameters()]
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in network.parameters()]


def test_what_is_heavy_is_imported_when_asked_for() -> None:
    code = (
        "import sys, lmsfe_sam.baselines\n"
        "lmsfe_sam.baselines.build('ukan'); lmsfe_sam.baselines.build('unet', size='small')\n"
        "print([name for name in ('monai', 'timm', 'skimage') if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_published_file_loads(tmp_path: Path, wrapped: bool) -> None:
    """As a bare state dict, or under ``state_dict`` beside other things."""
    torch.manual_seed(0)
    source, network = build("ukan"), build("ukan")
    state = source.state_dict()
    torch.save({"epoch": 3, "model": "UKAN", "state_dict": state} if wrapped else state, tmp_path / "m.pth")
    load_exactly(network, tmp_path / "m.pth", "ukan")
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save(build("ukan").state_dict(), tmp_path / "m.pth")
    with pytest.raises(
        InputError,
        match=r"does not fit ukan_large: \d+ tensors are missing, too many or .* 'encoder1.conv.0.weight'",
    ):
        load_exactly(build("ukan_large"), tmp_path / "m.pth", "ukan_large")
    with pytest.raises(InputError, match=r"'inc.conv.weight' first; name the network that it was made for"):
        load_exactly(build("unet", size="small"), tmp_path / "m.pth", "unet")
    torch.save({**build("ukan").state_dict(), "more": torch.zeros(1)}, tmp_path / "m.pth")
    with pytest.raises(InputError, match=r"1 tensors are .*, 'more' first"):
        load_exactly(build("ukan"), tmp_path / "m.pth", "ukan")
    with pytest.raises(InputError, match="does not exist"):
        load_exactly(build("ukan"), tmp_path / "none.pth", "ukan")
