"""Training prompts: kinds, padding, alignment, determinism and corrections."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsfe_sam.errors import InputError
from lmsfe_sam.evaluation.protocol import inscribed_ellipse
from lmsfe_sam.prompts.prompt import Prompts
from lmsfe_sam.prompts.sampling import KINDS, MixedPrompts, correct
from lmsfe_sam.prompts.simulate import first_click, tight_box

SIZE = 64


def ellipses(*boxes: tuple[int, int, int, int]) -> torch.Tensor:
    """One mask (SIZE x SIZE) for each box; a box of zeros gives an empty one."""
    return torch.tensor(np.stack([inscribed_ellipse(box, (SIZE, SIZE)) for box in boxes]))[:, None]


MASKS = ellipses((10, 12, 40, 50), (0, 0, 9, 7), (50, 30, 64, 64), (20, 20, 25, 60))


SECOND = ellipses((45, 2, 60, 12), (30, 30, 50, 50), (5, 5, 20, 20), (0, 0, 8, 8))
LABELS = torch.maximum(MASKS.int(), 2 * SECOND.int())
"""The same images with a second object each."""


def only(kind: str, **options) -> MixedPrompts:
    return MixedPrompts({kind: 1.0}, **options)


def draw(sampler: MixedPrompts, masks: torch.Tensor = MASKS, seed: int = 0) -> Prompts:
    return sampler(masks, np.random.default_rng(seed))[0]


def inside(masks: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Whether points (B,N,K,2) lie in the masks (B,1,H,W)."""
    x, y = points.long().unbind(-1)
    return masks[torch.arange(len(masks))[:, None, None], 0, y, x]


def test_a_tight_box_for_every_object():
    prompts = draw(only("box", per_image=2))
    expected = torch.tensor(np.stack([tight_box(mask[0].numpy()) for mask in MASKS])).float()
    assert torch.equal(prompts.boxes, expected[:, None].expand(-1, 2, -1))
    assert prompts.points is prompts.point_labels is prompts.masks is None


def test_jittered_boxes_stay_within_a_quarter_and_differ():
    tight = draw(only("box", per_image=40)).boxes
    jittered = draw(only("box_jitter", per_image=40)).boxes
    length = (tight[..., 2:] - tight[..., :2]).repeat(1, 1, 2)
    moved = (jittered - tight).abs() / length
    assert moved.max() <= 0.25 and moved.max() > 0.15 and len(jittered.unique(dim=1)[0]) == 40


def test_one_click_is_inside_and_half_the_time_the_deepest_pixel():
    prompts = draw(only("point", per_image=100))
    assert prompts.points.shape == (4, 100, 1, 2) and (prompts.point_labels == 1).all()
    assert inside(MASKS, prompts.points).all()
    deepest = torch.tensor(first_click(MASKS[0, 0].numpy())).float()
    assert 0.35 < (prompts.points[0, :, 0] == deepest).all(-1).float().mean() < 0.65
    assert prompts.boxes is None


@given(seed=st.integers(0, 10_000), aligned=st.booleans())
@settings(max_examples=30, deadline=None)
def test_clicks_lie_where_their_label_says(seed, aligned):
    prompts = draw(only("clicks", per_image=3, aligned=aligned), seed=seed)
    points, labels = prompts.points, prompts.point_labels
    assert points.shape[:2] == labels.shape[:2] == (4, 3) and 2 <= labels.shape[2] <= 4
    assert torch.equal(inside(MASKS, points)[labels >= 0], (labels == 1)[labels >= 0])
    assert (labels[..., 0] == 1).all() and (points[labels == -1] == 0).all()
    assert ((labels >= 0).sum(-1) >= 2).all()


def test_negative_clicks_lie_close_to_the_mask():
    prompts = draw(only("clicks", per_image=50))
    for mask, points, labels in zip(MASKS, prompts.points, prompts.point_labels, strict=True):
        x0, y0, x1, y1 = tight_box(mask[0].numpy())
        margin_x, margin_y = max(4, (x1 - x0) / 4) + 1, max(4, (y1 - y0) / 4) + 1
        x, y = points[labels == 0].unbind(-1)
        assert len(x) > 10
        assert x.min() >= max(0, x0 - margin_x) and x.max() <= min(SIZE - 1, x1 + margin_x)
        assert y.min() >= max(0, y0 - margin_y) and y.max() <= min(SIZE - 1, y1 + margin_y)


def test_clicks_in_a_mask_that_fills_the_image_are_all_positive():
    prompts = draw(only("clicks"), torch.ones(2, 1, 16, 16, dtype=torch.uint8))
    assert set(prompts.point_labels.unique().tolist()) <= {1, -1}


def test_box_and_click():
    prompts = draw(only("box_point"))
    assert prompts.boxes.shape == (4, 3, 4) and prompts.points.shape == (4, 3, 1, 2)
    assert not prompts.boxes.isnan().any()


def test_none_is_no_tensor_at_all():
    assert draw(only("none")).given() == {}
    assert list(vars(draw(only("none")))) == ["boxes", "points", "point_labels", "masks"]


def tokens(prompts: Prompts) -> torch.Tensor:
    """(B,N) number of box corners and clicks."""
    count = torch.zeros(len(MASKS), 3, dtype=torch.long)
    if prompts.boxes is not None:
        count += 2 * ~prompts.boxes.isnan().any(-1)
    if prompts.point_labels is not None:
        count += (prompts.point_labels >= 0).sum(-1)
    return count


def test_aligned_prompts_have_the_same_number_of_tokens_in_a_slot():
    seen = set()
    for seed in range(40):
        count = tokens(draw(MixedPrompts(), seed=seed))
        assert (count == count[:1]).all()
        seen |= set(count[0].tolist())
    assert seen == {0, 1, 2, 3, 4}
    ragged = [tokens(draw(MixedPrompts(aligned=False), seed=seed)) for seed in range(10)]
    assert any((count != count[:1]).any() for count in ragged)


def test_kinds_come_as_often_as_their_weights_say():
    sampler = MixedPrompts({"box": 3, "point": 1, "none": 0}, per_image=400, aligned=False)
    boxed = (~draw(sampler).boxes.isnan().any(-1)).float().mean()
    assert 0.7 < boxed < 0.8


def test_an_empty_mask_is_prompted_with_nothing():
    masks = ellipses((10, 12, 40, 50), (0, 0, 0, 0))
    prompts = draw(only("box_point"), masks)
    assert prompts.boxes[1].isnan().all() and (prompts.point_labels[1] == -1).all()
    assert not prompts.boxes[0].isnan().any() and (prompts.point_labels[0] == 1).all()
    assert draw(only("box_point"), masks[1:]).given() == {}


def test_the_generator_decides_alone():
    first, again, other = (draw(MixedPrompts(), seed=seed).given() for seed in (5, 5, 6))
    same = [
        torch.equal(first[key].nan_to_num(-9), again[key].nan_to_num(-9))
        for key in first
        if first[key] is not None
    ]
    assert same and all(same)
    assert any(
        (first[key] is None) != (other[key] is None)
        or (first[key] is not None and not torch.equal(first[key], other[key]))
        for key in first
    )


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_masks_of_any_type(dtype):
    prompts = draw(MixedPrompts(), MASKS.to(dtype), seed=1)
    expected = draw(MixedPrompts(), MASKS, seed=1)
    assert torch.equal(prompts.boxes.nan_to_num(-9), expected.boxes.nan_to_num(-9))


def test_correct_adds_a_click_in_the_error_and_feeds_the_logits_back():
    prompts = draw(only("box_point"))
    logits = torch.full((4, 3, SIZE, SIZE), -3.0, requires_grad=True)
    low_res = logits[..., ::4, ::4]
    better = correct(prompts, MASKS, logits, low_res, np.random.default_rng(0))
    assert better.points.shape == (4, 3, 2, 2) and torch.equal(better.points[:, :, :1], prompts.points)
    assert (better.point_labels[..., 1] == 1).all() and inside(MASKS, better.points[:, :, 1:]).all()
    assert torch.equal(better.masks, low_res) and not better.masks.requires_grad
    assert better.boxes is prompts.boxes


def test_correct_clicks_negative_where_the_prediction_is_too_much():
    everywhere = torch.ones(4, 2, SIZE, SIZE)
    better = correct(Prompts(), MASKS, everywhere, everywhere, np.random.default_rng(0))
    assert better.points.shape == (4, 2, 1, 2) and (better.point_labels == 0).all()
    assert not inside(MASKS, better.points).any()


def test_correct_keeps_the_number_of_clicks_alike():
    masks = ellipses((10, 12, 40, 50), (5, 5, 30, 30), (0, 0, 0, 0))
    logits = torch.where(masks, 5.0, -5.0)  # all right, and nothing to find in the third
    logits[1] = -5.0
    better = correct(Prompts(), masks, logits, logits, np.random.default_rng(0))
    assert better.point_labels.flatten().tolist() == [1, 1, -1]
    assert inside(masks[:2], better.points[:2]).all()


def test_corrections_lead_to_the_mask():
    """An oracle that mends a disc around each click comes ever closer."""
    prompts, rng = Prompts(), np.random.default_rng(0)
    prediction = torch.zeros(4, 1, SIZE, SIZE, dtype=torch.bool)
    prediction[:, :, :20, 30:] = True
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    wrong = [(prediction != MASKS).sum().item()]
    for _ in range(8):
        logits = prediction.float() - 0.5
        prompts = correct(prompts, MASKS, logits, logits, rng)
        click_x, click_y = prompts.points[:, :, -1, :, None, None].unbind(2)
        disc = (x - click_x) ** 2 + (y - click_y) ** 2 < 64
        prediction = torch.where(disc, MASKS, prediction)
        wrong.append((prediction != MASKS).sum().item())
    assert all(later <= earlier for earlier, later in pairwise(wrong))
    assert wrong[-1] < 0.4 * wrong[0] and prompts.points.shape == (4, 1, 8, 2)


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        ({"boxes": 1}, "'boxes' is unknown"),
        ({"box": -1}, "from 0 up"),
        ({"box": "1"}, "from 0 up"),
        ({"box": float("nan")}, "from 0 up"),
        ({"box": True}, "from 0 up"),
        ({"box": 0}, "above 0"),
        ({}, "above 0"),
        (["box"], "give a weight"),
    ],
)
def test_bad_weights_say_what_to_do(kinds, words):
    with pytest.raises(InputError, match=words):
        MixedPrompts(kinds)


@pytest.mark.parametrize("per_image", [0, 1.5, True, "3"])
def test_bad_per_image_says_what_to_do(per_image):
    with pytest.raises(InputError, match="per_image"):
        MixedPrompts(per_image=per_image)


def test_masks_of_a_wrong_shape_say_what_to_do():
    with pytest.raises(InputError, match=r"\(B,1,H,W\)"):
        draw(MixedPrompts(), MASKS[:, 0])


def test_default_weights_add_up():
    assert sum(KINDS.values()) == pytest.approx(1)


def test_each_prompt_means_one_object_and_none_means_all():
    boxes, targets = only("box", per_image=12)(LABELS, np.random.default_rng(0))
    assert targets.shape == (4, 12, SIZE, SIZE)
    for b in range(4):
        for box, target in zip(boxes.boxes[b], targets[b], strict=True):
            assert any(torch.equal(target, (LABELS[b, 0] == k).float()) for k in (1, 2))
            np.testing.assert_array_equal(box, tight_box(target.numpy()))
    assert (targets.flatten(2).sum(dim=2).amin(dim=1) < targets.flatten(2).sum(dim=2).amax(dim=1)).all()
    clicks, targets = only("clicks", per_image=5)(LABELS, np.random.default_rng(1))
    first = clicks.points[:, :, 0].long()
    assert targets.flatten(0, 1)[range(20), first[..., 1].flatten(), first[..., 0].flatten()].all()
    prompts, targets = only("none", per_image=2)(LABELS, np.random.default_rng(2))
    assert prompts.boxes is prompts.points is None
    assert torch.equal(targets, (LABELS > 0).float().expand(-1, 2, -1, -1))


def test_one_object_an_image_needs_no_target_for_each_prompt():
    prompts, targets = MixedPrompts(per_image=5)(MASKS, np.random.default_rng(3))
    assert torch.equal(targets, MASKS.float()) and prompts.boxes.shape[1] == 5


def test_images_that_have_to_be_prompted_are():
    sampler = MixedPrompts({"none": 0.7, "box": 0.2, "point": 0.1}, per_image=8)
    prompts, targets = sampler(LABELS, np.random.default_rng(4), torch.tensor([True, False, True, False]))
    prompted = ~prompts.boxes.isnan().any(dim=-1) | (prompts.point_labels == 1).any(dim=-1)
    assert prompted[[1, 3]].all() and not prompted[[0, 2]].all()
    assert all(len(target.unique()) == 2 for target in targets[[1, 3]].flatten(0, 1))
    with pytest.raises(InputError, match="none alone"):
        only("none")(LABELS, np.random.default_rng(5), [False] * 4)


def test_corrections_of_several_objects_are_of_each_ones_own_target():
    prompts, targets = only("box", per_image=6)(LABELS, np.random.default_rng(6))
    logits = torch.full_like(targets, -1.0)
    corrected = correct(prompts, targets, logits, torch.zeros(4, 6, 16, 16), np.random.default_rng(7))
    x, y = corrected.points[:, :, 0].long().unbind(-1)
    assert (corrected.point_labels == 1).all()
    assert targets.flatten(0, 1)[range(24), y.flatten(), x.flatten()].all()
