"""Networks that take no prompt, behind the methods of a promptable one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.networks.nets import UNet
from torch.optim.swa_utils import AveragedModel

from lmsfe_sam.errors import InputError
from lmsfe_sam.model.prompt_free import Promptable, PromptFreeNetwork, as_promptable
from lmsfe_sam.training.losses import PromptedLoss
from tiny import seeded_network


def unet(out_channels: int = 1) -> UNet:
    torch.manual_seed(0)
    return UNet(2, 3, out_channels, channels=(4, 8), strides=(2,), norm="BATCH")


def test_what_has_encode_and_decode_is_promptable_and_stays_as_it_is() -> None:
    network = seeded_network()
    assert as_promptable(network) is network
    assert not isinstance(unet(), Promptable)
    wrapped = as_promptable(unet(), 32)
    assert isinstance(wrapped, Promptable) and wrapped.image_size == 32


def test_decoding_returns_the_networks_own_logits() -> None:
    bare = unet().eval()
    network, image = PromptFreeNetwork(bare, 32), torch.rand(2, 3, 32, 32)
    logits, iou = network.decode(network.encode(image), boxes=None)
    assert torch.equal(logits, bare(image)) and torch.equal(network(image), logits)
    assert iou.shape == (2, 1) and iou.isnan().all()
    unprompted = torch.full((2, 3, 4), torch.nan)
    logits, iou = network.decode(network.encode(image), boxes=unprompted)
    assert logits.shape == (2, 3, 32, 32) and iou.shape == (2, 3)
    with pytest.raises(InputError, match="takes no prompts"):
        network.decode(network.encode(image), boxes=torch.zeros(2, 1, 4))


def test_the_loss_has_no_term_for_an_iou_that_nobody_predicts() -> None:
    network, image = PromptFreeNetwork(unet(), 32), torch.rand(2, 3, 32, 32)
    target = (torch.rand(2, 1, 32, 32) > 0.5).float()
    tokens = network.decode_tokens(network.encode(image))
    loss = PromptedLoss(focal_weight=0, dice_weight=0, cross_entropy_weight=1)(tokens, target)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(network(image), target)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    loss.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_state_dict_is_the_networks_own() -> None:
    bare = unet()
    network = PromptFreeNetwork(bare)
    assert list(network.state_dict()) == list(bare.state_dict())
    network.load_state_dict(unet().state_dict())
    average = AveragedModel(network, use_buffers=True)
    state = average.state_dict()
    assert {name.removeprefix("module.") for name in state} - {"n_averaged"} == set(bare.state_dict())
    average.load_state_dict(state)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save(unet().state_dict(), tmp_path / "unet.pt")
    PromptFreeNetwork(unet()).load_pretrained(tmp_path / "unet.pt")
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "linear.pt")
    with pytest.raises(InputError, match=r"linear\.pt' does not fit network_def"):
        PromptFreeNetwork(unet()).load_pretrained(tmp_path / "linear.pt")


def test_more_than_one_output_channel_is_refused() -> None:
    with pytest.raises(InputError, match="network_def gives 2 channels"):
        PromptFreeNetwork(unet(2))(torch.rand(1, 3, 32, 32))


def test_its_description_names_the_class() -> None:
    described = PromptFreeNetwork(unet(), 48).describe()
    assert described == {"network": "monai.networks.nets.unet.UNet", "image_size": 48}
