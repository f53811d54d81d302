"""The loss of each object, against values computed by hand and by plain formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lmsfe_sam.model.mask_decoder import DecodedTokens
from lmsfe_sam.training.losses import PromptedLoss, boundary_band


def tokens(masks: Tensor, iou: Tensor | None = None, lone: Tensor | None = None) -> DecodedTokens:
    """All four tokens of ``masks (B, N, 4, s, s)``."""
    b, n = masks.shape[:2]
    return DecodedTokens(
        masks,
        torch.zeros(b, n, 4) if iou is None else iou,
        torch.zeros(b, n, dtype=torch.bool) if lone is None else lone,
    )


def random_case(seed: int, b: int = 2, n: int = 3, size: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randn(b, n, 4, size, size, generator=generator) * 2
    iou = torch.rand(b, n, 4, generator=generator)
    target = (torch.rand(b, 1, size, size, generator=generator) < 0.4).float()
    return masks, iou, target


def focal(logits: Tensor, truth: Tensor) -> float:
    """Lin et al. (2017) with alpha .25, gamma 2, as SAM and SAM-Med2D: mean over pixels."""
    total = 0.0
    for x, y in zip(logits.flatten().tolist(), truth.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        p_t, alpha = (p, 0.25) if y else (1 - p, 0.75)
        total += -alpha * (1 - p_t) ** 2 * math.log(p_t)
    return total / logits.numel()


def dice(logits: Tensor, truth: Tensor) -> float:
    p = torch.sigmoid(logits)
    return (1 - (2 * (p * truth).sum() + 1e-5) / (p.sum() + truth.sum() + 1e-5)).item()


def true_iou(logits: Tensor, truth: Tensor) -> float:
    a, b = logits > 0, truth > 0.5
    return (a & b).sum().item() / max(1, (a | b).sum().item())


def expected_loss(masks: Tensor, iou: Tensor, target: Tensor, lone: Tensor) -> float:
    losses = []
    for b in range(masks.shape[0]):
        truth = target[b, 0]
        for n in range(masks.shape[1]):
            parts = [20 * focal(m, truth) + dice(m, truth) for m in masks[b, n]]
            errors = [(iou[b, n, k].item() - true_iou(masks[b, n, k], truth)) ** 2 for k in range(4)]
            loss = parts[0] + errors[0]
            if lone[b, n]:
                loss += min(parts[1:]) + sum(errors[1:]) / 3
            losses.append(loss)
    return sum(losses) / len(losses)


@pytest.mark.parametrize("which", ["none", "some", "all"])
def test_plain_formulas(which: str) -> None:
    masks, iou, target = random_case(0)
    lone = torch.zeros(2, 3, dtype=torch.bool)
    lone[0, 1] = lone[1] = which == "some"
    lone |= which == "all"
    found = PromptedLoss()(tokens(masks, iou, lone), target).item()
    assert found == pytest.approx(expected_loss(masks, iou, target, lone), rel=1e-5)


def test_by_hand() -> None:
    """Two of four pixels are inside; logits 0 everywhere: p = 1/2, no pixel is predicted."""
    target = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
    found = PromptedLoss()(tokens(torch.zeros(1, 1, 4, 2, 2), torch.full((1, 1, 4), 0.5)), target)
    focal_term = 0.25 * math.log(2) * (0.25 + 0.75) / 2  # (1 - p_t)^2 = 1/4, alpha .25 on half, .75 on half
    dice_term = 1 - 2 * 1 / (2 + 2)
    iou_term = (0.5 - 0) ** 2
    assert found.item() == pytest.approx(20 * focal_term + dice_term + iou_term, rel=1e-4)


def test_objects_count_the_same_whatever_their_size() -> None:
    """The mean over objects, so that a batch is no more than its objects."""
    masks, iou, target = random_case(1, b=3, n=1, size=16)
    target[0] = 0
    target[0, 0, 3:5, 3:5] = 1
    target[1] = 1
    loss = PromptedLoss()
    alone = [loss(tokens(masks[i : i + 1], iou[i : i + 1]), target[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(loss(tokens(masks, iou), target), torch.stack(alone).mean())


def test_masks_are_brought_to_the_targets_size() -> None:
    masks, iou, _ = random_case(2, size=4)
    target = torch.zeros(2, 1, 16, 16)
    target[:, :, 4:12, 2:14] = 1
    large = torch.nn.functional.interpolate(masks.flatten(0, 1), (16, 16), mode="bilinear").unflatten(
        0, (2, 3)
    )
    loss = PromptedLoss()
    torch.testing.assert_close(loss(tokens(masks, iou), target), loss(tokens(large, iou), target))


def test_weights() -> None:
    masks, iou, target = random_case(3, b=1, n=1)
    only = {
        "focal": PromptedLoss(1, 0, 0),
        "dice": PromptedLoss(0, 1, 0),
        "iou": PromptedLoss(0, 0, 1),
    }
    values = {name: loss(tokens(masks, iou), target).item() for name, loss in only.items()}
    logits, truth = masks[0, 0, 0], target[0, 0]
    assert values["focal"] == pytest.approx(focal(logits, truth), rel=1e-5)
    assert values["dice"] == pytest.approx(dice(logits, truth), rel=1e-5)
    assert values["iou"] == pytest.approx((iou[0, 0, 0].item() - true_iou(logits, truth)) ** 2, rel=1e-5)
    total = 20 * values["focal"] + values["dice"] + values["iou"]
    assert PromptedLoss()(tokens(masks, iou), target).item() == pytest.approx(total, rel=1e-5)


def test_gradients() -> None:
    """The single-mask token always learns; of the other three the best, and only for a lone click."""
    masks, iou, target = random_case(4, b=1, n=2)
    masks.requires_grad_(True)
    iou.requires_grad_(True)
    lone = torch.tensor([[False, True]])
    PromptedLoss()(tokens(masks, iou, lone), target).backward()
    moved = masks.grad[0].abs().flatten(2).sum(dim=2) > 0
    parts = [20 * focal(m, target[0, 0]) + dice(m, target[0, 0]) for m in masks[0, 1, 1:].detach()]
    best = parts.index(min(parts))
    assert moved[0].tolist() == [True, False, False, False]
    assert moved[1].tolist() == [True, *[k == best for k in range(3)]]
    assert (iou.grad[0] != 0).tolist() == [[True, False, False, False], [True] * 4]


def test_perfect_masks_cost_next_to_nothing() -> None:
    _, _, target = random_case(5)
    masks = ((target - 0.5) * 60)[:, :, None].expand(-1, 3, 4, -1, -1)
    lone = torch.ones(2, 3, dtype=torch.bool)
    assert PromptedLoss(boundary_weight=1.0)(tokens(masks, torch.ones(2, 3, 4), lone), target) < 1e-4


def test_huge_logits_stay_finite() -> None:
    masks = torch.full((1, 1, 4, 4, 4), 1e4).requires_grad_(True)
    loss = PromptedLoss(boundary_weight=1.0)(tokens(masks), torch.zeros(1, 1, 4, 4))
    loss.backward()
    assert loss.isfinite()
    assert masks.grad.isfinite().all()


def test_cross_entropy() -> None:
    masks, iou, target = random_case(7, b=1, n=1)
    logits, truth = masks[0, 0, 0], target[0, 0]
    expected = (torch.nn.functional.softplus(logits) - logits * truth).mean()
    found = PromptedLoss(0, 0, 0, cross_entropy_weight=1.5)(tokens(masks, iou), target)
    torch.testing.assert_close(found, 1.5 * expected)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_share_of_the_tokens_that_are_not_the_best(share: float) -> None:
    masks, iou, target = random_case(8, b=1, n=1)
    masks.requires_grad_(True)
    lone = torch.ones(1, 1, dtype=torch.bool)
    dice_alone = {"focal_weight": 0, "iou_weight": 0}
    found = PromptedLoss(**dice_alone, others_weight=share)(tokens(masks, iou, lone), target)
    first, *others = (dice(m, target[0, 0]) for m in masks[0, 0].detach())
    expected = first + (1 - share) * min(others) + share * sum(others) / 3
    assert found.item() == pytest.approx(expected, rel=1e-5)
    found.backward()
    moved = (masks.grad[0, 0, 1:].abs().sum(dim=(1, 2)) > 0).tolist()
    assert moved == ([True] * 3 if share else [other == min(others) for other in others])


class TestSoftTargets:
    def test_a_soft_target_of_0_and_1_is_the_truth(self) -> None:
        masks, iou, target = random_case(9)
        lone = torch.tensor([[False, True, True], [True, False, False]])
        loss = PromptedLoss(0.5, cross_entropy_weight=1.0, boundary_weight=0.5, others_weight=0.7)
        soft = target.expand(-1, 3, -1, -1)
        torch.testing.assert_close(
            loss(tokens(masks, iou, lone), target, soft), loss(tokens(masks, iou, lone), target)
        )

    def test_the_soft_target_itself_is_best(self) -> None:
        """Dice as it is would be least at 0 and 1."""
        _, _, target = random_case(10, b=1, n=1)
        soft = 0.7 * target + 0.3 * torch.rand(target.shape, generator=torch.Generator().manual_seed(0))
        loss = PromptedLoss(0, 1, 0, cross_entropy_weight=1, boundary_weight=1)
        masks = torch.zeros(1, 1, 1, 8, 8, requires_grad=True)
        optimizer = torch.optim.Adam([masks], lr=0.05)
        for _ in range(800):
            optimizer.zero_grad()
            loss(tokens(masks.expand(-1, -1, 4, -1, -1)), target, soft).backward()
            optimizer.step()
            optimizer.param_groups[0]["lr"] *= 0.994
        torch.testing.assert_close(masks[:, 0].sigmoid(), soft, atol=0.02, rtol=0)

    def test_border_focal_loss_and_iou_keep_to_the_truth(self) -> None:
        masks, iou, target = random_case(11, b=1, n=1)
        soft = torch.full_like(target, 0.4)
        for weights in ((1, 0, 0), (0, 0, 1)):
            loss = PromptedLoss(*weights)
            assert loss(tokens(masks, iou), target, soft) == loss(tokens(masks, iou), target)
        edge = PromptedLoss(0, 0, 0, boundary_weight=1, boundary_width=1)
        band = boundary_band(target, 1)[0, 0]
        entropy = torch.nn.functional.softplus(masks[0, 0, 0]) - 0.4 * masks[0, 0, 0]
        expected = (entropy * band).sum() / band.sum()
        torch.testing.assert_close(edge(tokens(masks, iou), target, soft), expected)


class TestBoundary:
    def test_band(self) -> None:
        truth = torch.zeros(1, 1, 7, 9)
        truth[..., 2:5, 3:6] = 1
        band = boundary_band(truth, 1)[0, 0]
        expected = torch.zeros(7, 9)
        expected[1:6, 2:7] = 1
        expected[3, 4] = 0
        assert torch.equal(band, expected)

    def test_the_images_edge_is_no_border(self) -> None:
        assert boundary_band(torch.ones(1, 1, 5, 5), 2).sum() == 0
        half = torch.zeros(1, 1, 6, 6)
        half[..., :3, :] = 1
        assert boundary_band(half, 1)[0, 0].sum(dim=1).tolist() == [0, 0, 6, 6, 0, 0]

    def test_term(self) -> None:
        masks, iou, target = random_case(6, b=1, n=1)
        logits, truth = masks[0, 0, 0], target[0, 0]
        band = boundary_band(target, 2)[0, 0]
        entropy = torch.nn.functional.softplus(logits) - logits * truth
        expected = (entropy * band).sum() / band.sum()
        found = PromptedLoss(boundary_weight=0.7, boundary_width=2)(tokens(masks, iou), target)
        found = found - PromptedLoss()(tokens(masks, iou), target)
        torch.testing.assert_close(found, 0.7 * expected, atol=1e-5, rtol=1e-5)
