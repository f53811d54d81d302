"""The network as a whole: prompts of every kind and shape, gradients for each toggle, TorchScript."""

from __future__ import annotations

import io
import itertools
import logging
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lmsfe_sam import LMSFESAM, ImageEmbedding
from lmsfe_sam.errors import InputError
from lmsfe_sam.model.mask_decoder import DecodedTokens, choose_masks, expected_iou
from lmsfe_sam.model.presets import PRESETS
from sam_med2d import randomise
from tiny import SIZE, tiny_presets

NAN = float("nan")
TOLERANCE = {"atol": 1e-5, "rtol": 0.0}
TOGGLES = ("local_encoder", "mhpm", "adapters", "balancing_adapter")


@pytest.fixture(scope="module", autouse=True)
def _presets() -> Iterator[None]:
    with tiny_presets():
        yield


def build(preset: str, seed: int = 0, **toggles: bool) -> LMSFESAM:
    """A small network with random weights everywhere, also where they start at zero."""
    torch.manual_seed(seed)
    return randomise(LMSFESAM(preset, SIZE, **toggles), seed, gain=1.0).eval()


def images(count: int) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module", params=["tiny_b", "tiny_t"])
def encoded(request: pytest.FixtureRequest) -> tuple[LMSFESAM, ImageEmbedding]:
    model = build(request.param)
    with torch.no_grad():
        return model, model.encode(images(3))


@pytest.fixture(autouse=True)
def _no_gradients(request: pytest.FixtureRequest) -> Iterator[None]:
    with torch.set_grad_enabled("gradient" in request.node.name):
        yield


def image_of(embedding: ImageEmbedding, i: int) -> ImageEmbedding:
    return ImageEmbedding(embedding.features[i : i + 1], [skip[i : i + 1] for skip in embedding.skips])


BOX = torch.tensor([10.0, 12, 40, 50])
CLICKS = torch.tensor([[20.0, 22], [50.0, 9], [33.0, 44]])
LABELS = torch.tensor([1, 0, 1])
MASK = torch.randn(16, 16, generator=torch.Generator().manual_seed(8))


def every_kind(batch: int) -> dict[str, Tensor]:
    """Six objects an image: box, click, clicks, box and clicks, mask and box, nothing."""
    boxes = torch.full((6, 4), NAN)
    boxes[[0, 3, 4]] = BOX
    labels = torch.full((6, 3), -1)
    labels[1, 0] = 1
    labels[2] = LABELS
    labels[3, :2] = LABELS[:2]
    masks = torch.full((6, 16, 16), NAN)
    masks[4] = MASK
    prompts = {"boxes": boxes, "points": CLICKS.expand(6, -1, -1), "point_labels": labels, "masks": masks}
    return {name: value[None].expand(batch, *value.shape) for name, value in prompts.items()}


EACH_KIND = [
    {"boxes": BOX[None, None]},
    {"points": CLICKS[None, None, :1], "point_labels": LABELS[None, None, :1]},
    {"points": CLICKS[None, None], "point_labels": LABELS[None, None]},
    {"boxes": BOX[None, None], "points": CLICKS[None, None, :2], "point_labels": LABELS[None, None, :2]},
    {"boxes": BOX[None, None], "masks": MASK[None, None]},
    {},
]


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


class TestForwardAlone:
    def test_equals_decoding_without_a_prompt(self, encoded) -> None:
        model, embedding = encoded
        logits = model(images(3))
        assert isinstance(logits, Tensor)
        torch.testing.assert_close(logits, model.decode(embedding)[0], **TOLERANCE)

    @pytest.mark.parametrize(
        ("preset", "off"),
        [("tiny_b", ()), ("tiny_t", ()), ("tiny_b", TOGGLES), ("tiny_t", ("balancing_adapter", "adapters"))],
    )
    @pytest.mark.filterwarnings("ignore")
    def test_torch_script(self, preset: str, off: tuple[str, ...]) -> None:
        model = build(preset, **dict.fromkeys(off, False))
        expected = model(images(2))  # before: what is kept in evaluation must be no part of the program
        assert expected.std() > 1e-2
        scripted = torch.jit.script(model)
        torch.testing.assert_close(scripted(images(2)), expected, **TOLERANCE)
        buffer = io.BytesIO()
        torch.jit.save(scripted, buffer)
        buffer.seek(0)
        loaded = torch.jit.load(buffer)
        torch.testing.assert_close(loaded(images(2)[:1]), expected[:1], **TOLERANCE)

    def test_export(self, encoded) -> None:
        """torch.export, which ONNX's exporter builds on, does not stumble over what is kept."""
        model, _ = encoded
        expected = model(images(1))
        program = torch.export.export(model, (images(1),))
        torch.testing.assert_close(program.module()(images(1)), expected, **TOLERANCE)

    def test_mixed_precision(self, encoded) -> None:
        model, _ = encoded
        with torch.autocast("cpu", dtype=torch.bfloat16):
            alone = model(images(1))
            prompted, _ = model(images(1), **every_kind(1))
        assert alone.isfinite().all()
        assert prompted.isfinite().all()
        reference, _ = model(images(1), **every_kind(1))
        assert (prompted - reference).abs().mean() < 0.1 * reference.abs().mean() + 0.1 * reference.std()


TABLE_5 = {
    "Baseline": (False, False, False, False),
    "Ablation 1": (False, False, True, False),
    "Ablation 2": (True, False, False, False),
    "Ablation 3": (True, False, False, True),
    "Ablation 4": (True, True, False, True),
    "LMSFE-SAM": (True, True, True, True),
    "without MHPM": (True, False, True, True),
    "without CBA": (True, True, True, False),
}


class TestGradients:
    @pytest.mark.parametrize("preset", ["tiny_b", "tiny_t"])
    @pytest.mark.parametrize("row", TABLE_5)
    def test_gradient_reaches_what_trains_and_nothing_else(self, preset: str, row: str) -> None:
        model = build(preset, **dict(zip(TOGGLES, TABLE_5[row], strict=True))).train()
        tokens = model.decode_tokens(model.encode(images(2)), **every_kind(2))
        generator = torch.Generator().manual_seed(3)
        loss = torch.zeros(())
        for output in (tokens.masks, tokens.iou):
            loss = loss + (output * torch.randn(output.shape, generator=generator)).sum()
        loss.backward()
        trained = 0
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                assert parameter.grad is None, name
                continue
            trained += 1
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            # A bias of the keys shifts all logits of a softmax alike: its derivative is zero.
            assert parameter.grad.abs().sum() > 0 or name.endswith("k_proj.bias"), name
        assert trained > 100
        assert (preset == "tiny_t") == all(p.requires_grad for p in model.parameters())

    def test_gradient_of_each_mask_token(self) -> None:
        """Every token has weights of its own, which a loss on its mask alone trains."""
        model = build("tiny_b")
        tokens = model.decode_tokens(model.encode(images(1)), boxes=BOX[None, None])
        for i in range(4):
            gradients = torch.autograd.grad(
                tokens.masks[0, 0, i].square().sum(),
                [mlp.layers[0].weight for mlp in model.mask_decoder.output_hypernetworks_mlps],
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            assert [bool(g.abs().sum() > 0) for g in gradients] == [j == i for j in range(4)]

    def test_gradient_to_the_prompting_mask(self) -> None:
        """Iterative training may want to go through the earlier round."""
        model = build("tiny_t")
        mask = MASK[None, None].clone().requires_grad_(True)
        model.decode(model.encode(images(1)), masks=mask)[0].sum().backward()
        assert mask.grad.abs().sum() > 0


class TestConstruction:
    def test_unknown_preset(self) -> None:
        with pytest.raises(InputError, match=r"preset 'vit_x' is unknown: choose one of .*vit_b.*vit_t"):
            LMSFESAM("vit_x")

    @pytest.mark.parametrize("size", [0, -16, 250, 256.0, "256", True])
    def test_impossible_image_size(self, size: object) -> None:
        with pytest.raises(InputError, match="is not possible: give a multiple of 16"):
            LMSFESAM("tiny_t", size)

    @pytest.mark.parametrize(
        "shape", [(3, SIZE, SIZE), (1, 1, SIZE, SIZE), (1, 3, SIZE, 2 * SIZE), (1, 3, 32, 32)]
    )
    def test_image_of_another_shape(self, encoded, shape: tuple[int, ...]) -> None:
        model, _ = encoded
        with pytest.raises(ValueError, match=r"is needed"):
            model.encode(torch.zeros(shape))

    def test_toggles_without_the_local_encoder(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            model = LMSFESAM("tiny_t", SIZE, local_encoder=False)
        assert [record.message for record in caplog.records] == [
            "mhpm and balancing_adapter have no effect without local_encoder."
        ]
        plain = LMSFESAM("tiny_t", SIZE, local_encoder=False, mhpm=False, balancing_adapter=False)
        assert set(model.state_dict()) == set(plain.state_dict())

    def test_description_builds_it_again(self) -> None:
        model = LMSFESAM("tiny_b", 96, mhpm=False, position_norm="instance", position_mode="replace")
        again = LMSFESAM(**model.describe())
        assert again.describe() == model.describe()
        shapes = [{name: t.shape for name, t in m.state_dict().items()} for m in (model, again)]
        assert shapes[0] == shapes[1]

    @pytest.mark.parametrize("preset", ["tiny_b", "tiny_t"])
    @pytest.mark.parametrize("size", [16, 80, 128])
    def test_other_sizes(self, preset: str, size: int) -> None:
        model = LMSFESAM(preset, size).eval()
        embedding = model.encode(torch.randn(1, 3, size, size))
        logits, _, low = model.decode(embedding, boxes=BOX[None, None], return_low_res=True)
        assert (logits.shape[-1], low.shape[-1]) == (size, size // 4)

    def test_vit_t_is_small(self) -> None:
        with torch.device("meta"):
            model = LMSFESAM()
        assert model.preset == "vit_t"
        assert sum(p.numel() for p in model.parameters()) <= 6_000_000
        assert all(model.toggles.values())

    def test_larger_vits_are_table_rows(self) -> None:
        with torch.device("meta"):
            counts = {}
            for preset in ("vit_b", "vit_l", "vit_h"):
                model = LMSFESAM(preset, 1024, **dict.fromkeys(TOGGLES, False))
                counts[preset] = sum(p.numel() for p in model.parameters())
        # segment_anything's own counts.
        assert counts == {"vit_b": 93_735_472, "vit_l": 312_342_832, "vit_h": 641_090_608}
        assert set(counts) < set(PRESETS)
