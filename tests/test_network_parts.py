"""The network built with and without its parts: gradients for each toggle, TorchScript, sizes."""

from __future__ import annotations

import io
import logging

import pytest
import torch
from torch import Tensor

from lmsfe_sam import LMSFESAM
from lmsfe_sam.errors import InputError
from lmsfe_sam.model.presets import PRESETS
from network_cases import (
    BOX,
    MASK,
    TOLERANCE,
    build,
    every_kind,
    images,
)
from tiny import SIZE

pytestmark = pytest.mark.usefixtures("small_presets", "no_gradients")

TOGGLES = ("local_encoder", "mhpm", "adapters", "balancing_adapter")


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
