"""Soft masks of finished networks as a part of the target: how they are made, and how much they count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lmsfe_sam import LMSFESAM
from lmsfe_sam.errors import InputError
from lmsfe_sam.model.checkpoints import save_weights
from lmsfe_sam.prompts.prompt import Prompts
from lmsfe_sam.prompts.sampling import MixedPrompts
from lmsfe_sam.prompts.simulate import tight_box
from lmsfe_sam.training.distillation import Teachers, read_teachers
from lmsfe_sam.training.iteration import PromptedIteration, PromptedSteps
from lmsfe_sam.training.losses import PromptedLoss
from sam_med2d import randomise
from tiny import SIZE
from training_parts import TinyNetwork, engine, squares

pytestmark = pytest.mark.usefixtures("small_presets")

MIRRORED, AS_IT_IS = 2, 0
"""Seeds whose first number is below a half, and above."""


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_seeds_are_what_they_are_called() -> None:
    assert generator(MIRRORED).random() < 0.5 <= generator(AS_IT_IS).random()


def test_prompts_of_a_mirror_image_are_those_of_the_mirrored_mask() -> None:
    mask = np.zeros((10, 16), bool)
    mask[2:5, 3:9] = True
    rows, columns = np.nonzero(mask)
    boxes = torch.stack([torch.as_tensor(tight_box(mask)), torch.full((4,), torch.nan)])[None]
    points = torch.tensor([[[[columns[0], rows[0]]], [[0, 0]]]]).float()
    labels = torch.tensor([[[1], [-1]]])
    mirrored = Prompts(boxes, points, labels).mirror(16)
    assert mirrored.boxes is not None and mirrored.points is not None and mirrored.masks is None
    assert mirrored.boxes[0, 0].tolist() == list(tight_box(mask[:, ::-1])) == [7, 2, 13, 5]
    assert mirrored.boxes[0, 1].isnan().all()
    x, y = mirrored.points[0, 0, 0].long().tolist()
    assert mask[:, ::-1][y, x] and not mask[:, ::-1][y, x + 1]
    assert mirrored.point_labels is labels


def test_the_mean_of_the_networks_with_or_without_mirroring() -> None:
    networks = [TinyNetwork(), TinyNetwork()]
    for number, network in enumerate(networks):
        torch.nn.init.normal_(network.colour.weight, generator=torch.Generator().manual_seed(number))
    batch = squares()
    boxes = torch.tensor([[[4.0, 3, 11, 9], [0, 0, 3, 4]], [[4, 3, 11, 10], [torch.nan] * 4]])
    teachers = Teachers(networks)
    plain = teachers.predict(batch["image"], Prompts(boxes), generator(AS_IT_IS))
    single = [n.decode(n.encode(batch["image"]), boxes=boxes)[0].sigmoid() for n in networks]
    torch.testing.assert_close(plain, (single[0] + single[1]) / 2)
    assert plain.shape == (2, 2, 16, 16) and not plain.requires_grad
    assert 0.01 < plain[1, 1].min() < plain[1, 1].max() < 0.99
    torch.testing.assert_close(teachers.predict(batch["image"], Prompts(boxes), generator(MIRRORED)), plain)
    assert [network.calls[-1]["boxes"][0, 0].tolist() for network in networks] == [[5, 3, 12, 9]] * 2


def test_real_networks_see_the_mirrored_batch() -> None:
    network = randomise(LMSFESAM("tiny_t", SIZE), 0)
    image = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    prompts = Prompts(torch.tensor([[[10.0, 12, 40, 50]]]))
    mirrored = Teachers([network]).predict(image, prompts, generator(MIRRORED))
    flipped = Prompts(torch.tensor([[[SIZE - 40.0, 12, SIZE - 10, 50]]]))
    expected = Teachers([network]).predict(image.flip(-1), flipped, generator(AS_IT_IS)).flip(-1)
    torch.testing.assert_close(mirrored, expected)
    assert (Teachers([network]).predict(image, prompts, generator(AS_IT_IS)) - mirrored).abs().max() > 1e-3


def test_a_soft_mask_counts_as_much_as_it_agrees_with_the_truth() -> None:
    target = torch.zeros(1, 1, 4, 4)
    target[..., :2] = 1
    right, half, wrong = torch.full((3, 4, 4), 0.1).unbind()
    right[:, :2], half[:, :1], wrong[:, 2:] = 0.7, 0.9, 0.9
    soft = Teachers([], share=0.4).soften(target, torch.stack([right, half, wrong])[None])[0]
    truth = target[0, 0]
    torch.testing.assert_close(soft[0], 0.6 * truth + 0.4 * right)
    torch.testing.assert_close(soft[1], 0.8 * truth + 0.2 * half)
    torch.testing.assert_close(soft[2], truth)
    nothing = Teachers([], share=0.4).soften(torch.zeros(1, 1, 4, 4), right[None, None])
    assert not nothing.any()


def brightness() -> TinyNetwork:
    """A teacher that finds the bright squares, though not exactly."""
    network = TinyNetwork()
    torch.nn.init.constant_(network.colour.weight, 0.5)
    torch.nn.init.constant_(network.colour.bias, -2.0)
    return network


class Noted:
    """The loss, and the targets that it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, ...]] = []

    def __call__(self, tokens: Any, *targets: Tensor) -> Tensor:
        self.calls.append(targets)
        return PromptedLoss(cross_entropy_weight=1, boundary_weight=1, focal_weight=0)(tokens, *targets)


@pytest.mark.parametrize("amp", [False, True])
def test_the_first_step_alone_is_distilled_and_the_teachers_do_not_change(amp: bool) -> None:
    teacher, student, loss = brightness(), TinyNetwork(), Noted()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    trainer = engine(PromptedSteps(student, correction_steps=2), loss)
    trainer.amp, trainer.amp_kwargs = amp, {"dtype": torch.bfloat16}
    sampler = MixedPrompts({"none": 1}, per_image=1)
    PromptedIteration(sampler, teachers=Teachers([teacher], share=1.0))(trainer, squares())
    assert [len(targets) for targets in loss.calls] == [2, 1, 1]
    assert all(set(targets[0].unique().tolist()) == {0, 1} for targets in loss.calls)
    soft = loss.calls[0][1]
    assert soft.shape == (2, 1, 16, 16) and len(soft.unique()) > 100 and soft.dtype == torch.float32
    assert len(teacher.calls) == 1 and not teacher.training and student.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())


def test_parts_of_a_batch_and_every_prompt_have_their_own_soft_masks() -> None:
    loss = Noted()
    trainer = engine(PromptedSteps(TinyNetwork(), correction_steps=0), loss)
    batch = squares()
    batch["label"][:, 0, 13:15, 13:15] = 2
    iteration = PromptedIteration(
        MixedPrompts({"box": 1}, per_image=6), accumulate=2, teachers=Teachers([TinyNetwork()], share=0.5)
    )
    iteration(trainer, batch)
    assert [targets[1].shape for targets in loss.calls] == [(1, 6, 16, 16)] * 2
    for truth, soft in loss.calls:  # with a box the tiny network predicts the box, which is the object
        torch.testing.assert_close(soft, truth)


def test_without_teachers_nothing_is_drawn_for_them() -> None:
    def clicks(teachers: Teachers | None) -> Tensor:
        student = TinyNetwork()
        trainer = engine(PromptedSteps(student, correction_steps=1), Noted())
        PromptedIteration(MixedPrompts({"point": 1}, per_image=4), teachers=teachers)(trainer, squares())
        assert student.calls[1]["points"] is not None
        return student.calls[1]["points"]

    torch.manual_seed(0)
    plain = clicks(None)
    torch.manual_seed(0)
    assert torch.equal(clicks(None), plain)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Weights of two networks, the second in half precision and without one of the parts."""
    save_weights(randomise(LMSFESAM("tiny_t", SIZE), 0), tmp_path / "a.pt")
    save_weights(randomise(LMSFESAM("tiny_b", SIZE, mhpm=False), 1).half(), tmp_path / "b.pt")
    return [str(tmp_path / "a.pt"), str(tmp_path / "b.pt")]


def test_teachers_are_built_as_their_descriptions_say(files: list[str]) -> None:
    assert read_teachers(None, SIZE, "cpu") is None
    teachers = read_teachers(files, SIZE, "cpu", 0.2)
    assert teachers is not None and teachers.share == 0.2
    assert [network.preset for network in teachers.networks] == ["tiny_t", "tiny_b"]
    for network in teachers.networks:
        assert not network.training and not any(p.requires_grad for p in network.parameters())
        assert all(p.dtype == torch.float32 for p in network.parameters())
    image = torch.zeros(2, 3, SIZE, SIZE)
    assert teachers.predict(image, Prompts(), generator(0)).shape == (2, 1, SIZE, SIZE)


def broken(path: Path) -> str:
    path.write_bytes(path.read_bytes()[::-1])
    return "cannot be read"


def missing(path: Path) -> str:
    path.unlink()
    return "does not exist"


def another_network(path: Path) -> str:
    path.with_suffix(".json").write_text(json.dumps({"baseline": "unet", "image_size": SIZE}))
    return "holds no LMSFESAM"


def another_size(path: Path) -> str:
    save_weights(LMSFESAM("tiny_t", 2 * SIZE), path)
    return f"was trained at {2 * SIZE} pixels and image_size is {SIZE}"


@pytest.mark.parametrize("spoil", [broken, missing, another_network, another_size])
def test_what_cannot_teach_is_refused_in_a_sentence(files: list[str], spoil: Any) -> None:
    words = spoil(Path(files[1]))
    with pytest.raises(InputError, match=words) as error:
        read_teachers(files, SIZE, "cpu")
    assert files[1] in str(error.value)
