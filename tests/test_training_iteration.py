"""One step of training and of validation, with a network small enough to know what it must do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric

from lmsfe_sam import LMSFESAM
from lmsfe_sam.errors import InputError
from lmsfe_sam.model.prompt_free import PromptFreeNetwork
from lmsfe_sam.prompts.prompt import Prompts
from lmsfe_sam.prompts.sampling import MixedPrompts
from lmsfe_sam.prompts.validation import largest_objects, mode_prompts
from lmsfe_sam.training.iteration import (
    PromptedIteration,
    PromptedSteps,
    ValidationIteration,
    step_generators,
)
from lmsfe_sam.training.losses import PromptedLoss
from lmsfe_sam.training.settings import start_network
from training_parts import TinyNetwork, engine, squares


def noted(prompts: list[Prompts], kinds: dict[str, float] | None = None) -> Any:
    sampler = MixedPrompts(kinds, per_image=3)

    def sample(
        labels: torch.Tensor, rng: np.random.Generator, unprompted: Any = None
    ) -> tuple[Prompts, torch.Tensor]:
        drawn, targets = sampler(labels, rng, unprompted)
        prompts.append(drawn)
        return drawn, targets

    return sample


def test_a_step_encodes_once_and_decodes_every_correction_on_it() -> None:
    network, drawn = TinyNetwork(), []
    trainer = engine(PromptedSteps(network, correction_steps=2), PromptedLoss())
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    output = PromptedIteration(noted(drawn))(trainer, squares())
    assert network.encoded == 1
    assert len(network.calls) == 3
    first, second, third = network.calls
    assert first["masks"] is None
    for earlier, later in ((first, second), (second, third)):
        assert later["masks"].shape == (2, 3, 8, 8) and not later["masks"].requires_grad
        clicks = 0 if earlier["points"] is None else earlier["points"].shape[2]
        assert later["points"].shape == (2, 3, clicks + 1, 2)
    assert np.isfinite(output["loss"]) and output["loss"] > 0
    assert all(
        not torch.equal(before[name], p) for name, p in network.named_parameters() if "colour.w" in name
    )


def test_prompts_depend_on_seed_epoch_and_iteration_alone() -> None:
    def boxes(seed: int, epoch: int, iteration: int) -> torch.Tensor:
        drawn: list[Prompts] = []
        trainer = engine(PromptedSteps(TinyNetwork(), 0), PromptedLoss())
        trainer.state.epoch, trainer.state.iteration = epoch, iteration
        PromptedIteration(noted(drawn, {"box_jitter": 1}), seed)(trainer, squares())
        assert drawn[0].boxes is not None
        return drawn[0].boxes

    assert torch.equal(boxes(0, 1, 1), boxes(0, 1, 1))
    for other in ((1, 1, 1), (0, 2, 1), (0, 1, 2)):
        assert not torch.equal(boxes(0, 1, 1), boxes(*other))


@pytest.mark.parametrize("clip", [0.01, None])
def test_gradients_are_clipped_together(clip: float | None) -> None:
    network = TinyNetwork()
    trainer = engine(PromptedSteps(network, 0), PromptedLoss())
    PromptedIteration(noted([]), clip_norm=clip)(trainer, squares())
    norm = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]).norm()
    assert norm <= 0.0101 if clip else norm > 0.0101


def test_frozen_parts_keep_their_weights_and_their_batch_norms_averages() -> None:
    torch.manual_seed(0)
    network = start_network(LMSFESAM("vit_t", image_size=64), None, frozen=["image_encoder"])
    trainer = engine(PromptedSteps(network), PromptedLoss())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for _ in range(2):
        PromptedIteration(noted([]))(trainer, squares(side=64))
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and not [name for name in changed if name.startswith("image_encoder.")]
    assert {name.partition(".")[0] for name in changed} >= {"prompt_encoder", "mask_decoder", "fine_head"}
    assert not network.image_encoder.training and network.mask_decoder.training


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["image_encoder", "encoder"], "frozen has 'encoder', which the network does not have: its parts"),
        ([name for name, _ in LMSFESAM("vit_t").named_children()], "leaves nothing to train: name fewer"),
    ],
)
def test_parts_that_cannot_be_frozen(names: list[str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        start_network(LMSFESAM("vit_t", image_size=64), None, frozen=names)


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_files() -> None:
    network = TinyNetwork()
    trainer = engine(PromptedSteps(network), PromptedLoss())
    batch = squares()
    batch["image"][1, 0, 0, 0] = torch.nan
    before = network.colour.weight.detach().clone()
    with pytest.raises(InputError, match=r"case_0.png, case_1.png.*--learning_rate"):
        PromptedIteration(noted([]))(trainer, batch)
    assert torch.equal(before, network.colour.weight)


def test_validation_scores_each_mode_from_one_encoding() -> None:
    network = TinyNetwork().eval()
    batch = squares()
    evaluator = engine(network)
    output = ValidationIteration()(evaluator, batch)
    assert network.encoded == 1
    assert output["pred"].shape == output["label"].shape == (2, 3, 16, 16)
    assert torch.equal(output["pred_box"], batch["label"].float())
    assert torch.equal(output["pred_none"], output["pred"][:, 2:])
    assert torch.equal(output["label_box"], batch["label"].float())
    assert not output["pred"].requires_grad


def several() -> dict[str, Any]:
    """Two images of two objects each; the second image has to be prompted."""
    batch = squares()
    batch["label"] = batch["label"].clone()
    batch["label"][:, 0, 13:15, 13:15] = 2
    return {**batch, "unprompted": torch.tensor([True, False])}


def test_validation_prompts_the_largest_object_and_predicts_all_without_a_prompt() -> None:
    batch = several()
    output = ValidationIteration()(engine(TinyNetwork().eval()), batch)
    largest, union = (batch["label"] == 1).float(), (batch["label"] > 0).float()
    assert torch.equal(output["label_box"], largest) and torch.equal(output["label_point"], largest)
    assert torch.equal(output["label_none"][0], union[0])
    assert not output["label_none"][1].any() and not output["pred_none"][1].any()
    dice = DiceMetric(reduction="none")(output["pred_none"], output["label_none"])
    assert not dice[0].isnan().any() and dice[1].isnan().all()


def test_the_largest_object_may_have_any_number() -> None:
    labels = torch.tensor([[[[0, 7, 7], [3, 0, 0]]], [[[1, 0, 2], [0, 0, 2]]], [[[0, 0, 0], [0, 0, 0]]]])
    expected = [[[0, 1, 1], [0, 0, 0]], [[0, 0, 1], [0, 0, 1]], [[0, 0, 0], [0, 0, 0]]]
    assert largest_objects(labels)[:, 0].int().tolist() == expected


def test_each_prompt_is_trained_on_its_own_object() -> None:
    targets = []

    def loss(tokens: Any, target: torch.Tensor) -> torch.Tensor:
        targets.append(target)
        return PromptedLoss()(tokens, target)

    batch = several()
    trainer = engine(PromptedSteps(TinyNetwork(), correction_steps=1), loss)
    PromptedIteration(MixedPrompts({"box": 1}, per_image=6))(trainer, batch)
    assert len(targets) == 2 and targets[0].shape == (2, 6, 16, 16)
    objects = torch.stack([batch["label"][:, 0] == 1, batch["label"][:, 0] == 2], dim=1).float()
    chosen = (targets[0][:, :, None] == objects[:, None]).all(dim=(3, 4))
    assert chosen.any(dim=2).all() and chosen.any(dim=1).all()


def gradients(accumulate: int, images: int = 6) -> tuple[float, list[torch.Tensor]]:
    """The loss and the gradients of one step on a batch, in so many parts."""
    torch.manual_seed(0)
    network = TinyNetwork()
    network.norm = torch.nn.Identity()  # batch norm would see the parts
    trainer = engine(PromptedSteps(network, correction_steps=0), PromptedLoss())
    label = torch.zeros(images, 1, 16, 16, dtype=torch.uint8)
    for i in range(images):
        label[i, :, 2 : 6 + i, 3 : 9 + i] = 1
    batch = {"image": torch.randn(images, 3, 16, 16), "label": label, "name": [str(i) for i in range(images)]}
    iteration = PromptedIteration(MixedPrompts(per_image=3), clip_norm=None, accumulate=accumulate)
    output = iteration(trainer, batch)
    assert network.encoded == min(accumulate, images)
    return output["loss"], [p.grad for p in network.parameters() if p.grad is not None]


@pytest.mark.parametrize("parts", [2, 3, 9])
def test_gradients_of_parts_add_up_to_those_of_the_batch(parts: int) -> None:
    loss, whole = gradients(1)
    parts_loss, added = gradients(parts)
    assert parts_loss == pytest.approx(loss, rel=1e-5)
    for first, second in zip(whole, added, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)


def test_a_network_without_prompts_is_trained_on_all_objects() -> None:
    targets = []

    def loss(tokens: Any, target: torch.Tensor) -> torch.Tensor:
        targets.append(target)
        return PromptedLoss()(tokens, target)

    batch = several()
    trainer = engine(PromptedSteps(PromptFreeNetwork(torch.nn.Conv2d(3, 1, 1), 16)), loss)
    PromptedIteration(MixedPrompts(per_image=3))(trainer, batch)
    assert torch.equal(targets[0], (batch["label"] > 0).float())


def test_a_single_value_to_normalise_is_a_sentence() -> None:
    """As in the last batch of an epoch, where a network pools the whole image and then normalises."""
    pooled = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.BatchNorm2d(3), torch.nn.Conv2d(3, 1, 1)
    )
    network = PromptFreeNetwork(torch.nn.Sequential(pooled, torch.nn.Upsample(size=(16, 16))), 16)
    trainer = engine(PromptedSteps(network), PromptedLoss())
    PromptedIteration(noted([]))(trainer, squares())
    with pytest.raises(InputError, match=r"a batch of 1 of 16 x 16 pixels, .* give another --batch_size"):
        PromptedIteration(noted([]))(trainer, squares(batch=1))


def test_the_modes_are_objects_with_nothing_but_their_own_prompt() -> None:
    prompts = mode_prompts(squares()["label"].float(), ("none", "point", "box"))
    assert prompts.boxes is not None and prompts.points is not None and prompts.point_labels is not None
    assert prompts.boxes[:, 2].tolist() == [[4, 3, 11, 9], [4, 3, 11, 10]]
    assert prompts.boxes[:, :2].isnan().all()
    assert prompts.point_labels[..., 0].tolist() == [[-1, 1, -1], [-1, 1, -1]]
    assert prompts.points[0, 1, 0].tolist() == [6, 5]


@pytest.mark.parametrize("modes", [[], ["box", "ellipse"]])
def test_unknown_modes_are_refused(modes: list[str]) -> None:
    with pytest.raises(InputError, match="box, point, none"):
        ValidationIteration(modes)


def test_corrections_without_gradient_come_before_those_with_one() -> None:
    lengths = set()
    for seed in range(12):
        network = TinyNetwork()
        steps = PromptedSteps(network, correction_steps=1, no_grad_corrections=2)
        batch = squares()
        prompts, _ = MixedPrompts({"point": 1}, per_image=2)(batch["label"], np.random.default_rng(seed))
        tokens = steps(batch["image"], prompts, batch["label"], np.random.default_rng(seed))
        clicks = [call["points"].shape[2] for call in network.calls]
        assert clicks == list(range(1, len(clicks) + 1))
        assert len(tokens) == 2 and all(each.masks.requires_grad for each in tokens)
        lengths.add(len(clicks))
    assert lengths == {2, 3, 4}


def test_a_share_of_the_batches_is_corrected_and_all_processes_agree_which() -> None:
    batch, rounds = squares(), []
    for iteration in range(40):
        lengths = set()
        for rank in range(2):
            steps = PromptedSteps(TinyNetwork(), 1, no_grad_corrections=2, correction_prob=0.25)
            rng = np.random.default_rng([iteration, rank])
            prompts, _ = MixedPrompts({"point": 1}, per_image=2)(batch["label"], rng)
            shared = np.random.default_rng(iteration)
            tokens = steps(batch["image"], prompts, batch["label"], rng, shared)
            lengths.add((len(tokens), len(steps.network.calls)))
        assert len(lengths) == 1
        rounds.append(lengths.pop())
    corrected = [calls for learnt, calls in rounds if learnt == 2]
    assert 4 <= len(corrected) <= 16 and set(corrected) == {2, 3, 4}
    assert all(calls == 1 for learnt, calls in rounds if learnt == 1)


def test_the_shared_draws_are_alike_in_all_processes_and_none_of_their_own() -> None:
    pairs = [step_generators(0, 2, 3, rank) for rank in range(3)]
    own, shared = ([generator.random() for generator in column] for column in zip(*pairs, strict=True))
    assert len(set(shared)) == 1 and len({*own, *shared}) == 4


def test_the_loss_is_taken_in_single_precision() -> None:
    seen: list[torch.dtype] = []

    def loss(tokens: Any, target: torch.Tensor) -> torch.Tensor:
        seen.append(tokens.masks.dtype)
        return tokens.masks.square().mean()

    trainer = engine(PromptedSteps(TinyNetwork(), 0), loss)
    trainer.amp, trainer.amp_kwargs = True, {"dtype": torch.bfloat16}
    PromptedIteration(MixedPrompts({"none": 1}))(trainer, squares())
    assert seen == [torch.float32]
