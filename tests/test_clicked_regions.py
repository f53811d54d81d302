"""A click keeps the region that it is in; what nobody clicked on goes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lmsfe_sam.model.presets import PRESETS
from lmsfe_sam.predict.decoding import decode_prompts
from lmsfe_sam.predict.postprocessing import drop_unclicked
from lmsfe_sam.prompts.prompt import Prompts
from sam_med2d import randomise
from tiny import seeded_network

SIDE = 8
LEFT, RIGHT = (slice(1, 4), slice(1, 3)), (slice(2, 7), slice(5, 8))
NAN = float("nan")


def two_regions() -> Tensor:
    """Logits (1,1,1,8,8) of the square of 16 pixels: two regions of 3 in a field of -2."""
    logits = torch.full((1, 1, 1, SIDE, SIDE), -2.0)
    for region in (LEFT, RIGHT):
        logits[(0, 0, 0, *region)] = 3.0
    return logits


def clicked(
    clicks: list[tuple[float, float]],
    labels: list[int],
    box: list[float] | None = None,
    earlier: Tensor | None = None,
) -> Tensor:
    boxes = None if box is None else torch.tensor([[box]])
    prompts = Prompts(boxes, torch.tensor(clicks)[None, None], torch.tensor(labels)[None, None], earlier)
    return drop_unclicked(two_regions(), prompts, 2 * SIDE)[0, 0, 0]


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
    assert kept(clicked(clicks, labels)) == expected


def test_dropped_logits_are_as_far_from_the_threshold_as_before() -> None:
    assert torch.equal(clicked([(2.5, 2.5)], [1]).abs(), two_regions()[0, 0, 0].abs())


def test_a_box_keeps_everything_and_none_does_not() -> None:
    assert kept(clicked([(2.5, 2.5)], [1], box=[0.0, 0.0, 16.0, 16.0])) == (True, True)
    assert kept(clicked([(2.5, 2.5)], [1], box=[NAN] * 4)) == (True, False)


def test_regions_of_the_mask_prompt_stay() -> None:
    earlier = torch.full((1, 1, 4, 4), -1.0)
    earlier[0, 0, 2, 3] = 1.0  # inside the right region
    assert kept(clicked([(2.5, 2.5)], [1], earlier=earlier)) == (True, True)
    assert kept(clicked([(2.5, 2.5)], [1], earlier=torch.full((1, 1, 4, 4), NAN))) == (True, False)


def test_the_padding_of_a_smaller_mask_prompt_does_not_count() -> None:
    earlier = torch.full((1, 1, 8, 8), NAN)
    earlier[0, 0, :4, :4] = -1.0
    earlier[0, 0, 2, 3] = 1.0  # inside the right region, as the padding is not a part of the square
    assert kept(clicked([(2.5, 2.5)], [1], earlier=earlier)) == (True, True)


def test_without_clicks_the_logits_pass() -> None:
    logits = two_regions()
    for prompts in (Prompts(), Prompts(torch.tensor([[[0.0, 0.0, 16.0, 16.0]]]))):
        assert drop_unclicked(logits, prompts, 2 * SIDE) is logits


def test_each_object_and_token_is_treated_by_itself() -> None:
    """Two images of three objects (clicks with padding, a box beside a click, nothing), two tokens each."""
    logits = two_regions().repeat(2, 3, 2, 1, 1)
    logits[:, :, 1, *RIGHT] = -2.0  # the second token holds the left region alone
    points = torch.tensor([[2.5, 2.5], [0.0, 0.0]]).expand(2, 3, 2, 2)
    labels = torch.tensor([[1, -1], [1, -1], [-1, -1]]).expand(2, 3, 2)
    boxes = torch.full((2, 3, 4), NAN)
    boxes[:, 1] = torch.tensor([0.0, 0.0, 16.0, 16.0])
    found = drop_unclicked(logits, Prompts(boxes, points, labels), 2 * SIDE)
    for image in found:
        assert [kept(image[n, 0]) for n in range(3)] == [(True, False), (True, True), (True, True)]
    assert torch.equal(found[:, :, 1], logits[:, :, 1])


def test_decoding_drops_before_it_chooses_where_the_preset_says_so() -> None:
    """The masks are those of the network's tokens without the unclicked regions, and so is their IoU."""
    torch.manual_seed(1)
    network = randomise(seeded_network(), 0, gain=1.0)
    size = network.image_size
    embedding = network.encode(torch.randn(1, 3, size, size))
    prompts = Prompts(
        points=torch.tensor([[[[0.3, 0.4]], [[0.7, 0.6]]]]) * size, point_labels=torch.ones(1, 2, 1).long()
    )
    with torch.no_grad():
        tokens = network.decode_tokens(embedding, **prompts.given())
        dropped = tokens._replace(masks=drop_unclicked(tokens.masks, prompts, size))
        assert not torch.equal(dropped.masks, tokens.masks)  # there was something to drop
        for three in (None, False, True):
            expected = network.choose(dropped, three, True)
            found = decode_prompts(network, embedding, prompts, three, return_low_res=True)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        raw = network.decode(embedding, **prompts.given(), multimask_output=True, return_low_res=True)
        assert not any(torch.equal(a, b) for a, b in zip(found, raw, strict=True))
        network.clicked_regions = False
        for a, b in zip(decode_prompts(network, embedding, prompts, True, True), raw, strict=True):
            assert torch.equal(a, b)


def test_the_small_preset_alone_drops() -> None:
    assert [name for name, preset in PRESETS.items() if preset.clicked_regions] == ["vit_t"]
