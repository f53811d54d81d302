"""Prompts of a batch: flattened, grouped by what the decoder can take in one pass, padded from lists."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lmsfe_sam.model.prompt_batch import flatten_prompts, group_prompts, lone_clicks, pad_prompts
from lmsfe_sam.prompts.prompt import Prompts

NAN = float("nan")
CPU = torch.device("cpu")


def flatten(batch: int, **prompts: Tensor | None) -> tuple[Prompts, int]:
    return flatten_prompts(Prompts(**prompts), batch, CPU)


class TestGroups:
    def test_without_prompts_one_object_an_image(self) -> None:
        prompts = flatten(3)
        (group,) = group_prompts(*prompts)
        assert (len(prompts[0]), prompts[1]) == (3, 1)
        assert group.flat_index.tolist() == group.image.tolist() == [0, 1, 2]
        assert not group.prompts.given()
        assert lone_clicks(prompts[0]).tolist() == [False] * 3

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
        groups = {tuple(group.flat_index.tolist()): group for group in group_prompts(*prompts)}
        assert set(groups) == {(3,), (0, 4), (2,), (1, 5)}
        assert not groups[3,].prompts.given()
        assert groups[0, 4].image.tolist() == [0, 1]
        box = groups[0, 4].prompts
        assert box.boxes.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
        assert box.points is None
        assert box.point_labels is None
        assert box.masks is None
        assert groups[1, 5].image.tolist() == [0, 1]
        clicks = groups[1, 5].prompts
        assert clicks.point_labels.tolist() == [[1, 0], [0, 1]]
        assert clicks.points.tolist() == [[[6, 7], [8, 9]], [[32, 33], [34, 35]]]
        assert clicks.boxes is None
        assert groups[2,].prompts.points.tolist() == [[[12, 13]]]
        assert lone_clicks(prompts[0]).tolist() == [False, False, True, False, False, False]

    def test_every_object_is_in_one_group(self) -> None:
        generator = torch.Generator().manual_seed(0)
        boxes = torch.rand(4, 5, 4, generator=generator)
        boxes[torch.rand(4, 5, generator=generator) < 0.5] = NAN
        labels = torch.randint(-1, 2, (4, 5, 3), generator=generator)
        masks = torch.rand(4, 5, 6, 6, generator=generator)
        masks[torch.rand(4, 5, generator=generator) < 0.5] = NAN
        points = torch.rand(4, 5, 3, 2, generator=generator)
        prompts = flatten(4, boxes=boxes, points=points, point_labels=labels, masks=masks)
        groups = group_prompts(*prompts)
        index = torch.cat([group.flat_index for group in groups])
        assert sorted(index.tolist()) == list(range(20))
        for group in groups:
            assert (group.image == group.flat_index // 5).all()
            given = group.prompts.given()
            assert not any(tensor.isnan().any() for tensor in given.values())
            assert "point_labels" not in given or (given["point_labels"] >= 0).all()
        lone = lone_clicks(prompts[0]).reshape(4, 5)
        expected = ((labels >= 0).sum(-1) == 1) & boxes.isnan().all(-1) & masks.isnan().flatten(2).all(-1)
        assert torch.equal(lone, expected)

    def test_a_click_with_box_or_mask_is_not_alone(self) -> None:
        points, labels = torch.zeros(1, 3, 1, 2), torch.ones(1, 3, 1)
        boxes = torch.tensor([[[0.0, 0, 1, 1], [NAN] * 4, [NAN] * 4]])
        masks = torch.full((1, 3, 2, 2), NAN)
        masks[0, 1] = 0
        prompts = flatten(1, boxes=boxes, points=points, point_labels=labels, masks=masks)
        assert lone_clicks(prompts[0]).tolist() == [False, False, True]

    def test_masks_keep_their_own_size(self) -> None:
        padded, counts = pad_prompts(None, None, None, [torch.ones(1, 4, 6), torch.ones(2, 5, 3)])
        assert counts == [1, 2]
        assert padded.masks.shape == (2, 2, 5, 6)
        groups = group_prompts(*flatten(2, masks=padded.masks))
        found = {tuple(group.flat_index.tolist()): group.prompts.masks for group in groups}
        shapes = {place: None if masks is None else tuple(masks.shape) for place, masks in found.items()}
        assert shapes == {(0,): (1, 4, 6), (1,): None, (2, 3): (2, 5, 3)}
        assert all(masks.eq(1).all() for masks in found.values() if masks is not None)

    def test_masks_with_holes(self) -> None:
        masks = torch.zeros(1, 1, 4, 4)
        masks[0, 0, 1, 2] = NAN
        with pytest.raises(
            ValueError, match="masks hold NaN among numbers: an object without a mask prompt is all NaN"
        ):
            group_prompts(*flatten(1, masks=masks))

    def test_half_precision_and_whole_numbers(self) -> None:
        prompts = flatten(
            1, points=torch.zeros(1, 1, 1, 2, dtype=torch.int64), point_labels=torch.ones(1, 1, 1)
        )
        (group,) = group_prompts(*prompts)
        assert group.prompts.points.dtype == torch.float32
        assert group.prompts.point_labels.dtype == torch.int64


class TestPadding:
    def test_tensors_pass_as_they_are(self) -> None:
        boxes = torch.zeros(2, 1, 4)
        padded, counts = pad_prompts(boxes, None, None, None)
        assert padded.given() == {"boxes": boxes}
        assert counts is None

    def test_lists(self) -> None:
        boxes = [torch.ones(2, 4), torch.ones(1, 4)]
        points = [torch.ones(2, 1, 2), torch.ones(1, 3, 2)]
        labels = [torch.ones(2, 1), torch.zeros(1, 3)]
        padded, counts = pad_prompts(boxes, points, labels, None)
        boxes, points, labels, masks = vars(padded).values()
        assert counts == [2, 1]
        assert masks is None
        assert boxes[1, 1].isnan().all()
        assert labels.tolist() == [[[1, -1, -1], [1, -1, -1]], [[0, 0, 0], [-1, -1, -1]]]
        assert points.shape == (2, 2, 3, 2)

    def test_lists_that_disagree(self) -> None:
        with pytest.raises(ValueError, match="different numbers of images or objects"):
            pad_prompts([torch.ones(2, 4)], [torch.ones(1, 1, 2)], [torch.ones(1, 1)], None)
