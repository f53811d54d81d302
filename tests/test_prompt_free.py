"""Networks that take no prompt, behind a promptable one's methods: forms, shapes, and what each refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lmsfe_sam import ImageEmbedding
from lmsfe_sam.baselines import build_promptable
from lmsfe_sam.errors import InputError
from lmsfe_sam.evaluation.prediction import full_input, predict_boxes, predict_without_prompt
from lmsfe_sam.model.prompt_free import CHUNK, PromptFreeNetwork, as_promptable, draw_boxes
from lmsfe_sam.model.promptable import PromptableNetwork
from lmsfe_sam.prompts.prompt import Prompts
from lmsfe_sam.training.iteration import PromptedSteps, usable_kinds, usable_modes
from lmsfe_sam.training.losses import PromptedLoss
from tiny import seeded_network

SIZE = 32
NAN = float("nan")
BOXES = torch.tensor([[[2.0, 3, 10, 12], [0, 0, 32, 32]], [[20, 1, 30, 9], [5, 5, 9, 9]]])
POINTS = {"points": torch.full((2, 2, 1, 2), 5.0), "point_labels": torch.ones(2, 2, 1)}
PADDING = {
    "points": torch.zeros(2, 2, 1, 2),
    "point_labels": -torch.ones(2, 2, 1),
    "masks": torch.full((2, 2, 8, 8), NAN),
}
NO_BOXES = torch.full((2, 2, 4), NAN)


class Inside(nn.Module):
    """Logits that tell what came in: the image's first channel, and 10 x the box's."""

    def forward(self, x: Tensor) -> Tensor:
        box = x[:, 3:] if x.shape[1] == 4 else torch.zeros_like(x[:, :1])
        return x[:, :1] + 10 * box


def prompted(form: str) -> PromptFreeNetwork:
    return PromptFreeNetwork(Inside(), SIZE, form, {"baseline": "inside"}).eval()


class Returning(nn.Module):
    """Gives what a function makes of its input."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def unet(out_channels: int = 1) -> UNet:
    torch.manual_seed(0)
    return UNet(2, 3, out_channels, channels=(4, 8), strides=(2,), norm="BATCH")


@pytest.fixture
def image() -> Tensor:
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


class TestDrawing:
    def test_pixels_whose_centre_lies_inside(self) -> None:
        maps = draw_boxes(torch.tensor([[2.0, 3, 10, 12], [2.6, 3.4, 9.4, 11.6]]), SIZE, torch.zeros(1))
        expected = torch.zeros(2, 1, SIZE, SIZE)
        expected[0, 0, 3:12, 2:10] = 1
        expected[1, 0, 3:12, 3:9] = 1
        assert torch.equal(maps, expected)

    def test_boxes_over_the_border_and_outside(self) -> None:
        maps = draw_boxes(torch.tensor([[-5.0, -5, 4, 2], [40, 40, 50, 50]]), SIZE, torch.zeros(1))
        assert maps[0].sum() == 8
        assert not maps[1].any()

    def test_type(self) -> None:
        assert draw_boxes(BOXES[0], SIZE, torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.bfloat16


class TestBoxForm:
    def test_each_object_sees_its_own_box(self, image: Tensor) -> None:
        logits, iou, low_res = prompted("box")(image, boxes=BOXES, return_low_res=True)
        for b, n in np.ndindex(2, 2):
            box = draw_boxes(BOXES[b, n][None], SIZE, image)[0, 0]
            assert torch.equal(logits[b, n], image[b, 0] + 10 * box)
        assert iou.shape == (2, 2) and iou.isnan().all()
        assert low_res.shape == (2, 2, SIZE // 4, SIZE // 4)
        torch.testing.assert_close(low_res, nn.functional.avg_pool2d(logits, 4))

    def test_lists(self, image: Tensor) -> None:
        network = prompted("box")
        whole, _ = network(image, boxes=BOXES)
        logits, iou = network(image, boxes=[BOXES[0, :1], BOXES[1]])
        assert [part.shape[0] for part in logits] == [part.shape[0] for part in iou] == [1, 2]
        assert torch.equal(logits[0], whole[0, :1])
        assert torch.equal(logits[1], whole[1])

    def test_many_boxes_are_decoded_in_parts(self, image: Tensor) -> None:
        network = prompted("box")
        sizes: list[int] = []
        network.network.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
        boxes = BOXES[:, :1].expand(2, CHUNK, 4)
        logits, _ = network(image, boxes=boxes)
        assert sizes == [CHUNK, CHUNK]
        assert torch.equal(logits[1, -1], network(image, boxes=BOXES)[0][1, 0])
        sizes.clear()
        network.train()(image, boxes=boxes)
        assert sizes == [2 * CHUNK]  # batch norm must see one batch

    def test_padding_is_no_prompt(self, image: Tensor) -> None:
        network = prompted("box")
        assert torch.equal(network(image, boxes=BOXES, **PADDING)[0], network(image, boxes=BOXES)[0])

    def test_refusals(self, image: Tensor) -> None:
        network = prompted("box")
        for prompts in ({}, {"boxes": NO_BOXES}, POINTS):
            with pytest.raises(
                InputError, match="inside with the box as a channel needs a box for every object"
            ):
                network(image, **prompts)
        partly = torch.cat([BOXES[:, :1], NO_BOXES[:, :1]], dim=1)
        with pytest.raises(InputError, match="needs a box for every object: one has none"):
            network(image, boxes=partly)
        with pytest.raises(InputError, match="takes boxes alone: leave clicks out"):
            network(image, boxes=BOXES, **POINTS)
        with pytest.raises(InputError, match="takes boxes alone: leave masks out"):
            network(image, boxes=BOXES, masks=torch.zeros(2, 2, 8, 8))
        with pytest.raises(InputError, match="gives one mask for each object: leave multimask_output out"):
            network(image, boxes=BOXES, multimask_output=True)
        with pytest.raises(InputError, match="prompts of 1 images were given for 2"):
            network(image, boxes=BOXES[:1])
        with pytest.raises(
            InputError, match=r"inside was given shape \[2, 3, 16, 16\]: give \(B, 3, 32, 32\)"
        ):
            network(image[..., :16, :16], boxes=BOXES)


class TestNoneForm:
    def test_image_alone(self, image: Tensor) -> None:
        assert torch.equal(prompted("none")(image), image[:, :1])

    def test_one_object_an_image_without_prompts(self, image: Tensor) -> None:
        network = prompted("none")
        logits, iou = network.decode(network.encode(image))
        assert torch.equal(logits, image[:, :1])
        assert iou.shape == (2, 1)

    def test_objects_without_a_prompt_have_the_same_mask(self, image: Tensor) -> None:
        logits, iou = prompted("none")(image, boxes=NO_BOXES, **PADDING)
        assert torch.equal(logits, image[:, :1].expand(2, 2, SIZE, SIZE))
        assert iou.shape == (2, 2)

    def test_the_network_runs_once_an_image(self, image: Tensor) -> None:
        network = prompted("none")
        embedding = network.encode(image)
        network.network = nn.Identity()
        assert torch.equal(network.decode(embedding)[0], image[:, :1])

    def test_refusals(self, image: Tensor) -> None:
        network = prompted("none")
        with pytest.raises(
            InputError,
            match=r"inside takes no prompts, but was given boxes: leave them out .* --prompt_form box",
        ):
            network(image, boxes=BOXES)
        with pytest.raises(InputError, match="takes no prompts, but was given clicks"):
            network(image, **POINTS)
        with pytest.raises(InputError, match="takes no prompts, but was given boxes and masks"):
            network(image, boxes=BOXES, masks=torch.zeros(2, 2, 8, 8))


def test_training_sees_tokens_with_a_gradient(image: Tensor) -> None:
    network: PromptableNetwork = build_promptable("ukan", prompt_form="box", image_size=SIZE)
    assert isinstance(network, PromptFreeNetwork)
    tokens = network.decode_tokens(network.encode(image), boxes=BOXES, **PADDING)
    assert tokens.masks.shape == (2, 2, 1, SIZE, SIZE)
    assert tokens.iou.shape == (2, 2, 0)
    assert not tokens.lone_click.any()
    tokens.masks.square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_in_training_an_object_may_have_left_the_image(image: Tensor) -> None:
    network = prompted("box").train()
    partly = torch.cat([BOXES[:, :1], NO_BOXES[:, :1]], dim=1)
    masks = network.decode_tokens(network.encode(image), boxes=partly).masks
    assert torch.equal(masks[:, 1, 0], image[:, 0])
    for prompts in ({"boxes": NO_BOXES[:, :1]}, {}):
        masks = network.decode_tokens(network.encode(image), **prompts).masks
        assert torch.equal(masks[:, 0], image[:, :1])


def test_trainer_and_evaluator_take_both_forms(image: Tensor) -> None:
    target, rng = torch.ones(2, 1, SIZE, SIZE), np.random.default_rng(0)
    for form, boxes in (("none", NO_BOXES), ("box", BOXES)):
        network = prompted(form)
        steps = PromptedSteps(network, correction_steps=2)(image, Prompts(boxes=boxes), target, rng)
        assert len(steps) == 1 and PromptedLoss()(steps[0], target).isfinite()
    frames = [full_input(prompted("box"), size) for size in ((20, 30), (32, 32))]
    answers = predict_boxes(prompted("box"), prompted("box").encode(image), frames, BOXES.double().numpy())
    assert [[answer.mask.shape for answer in own] for own in answers] == [[(20, 30)] * 2, [(32, 32)] * 2]
    answers = predict_without_prompt(prompted("none"), prompted("none").encode(image), frames)
    assert [answer.mask.shape for answer in answers] == [(20, 30), (32, 32)]
    with pytest.raises(InputError, match="takes no prompts, but was given boxes"):
        predict_boxes(prompted("none"), prompted("none").encode(image), frames, BOXES.double().numpy())


def test_an_embedding_can_be_indexed_as_ours() -> None:
    network = prompted("box")
    embedding = network.encode(torch.rand(2, 3, SIZE, SIZE))
    assert isinstance(embedding, ImageEmbedding)
    swapped = embedding._replace(
        features=embedding.features[[1, 0]], skips=[s[[1, 0]] for s in embedding.skips]
    )
    straight, crossed = (network.decode(e, boxes=BOXES[:, :1])[0] for e in (embedding, swapped))
    assert not torch.equal(straight, crossed)


def test_what_has_encode_and_decode_is_promptable_and_stays_as_it_is() -> None:
    network = seeded_network()
    assert as_promptable(network) is network
    assert not isinstance(unet(), PromptableNetwork)
    wrapped = as_promptable(unet(), 32)
    assert isinstance(wrapped, PromptableNetwork) and wrapped.image_size == 32
    assert wrapped.describe()["prompt_form"] == "none"
    assert as_promptable(unet(), 32, "box").prompt_kinds == ("box",)
    assert as_promptable(wrapped, None, "none") is wrapped
    with pytest.raises(InputError, match="prompt_form 'box' is not the network's"):
        as_promptable(network, None, "box")
    with pytest.raises(InputError, match="prompt_form 'clicks' is unknown: give one of none, box"):
        as_promptable(unet(), 32, "clicks")


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
    with pytest.raises(InputError, match=r"linear\.pt' does not fit network_def: \d+ tensors"):
        PromptFreeNetwork(unet()).load_pretrained(tmp_path / "linear.pt")


def test_more_than_one_output_channel_is_refused() -> None:
    with pytest.raises(InputError, match="network_def gives 2 channels"):
        PromptFreeNetwork(unet(2))(torch.rand(1, 3, 32, 32))


def test_what_a_network_of_ones_own_must_return_and_take() -> None:
    """torchvision's segmentation networks return a dict, deep supervision a list."""
    for module, sentence in (
        (Returning(lambda x: (x[:, :1], x)), "gives a tuple: let its forward return the logits alone"),
        (Returning(lambda x: {"out": x[:, :1]}), "gives a dict: let"),
        (
            Returning(lambda x: x[:, 0]),
            r"gives shape \[2, 64, 64\] for an input of shape \[2, 3, 64, 64\]: let",
        ),
        (Returning(lambda x: x[:, :1, ::2, ::2]), r"gives shape \[2, 1, 32, 32\] for .* height and width"),
    ):
        with pytest.raises(InputError, match=sentence):
            PromptFreeNetwork(module, 64)(torch.zeros(2, 3, 64, 64))
    three = PromptFreeNetwork(torch.nn.Conv2d(3, 1, 1), 64, form="box").eval()
    with pytest.raises(InputError, match="cannot take 4 channels, the last of which is the box: build it"):
        three(torch.zeros(1, 3, 64, 64), boxes=torch.tensor([[[3.0, 4, 20, 30]]]))


def test_its_description_names_the_class() -> None:
    described = PromptFreeNetwork(unet(), 48).describe()
    assert described == {
        "network": "monai.networks.nets.unet.UNet",
        "image_size": 48,
        "prompt_form": "none",
    }


def test_training_uses_what_the_network_takes() -> None:
    kinds = {"box": 0.2, "box_jitter": 0.3, "point": 0.5}
    assert usable_kinds(seeded_network(), kinds) == kinds
    assert usable_kinds(prompted("box"), kinds) == {"box": 0.2, "box_jitter": 0.3}
    assert usable_kinds(prompted("none"), kinds) == {"none": 1.0}
    with pytest.raises(InputError, match="inside takes boxes alone: give box or box_jitter a weight"):
        usable_kinds(prompted("box"), {"point": 1.0, "box": 0})
    modes = ["box", "point", "none"]
    assert usable_modes(seeded_network(), ["point"]) == ["point"]
    assert usable_modes(prompted("box"), modes) == usable_modes(prompted("box"), ["none"]) == ["box"]
    assert usable_modes(prompted("none"), modes) == usable_modes(prompted("none"), ["box"]) == ["none"]


def test_validation_without_a_prompt_needs_an_image_that_may_be_without() -> None:
    modes, prompt_me, any_image = ["box", "point", "none"], {"unprompted": False}, {"image": "a.png"}
    assert usable_modes(seeded_network(), modes, [prompt_me, prompt_me]) == ["box", "point"]
    assert usable_modes(seeded_network(), ["none"], [prompt_me]) == ["box", "point"]
    assert usable_modes(seeded_network(), modes, [prompt_me, any_image]) == modes
    assert usable_modes(prompted("none"), modes, [prompt_me]) == ["none"]


def test_start_weights_of_an_encoder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"backbone_weights 'w\.pt' has no place in inside: leave it out"):
        prompted("box").load_backbone("w.pt")
    network = build_promptable("transresunet", image_size=SIZE)
    torch.save(nn.Conv2d(1, 1, 1).state_dict(), tmp_path / "w.pt")
    with pytest.raises(InputError, match="give torchvision's vgg16"):
        network.load_backbone(tmp_path / "w.pt")
