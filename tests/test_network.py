"""Prompts of every kind, shape and number, decoded by the network."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as F

from lmsfe_sam.model.mask_decoder import DecodedTokens, choose_masks, expected_iou
from network_cases import (
    BOX,
    CLICKS,
    EACH_KIND,
    LABELS,
    NAN,
    TOLERANCE,
    build,
    every_kind,
    image_of,
    images,
)
from tiny import SIZE

pytestmark = pytest.mark.usefixtures("small_presets", "no_gradients")


class TestPrompts:
    def test_no_object_depends_on_its_batch(self, encoded) -> None:
        model, embedding = encoded
        together = model.decode(embedding, **every_kind(3), return_low_res=True)
        for i, (n, alone) in itertools.product(range(3), enumerate(EACH_KIND)):
            expected = model.decode(image_of(embedding, i), **alone, return_low_res=True)
            for found, wanted in zip(together, expected, strict=True):
                torch.testing.assert_close(found[i, n], wanted[0, 0], **TOLERANCE)
        logits = together[0]
        assert logits.abs().max() > 0.1
        differences = (logits[:, :, None] - logits[:, None]).abs().amax(dim=(-1, -2))
        assert (differences[:, ~torch.eye(6, dtype=torch.bool)] > 1e-3).all()  # each prompt has its effect

    def test_no_image_depends_on_its_batch(self, encoded) -> None:
        model, embedding = encoded
        alone = model.encode(images(3)[1:2])
        torch.testing.assert_close(alone.features, embedding.features[1:2], **TOLERANCE)
        for found, expected in zip(alone.skips, embedding.skips, strict=True):
            torch.testing.assert_close(found, expected[1:2], **TOLERANCE)

    @pytest.mark.parametrize("places", [[0, 1], [3, 4], [1, 4]])
    def test_padding_clicks_changes_nothing(self, encoded, places: list[int]) -> None:
        model, embedding = encoded
        one = image_of(embedding, 0)
        points = torch.full((1, 1, 5, 2), 17.0)
        labels = torch.full((1, 1, 5), -1)
        points[0, 0, places], labels[0, 0, places] = CLICKS[:2], LABELS[:2]
        expected = model.decode(one, points=CLICKS[None, None, :2], point_labels=LABELS[None, None, :2])
        found = model.decode(one, points=points, point_labels=labels)
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a, b)
        only_padding = model.decode(one, points=points, point_labels=torch.full((1, 1, 5), -1))
        assert torch.equal(only_padding[0], model.decode(one)[0])

    def test_what_stands_in_the_padding_changes_nothing(self, encoded) -> None:
        model, embedding = encoded
        prompts = every_kind(3)
        hidden = prompts["points"].clone()
        hidden[prompts["point_labels"] < 0] = NAN
        found, expected = (
            model.decode(embedding, **{**prompts, "points": hidden}),
            model.decode(embedding, **prompts),
        )
        assert torch.equal(found[0], expected[0])

    def test_images_without_a_prompt_beside_boxes(self, encoded) -> None:
        model, embedding = encoded
        boxes = torch.stack([BOX, torch.full((4,), NAN), BOX + 5])[:, None]
        logits, iou = model.decode(embedding, boxes=boxes)
        unprompted, scores = model.decode(image_of(embedding, 1))
        torch.testing.assert_close(logits[1:2], unprompted, **TOLERANCE)
        torch.testing.assert_close(iou[1:2], scores, **TOLERANCE)

    def test_lists_in_lists_out(self, encoded) -> None:
        model, embedding = encoded
        boxes = [torch.stack([BOX, BOX + 3]), torch.zeros(0, 4), BOX[None] - 2]
        points = [CLICKS[None, :2].expand(2, -1, -1), torch.zeros(0, 1, 2), CLICKS[None]]
        labels = [LABELS[None, :2].expand(2, -1), torch.zeros(0, 1), LABELS[None]]
        outputs = model.decode(
            embedding, boxes=boxes, points=points, point_labels=labels, return_low_res=True
        )
        assert [type(output) for output in outputs] == [list] * 3
        assert [[len(image) for image in output] for output in outputs] == [[2, 0, 1]] * 3
        for i, n in ((0, 0), (0, 1), (2, 0)):
            alone = model.decode(
                image_of(embedding, i),
                boxes=boxes[i][None, n : n + 1],
                points=points[i][None, n : n + 1],
                point_labels=labels[i][None, n : n + 1],
                return_low_res=True,
            )
            for output, expected in zip(outputs, alone, strict=True):
                torch.testing.assert_close(output[i][n], expected[0, 0], **TOLERANCE)
        forwarded = model(images(3), boxes=boxes, points=points, point_labels=labels)
        torch.testing.assert_close(forwarded[0][2], outputs[0][2], **TOLERANCE)

    def test_masks_of_any_size(self, encoded) -> None:
        model, embedding = encoded
        sizes = [(16, 16), (40, 23), (64, 64)]
        masks = [torch.randn(1, *size, generator=torch.Generator().manual_seed(9)) for size in sizes]
        together, _ = model.decode(embedding, masks=masks)
        for i, mask in enumerate(masks):
            alone, _ = model.decode(image_of(embedding, i), masks=mask[None])
            torch.testing.assert_close(together[i], alone[0], **TOLERANCE)
        if model.mask_decoder.fine_head is None:  # SAM's only use of a mask is at 4 x the grid
            resized = F.interpolate(masks[1][None], (16, 16), mode="bilinear", align_corners=False)
            alone, _ = model.decode(image_of(embedding, 1), masks=resized)
            torch.testing.assert_close(together[1], alone[0], **TOLERANCE)

    def test_decode_equals_forward(self, encoded) -> None:
        model, embedding = encoded
        found = model(images(3), **every_kind(3), return_low_res=True)
        expected = model.decode(embedding, **every_kind(3), return_low_res=True)
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a, b)

    def test_prompts_at_half_precision(self, encoded) -> None:
        model, embedding = encoded
        found = model.decode(embedding, boxes=BOX.half().expand(3, 1, 4))[0]
        assert torch.equal(found, model.decode(embedding, boxes=BOX.expand(3, 1, 4))[0])

    def test_shapes(self, encoded) -> None:
        model, embedding = encoded
        boxes = BOX.expand(3, 2, 4)
        single = model.decode(embedding, boxes=boxes, return_low_res=True)
        assert [tuple(t.shape) for t in single] == [(3, 2, SIZE, SIZE), (3, 2), (3, 2, 16, 16)]
        three = model.decode(embedding, boxes=boxes, multimask_output=True, return_low_res=True)
        assert [tuple(t.shape) for t in three] == [(3, 2, 3, SIZE, SIZE), (3, 2, 3), (3, 2, 3, 16, 16)]
        assert [tuple(t.shape) for t in model.decode(embedding)] == [(3, 1, SIZE, SIZE), (3, 1)]
        assert tuple(model(images(2)).shape) == (2, 1, SIZE, SIZE)
        assert len(model(images(2), return_low_res=True)) == 3
        assert len(model(images(2), multimask_output=False)) == 2

    def test_low_resolution_shows_the_same_mask(self, encoded) -> None:
        model, embedding = encoded
        logits, _, low = model.decode(embedding, **every_kind(3), return_low_res=True)
        if model.mask_decoder.fine_head is None:
            expected = F.interpolate(low, (SIZE, SIZE), mode="bilinear", align_corners=False)
            torch.testing.assert_close(logits, expected, **TOLERANCE)
        else:
            fine = model.decode_tokens(embedding, **every_kind(3)).masks[:, 0, 0]
            assert fine.shape[-1] == 2 * low.shape[-1]
            torch.testing.assert_close(
                low[:, 0], fine.unflatten(2, (16, 2)).unflatten(1, (16, 2)).mean((2, 4))
            )

    def test_advice(self, encoded) -> None:
        """The best of three for a lone click; the single-mask token for everything else."""
        model, embedding = encoded
        tokens = model.decode_tokens(embedding, **every_kind(3))
        assert tokens.lone_click.tolist() == [[False, True, False, False, False, False]] * 3
        advised, scores = model.decode(embedding, **every_kind(3))
        single, single_scores = model.decode(embedding, **every_kind(3), multimask_output=False)
        three, three_scores = model.decode(embedding, **every_kind(3), multimask_output=True)
        others = [0, 2, 3, 4, 5]
        assert torch.equal(advised[:, others], single[:, others])
        assert torch.equal(scores[:, others], single_scores[:, others])
        best = three_scores[:, 1].argmax(dim=-1)
        assert torch.equal(advised[:, 1], three[torch.arange(3), 1, best])
        assert torch.equal(scores[:, 1], three_scores[torch.arange(3), 1, best])
        expected = tokens.iou
        if model.iou_from_mask:
            expected = 0.5 * (expected + expected_iou(tokens.masks))
        assert torch.equal(expected[:, :, 0], single_scores)
        assert torch.equal(expected[:, :, 1:], three_scores)

    def test_expected_iou(self) -> None:
        sure, none = torch.full((2, 4), 30.0), torch.full((2, 4), -30.0)
        level = torch.logit(torch.tensor([[0.8, 0.6, 0.2, 0.4]]))
        assert expected_iou(torch.stack([sure, none])).tolist() == pytest.approx([1, 0], abs=1e-6)
        assert expected_iou(level).item() == pytest.approx((0.8 + 0.6) / (2 + 0.2 + 0.4))
        assert not build("tiny_b").iou_from_mask and build("tiny_t").iou_from_mask

    def test_choice_among_the_tokens(self) -> None:
        """The single-mask token is never the best of three, however sure it is."""
        masks = torch.arange(8.0).reshape(1, 2, 4, 1, 1).expand(1, 2, 4, 5, 5)
        iou = torch.tensor([[[0.9, 0.1, 0.3, 0.2], [0.9, 0.1, 0.3, 0.2]]])
        tokens = DecodedTokens(masks, iou, torch.tensor([[True, False]]))
        chosen, scores = choose_masks(tokens, None)
        assert chosen[0, :, 0, 0].tolist() == [2, 4]
        torch.testing.assert_close(scores, torch.tensor([[0.3, 0.9]]))
        assert choose_masks(tokens, False)[0][0, :, 0, 0].tolist() == [0, 4]
        assert choose_masks(tokens, True)[0][0, :, :, 0, 0].tolist() == [[1, 2, 3], [5, 6, 7]]

    @pytest.mark.parametrize(
        ("prompts", "message"),
        [
            ({"boxes": torch.zeros(3, 0, 4)}, "hold no object: leave them out"),
            ({"boxes": [torch.zeros(0, 4)] * 3}, "hold no object: leave them out"),
            ({"boxes": torch.zeros(3, 4)}, r"boxes has shape \(3, 4\), \(B, N, 4\) is needed"),
            ({"boxes": torch.zeros(2, 1, 4)}, "but the embedding holds 3 images"),
            ({"boxes": torch.zeros(3, 1, 5)}, r"\(B, N, 4\) is needed"),
            ({"points": torch.zeros(3, 1, 1, 2)}, "points and point_labels belong together"),
            ({"point_labels": torch.zeros(3, 1, 1)}, "points and point_labels belong together"),
            (
                {"points": torch.zeros(3, 1, 2, 2), "point_labels": torch.zeros(3, 1, 1)},
                "points and point_labels do not match",
            ),
            (
                {"boxes": torch.zeros(3, 2, 4), "masks": torch.zeros(3, 1, 8, 8)},
                "different numbers of objects",
            ),
            ({"boxes": [torch.zeros(1, 4)] * 2}, "but the embedding holds 3 images"),
            (
                {"boxes": [torch.zeros(1, 4)] * 3, "masks": [torch.zeros(2, 8, 8)] * 3},
                "different numbers of images or objects",
            ),
            ({"masks": torch.tensor([0.0, NAN, 0, 0]).reshape(2, 2).expand(3, 1, 2, 2)}, "NaN among numbers"),
        ],
    )
    def test_what_does_not_fit_together(self, encoded, prompts: dict, message: str) -> None:
        model, embedding = encoded
        with pytest.raises(ValueError, match=message):
            model.decode(embedding, **prompts)
