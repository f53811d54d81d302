"""Prompts of a batch: flattened, grouped by what the decoder can take in one pass, padded from lists."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lmsfe_sam.model.prompt_batch import flatten_prompts, pad_prompts

NAN = float("nan")
CPU = torch.device("cpu")


def flatten(batch: int, **prompts: Tensor | None):
    names = ("boxes", "points", "point_labels", "masks")
    return flatten_prompts(batch, *(prompts.get(name) for name in names), CPU)


class TestGroups:
    def test_without_prompts_one_object_an_image(self) -> None:
        prompts = flatten(3)
        (group,) = prompts.groups()
        assert (prompts.batch, prompts.per_image) == (3, 1)
        assert group.index.tolist() == group.image.tolist() == [0, 1, 2]
        assert not group.any()
        assert prompts.lone_clicks().tolist() == [False] * 3

    def test_objects_go_with_their_like(self) -> None:
        """Two images: box, two clicks, one click; nothing, box, two clicks behind padding."""
        boxes = torch.full((2, 3, 4), NAN)
        boxes[0, 0] = torch.tensor([1.0, 2, 3, 4])
        boxes[1, 1] = torch.tensor([5.0, 6, 7, 8])
        labels = torch.tensor(
            [[[-1, -1, -1], [1, 0, -1], [1, -1, -1]], [[-1, -1, -1], [-1, -1, -1], [-1, 0, 1]]]
        )
        points = torch.arange(36.0).reshape(2, 3, 3, 2)
        prompts = flatten(2, boxes=boxes, points=points, point_labels=labels)
        groups = {tuple(group.index.tolist()): group for group in prompts.groups()}
        assert set(groups) == {(3,), (0, 4), (2,), (1, 5)}
        assert not groups[3,].any()
        box = groups[0, 4]
        assert box.image.tolist() == [0, 1]
        assert box.boxes.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
        assert box.points is None
        assert box.labels is None
        assert box.masks is None
        clicks = groups[1, 5]
        assert clicks.image.tolist() == [0, 1]
        assert clicks.labels.tolist() == [[1, 0], [0, 1]]
        assert clicks.points.tolist() == [[[6, 7], [8, 9]], [[32, 33], [34, 35]]]
        assert clicks.boxes is None
        assert groups[2,].points.tolist() == [[[12, 13]]]
        assert prompts.lone_clicks().tolist() == [False, False, True, False, False, False]

    def test_every_object_is_in_one_group(self) -> None:
        generator = torch.Generator().manual_seed(0)
        boxes = torch.rand(4, 5, 4, generator=generator)
        boxes[torch.rand(4, 5, generator=generator) < 0.5] = NAN
        labels = torch.randint(-1, 2, (4, 5, 3), generator=generator)
        masks = torch.rand(4, 5, 6, 6, generator=generator)
        masks[torch.rand(4, 5, generator=generator) < 0.5] = NAN
        points = torch.rand(4, 5, 3, 2, generator=generator)
        prompts = flatten(4, boxes=boxes, points=points, point_labels=labels, masks=masks)
        groups = prompts.groups()
        index = torch.cat([group.index for group in groups])
        assert sorted(index.tolist()) == list(range(20))
        for group in groups:
            assert (group.image == group.index // 5).all()
            for tensor in (group.boxes, group.points, group.masks):
                assert tensor is None or not tensor.isnan().any()
            assert group.labels is None or (group.labels >= 0).all()
        lone = prompts.lone_clicks().reshape(4, 5)
        expected = ((labels >= 0).sum(-1) == 1) & boxes.isnan().all(-1) & masks.isnan().flatten(2).all(-1)
        assert torch.equal(lone, expected)

    def test_a_click_with_box_or_mask_is_not_alone(self) -> None:
        points, labels = torch.zeros(1, 3, 1, 2), torch.ones(1, 3, 1)
        boxes = torch.tensor([[[0.0, 0, 1, 1], [NAN] * 4, [NAN] * 4]])
        masks = torch.full((1, 3, 2, 2), NAN)
        masks[0, 1] = 0
        prompts = flatten(1, boxes=boxes, points=points, point_labels=labels, masks=masks)
        assert prompts.lone_clicks().tolist() == [False, False, True]

    def test_masks_keep_their_own_size(self) -> None:
        padded, counts = pad_prompts(None, None, None, [torch.ones(1, 4, 6), torch.ones(2, 5, 3)])
        assert counts == [1, 2]
        assert padded[3].shape == (2, 2, 5, 6)
        groups = flatten(2, masks=padded[3]).groups()
        shapes = {tuple(g.index.tolist()): None if g.masks is None else tuple(g.masks.shape) for g in groups}
        assert shapes == {(0,): (1, 1, 4, 6), (1,): None, (2, 3): (2, 1, 5, 3)}
        assert all(group.masks.eq(1).all() for group in groups if group.masks is not None)

    def test_masks_with_holes(self) -> None:
        masks = torch.zeros(1, 1, 4, 4)
        masks[0, 0, 1, 2] = NAN
        with pytest.raises(
            ValueError, match="masks hold NaN among numbers: an object without a mask prompt is all NaN"
        ):
            flatten(1, masks=masks).groups()

    def test_half_precision_and_whole_numbers(self) -> None:
        prompts = flatten(
            1, points=torch.zeros(1, 1, 1, 2, dtype=torch.int64), point_labels=torch.ones(1, 1, 1)
        )
        (group,) = prompts.groups()
        assert group.points.dtype == torch.float32
        assert group.labels.dtype == torch.int64


class TestPadding:
    def test_tensors_pass_as_they_are(self) -> None:
        boxes = torch.zeros(2, 1, 4)
        padded, counts = pad_prompts(boxes, None, None, None)
        assert padded[0] is boxes
        assert padded[1:] == [None] * 3
        assert counts is None

    def test_lists(self) -> None:
        boxes = [torch.ones(2, 4), torch.ones(1, 4)]
        points = [torch.ones(2, 1, 2), torch.ones(1, 3, 2)]
        labels = [torch.ones(2, 1), torch.zeros(1, 3)]
        (boxes, points, labels, masks), counts = pad_prompts(boxes, points, labels, None)
        assert counts == [2, 1]
        assert masks is None
        assert boxes[1, 1].isnan().all()
        assert labels.tolist() == [[[1, -1, -1], [1, -1, -1]], [[0, 0, 0], [-1, -1, -1]]]
        assert points.shape == (2, 2, 3, 2)

    def test_lists_that_disagree(self) -> None:
        with pytest.raises(ValueError, match="different numbers of images or objects"):
            pad_prompts([torch.ones(2, 4)], [torch.ones(1, 1, 2)], [torch.ones(1, 1)], None)
