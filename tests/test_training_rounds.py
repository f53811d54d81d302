"""SAM-Med2D's own training loop: its prompts, its nine steps, and what trains in which."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import training_parts
from lmsfe_sam.errors import InputError
from lmsfe_sam.model.prompt_free import PromptFreeNetwork
from lmsfe_sam.prompts.rounds import BoxOrClick, error_clicks
from lmsfe_sam.prompts.simulate import tight_box
from lmsfe_sam.training.distillation import Teachers
from lmsfe_sam.training.losses import PromptedLoss
from lmsfe_sam.training.rounds import RoundsIteration, choosing_best
from tiny import SIZE, seeded_network

LABELS = torch.zeros(2, 1, SIZE, SIZE)
LABELS[0, 0, 10:40, 12:30] = 1
LABELS[0, 0, 50:60, 40:60] = 2
LABELS[1, 0, 5:9, 5:9] = 1


def test_teachers_are_refused() -> None:
    with pytest.raises(InputError, match="leave --teachers out"):
        RoundsIteration(BoxOrClick(), teachers=Teachers([]))


def test_normal_images_are_refused() -> None:
    with pytest.raises(InputError, match=r"normal_images is True, but configs/paper_prompts\.json"):
        RoundsIteration(BoxOrClick(), normal_images=True)


def drawn(count: int = 40, **options: Any) -> list[tuple[Any, Tensor]]:
    sampler, rng = BoxOrClick(**options), np.random.default_rng(0)
    return [sampler(LABELS, rng) for _ in range(count)]


def test_a_batch_gets_boxes_or_clicks_half_and_half() -> None:
    boxes = sum(prompts.boxes is not None for prompts, _ in drawn(200))
    assert 75 < boxes < 125
    for prompts, targets in drawn():
        assert (prompts.boxes is None) != (prompts.points is None)
        assert targets.shape == (2, 5, SIZE, SIZE)


def test_boxes_are_moved_as_a_whole_and_clicks_lie_inside() -> None:
    moves = []
    for prompts, targets in drawn():
        for b, n in np.ndindex(2, 5):
            truth = targets[b, n].numpy() > 0
            if prompts.boxes is not None:
                move = prompts.boxes[b, n].numpy() - tight_box(truth)
                assert (move[:2] == move[2:]).all() and (move == np.round(move)).all()
                moves.append((b, np.abs(move).max()))
            else:
                x, y = prompts.points[b, n, 0].long().tolist()
                assert truth[y, x] and prompts.point_labels[b, n, 0] == 1
    assert max(most for b, most in moves if b == 0) == 5
    assert max(most for b, most in moves if b == 1) == 2, "half of the shorter side, which is 4"
    assert {float(targets[0, n].sum()) for _, targets in drawn() for n in range(5)} == {540.0, 200.0}


def test_clicks_lie_on_errors_and_replace_the_prompts() -> None:
    targets = (LABELS == 1).float().expand(2, 2, SIZE, SIZE)
    logits = targets.clone() - 0.5
    logits[0, 0, 20:30, 12:30] = -1  # missed
    logits[0, 1, 0:5, 0:5] = 1  # too much
    prompts = error_clicks(targets, logits, 9, np.random.default_rng(0))
    assert prompts.boxes is None and prompts.points is not None and prompts.point_labels is not None
    x, y = prompts.points[0, 0].unbind(-1)
    assert ((x >= 12) & (x < 30) & (y >= 20) & (y < 30)).all() and (prompts.point_labels[0, 0] == 1).all()
    assert (prompts.points[0, 1] < 5).all() and (prompts.point_labels[0, 1] == 0).all()
    assert (prompts.point_labels[1] == -1).all(), "nothing is wrong there"


class Recorder(nn.Module):
    """Has the real network, and writes down what it was prompted with."""

    def __init__(self) -> None:
        super().__init__()
        self.network = choosing_best(seeded_network(), "cpu")
        self.rounds: list[dict[str, Any]] = []
        decode = self.network.decode_tokens

        def decode_tokens(embedding: Any, **prompts: Any) -> Any:
            grads = [p.requires_grad for p in self.network.prompt_encoder.parameters()]
            self.rounds.append(
                {**prompts, "encoder": embedding.features.requires_grad, "prompts": any(grads)}
            )
            return decode(embedding, **prompts)

        self.network.decode_tokens = decode_tokens  # type: ignore[method-assign]


def test_nine_steps_on_one_encoding() -> None:
    recorder = Recorder()
    engine = training_parts.engine(recorder, PromptedLoss())
    steps: list[int] = []
    engine.optimizer.register_step_post_hook(lambda *_: steps.append(1))
    before = {name: p.clone() for name, p in recorder.network.named_parameters()}
    batch = {"image": torch.rand(2, 3, SIZE, SIZE), "label": LABELS, "name": ["a", "b"]}
    output = RoundsIteration(BoxOrClick(), rounds=8)(engine, batch)
    assert np.isfinite(output["loss"]) and len(steps) == len(recorder.rounds) == 9
    first, later = recorder.rounds[0], recorder.rounds[1:]
    assert first["masks"] is None and first["encoder"] and first["prompts"]
    assert not any(own["encoder"] or own["prompts"] for own in later)
    assert all(own["masks"].min() >= 0 and own["masks"].max() <= 1 for own in later)
    assert all(own["boxes"] is None for own in later)
    counts = [None if own["points"] is None else own["points"].shape[2] for own in later]
    assert counts.count(None) == 2 and counts[-1] is None and counts[0] is not None
    assert set(counts) - {None} <= {1, 3, 5, 9}
    changed = {name for name, p in recorder.network.named_parameters() if not torch.equal(p, before[name])}
    assert any(name.startswith("image_encoder") for name in changed)
    assert all(parameter.requires_grad for parameter in recorder.network.prompt_encoder.parameters())


def test_refusals() -> None:
    with pytest.raises(InputError, match="correction_steps is 2: give 3 or more"):
        RoundsIteration(BoxOrClick(), rounds=2)
    with pytest.raises(InputError, match="per_image is 0"):
        BoxOrClick(per_image=0)
    with pytest.raises(InputError, match="trains on clicks, which network_def does not take"):
        choosing_best(PromptFreeNetwork(nn.Conv2d(3, 1, 1)), "cpu")
