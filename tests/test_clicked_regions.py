"""A click keeps the region that it is in; what nobody clicked on goes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lmsfe_sam.model.clicked_regions import drop_unclicked
from lmsfe_sam.model.prompt_batch import flatten_prompts, group_prompts
from lmsfe_sam.prompts.prompt import Prompts

SIDE = 8
LEFT, RIGHT = (slice(1, 4), slice(1, 3)), (slice(2, 7), slice(5, 8))
NAN = float("nan")


def two_regions() -> Tensor:
    """Logits (1,1,8,8) of the square of 16 pixels: two regions of 3 in a field of -2."""
    logits = torch.full((1, 1, SIDE, SIDE), -2.0)
    for region in (LEFT, RIGHT):
        logits[(0, 0, *region)] = 3.0
    return logits


def asked(
    clicks: list[tuple[float, float]],
    labels: list[int],
    box: list[float] | None = None,
    earlier: Tensor | None = None,
) -> Tensor:
    boxes = None if box is None else torch.tensor([[box]])
    return dropped(boxes, torch.tensor(clicks)[None, None], torch.tensor(labels)[None, None], earlier)[0, 0]


def dropped(*prompts: Tensor | None) -> Tensor:
    (group,) = group_prompts(*flatten_prompts(Prompts(*prompts), 1, torch.device("cpu")))
    return drop_unclicked(two_regions(), group.prompts, 2 * SIDE)


def kept(logits: Tensor) -> tuple[bool, bool]:
    """Whether the left and the right region are inside; a region is never cut."""
    inside = [logits[region] > 0 for region in (LEFT, RIGHT)]
    assert all(region.all() or not region.any() for region in inside)
    assert (logits > 0).sum() == sum(region.sum() for region in inside)
    return bool(inside[0].all()), bool(inside[1].all())


@pytest.mark.parametrize(
    ("clicks", "labels", "expected"),
    [
        ([(2.5, 2.5)], [1], (True, False)),
        ([(15.9, 13.9)], [1], (False, True)),
        ([(2.5, 2.5), (12.0, 8.0)], [1, 1], (True, True)),
        ([(2.5, 2.5), (12.0, 8.0)], [1, 0], (True, False)),
        ([(2.5, 2.5), (12.0, 8.0)], [1, -1], (True, False)),
        ([(8.0, 0.5)], [1], (True, True)),  # on neither
        ([(12.0, 8.0)], [0], (True, True)),  # outside alone
        ([(16.0, 16.0)], [1], (True, True)),  # on the picture's edge
    ],
)
def test_regions_without_a_click_inside_go(
    clicks: list[tuple[float, float]], labels: list[int], expected: tuple[bool, bool]
) -> None:
    assert kept(asked(clicks, labels)) == expected


def test_dropped_logits_are_as_far_from_the_threshold_as_before() -> None:
    assert torch.equal(asked([(2.5, 2.5)], [1]).abs(), two_regions()[0, 0].abs())


def test_a_box_keeps_everything_and_none_does_not() -> None:
    assert kept(asked([(2.5, 2.5)], [1], box=[0.0, 0.0, 16.0, 16.0])) == (True, True)
    assert kept(asked([(2.5, 2.5)], [1], box=[NAN] * 4)) == (True, False)


def test_what_the_mask_before_touches_stays() -> None:
    earlier = torch.full((1, 1, 4, 4), -1.0)
    earlier[0, 0, 2, 3] = 1.0  # inside the right region
    assert kept(asked([(2.5, 2.5)], [1], earlier=earlier)) == (True, True)
    assert kept(asked([(2.5, 2.5)], [1], earlier=torch.full((1, 1, 4, 4), NAN))) == (True, False)


def test_what_a_smaller_mask_is_padded_with_counts_for_nothing() -> None:
    earlier = torch.full((1, 1, 8, 8), NAN)
    earlier[0, 0, :4, :4] = -1.0
    earlier[0, 0, 2, 3] = 1.0  # inside the right region, as the padding is no part of the square
    assert kept(asked([(2.5, 2.5)], [1], earlier=earlier)) == (True, True)


def test_without_clicks_the_logits_pass() -> None:
    logits = two_regions()
    (group,) = group_prompts(*flatten_prompts(Prompts(), 1, torch.device("cpu")))
    assert drop_unclicked(logits, group.prompts, 2 * SIDE) is logits
