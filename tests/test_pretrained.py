"""Weights of SAM, SAM-Med2D and MedSAM: their formats, and what a network computes that started from them."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import re
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from segment_anything import sam_model_registry
from torch import Tensor, nn

from conftest import ROOT
from lmsfe_sam import LMSFESAM
from lmsfe_sam.model.checkpoints import save_weights
from lmsfe_sam.model.presets import PRESETS
from lmsfe_sam.model.weights.pretrained import load_pretrained, read_state, resize_table
from sam_med2d import build_sam, randomise
from tiny import SIZE, TINY

pytestmark = pytest.mark.usefixtures("small_presets")

OFF = dict.fromkeys(("local_encoder", "mhpm", "adapters", "balancing_adapter"), False)
BOX = torch.tensor([[[10.0, 12, 40, 50]]])


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def medical_file(path: Path, module: nn.Module, optimizer: str = "Adam") -> Path:
    """Write what SAM-Med2D's training writes: the state dict, and the optimizer as an object."""
    kind = getattr(torch.optim, optimizer)
    parameters = [p for name, p in module.named_parameters() if "Adapter" in name]
    used = kind(parameters, lr=1e-4)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter) * 1e-3
    saved = copy.deepcopy(module.state_dict())
    used.step()
    assert isinstance(used.state, defaultdict)
    assert used.state
    torch.save({"model": saved, "optimizer": used}, path)
    return path


class TestFormats:
    def test_sam_and_medsam(self, tmp_path: Path) -> None:
        """Both are bare state dicts at 1024; here 64 x 64 tokens become 4 x 4."""
        sam = randomise(build_sam(TINY["tiny_b"], 1024), 0)
        torch.save(sam.state_dict(), tmp_path / "medsam.pth")
        model = LMSFESAM("tiny_b", SIZE, **OFF)
        report = model.load_pretrained(tmp_path / "medsam.pth")
        tables = [f"image_encoder.blocks.{i}.attn.rel_pos_{axis}" for i in (1, 3) for axis in "hw"]
        assert report.format == "sam"
        assert sorted(report.resized) == sorted(["image_encoder.pos_embed", *tables])
        assert sorted(report.loaded + report.resized) == sorted(model.state_dict())
        assert report.new == report.unused == []
        loaded, original = model.state_dict(), sam.state_dict()
        assert all(torch.equal(loaded[name], original[name]) for name in report.loaded)
        assert "5 resized, 0 new, 0 unused" in str(report)
        assert "resized: image_encoder.pos_embed, " in str(report)

    @pytest.mark.parametrize("optimizer", ["Adam", "AdamW"])
    @pytest.mark.parametrize("legacy", [False, True])
    def test_sam_med2d_with_its_optimizer(self, tmp_path: Path, optimizer: str, legacy: bool) -> None:
        plain = randomise(build_sam(TINY["tiny_b"], SIZE, med2d=True), 0)
        path = medical_file(tmp_path / "sam-med2d_b.pth", plain, optimizer)
        if legacy:
            content = torch.load(path, weights_only=False)
            torch.save(content, path, _use_new_zipfile_serialization=False)
        with pytest.raises(pickle.UnpicklingError):
            torch.load(path, weights_only=True)
        state, expected = read_state(path), medical_state(path)
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
        report = LMSFESAM("tiny_b", SIZE).load_pretrained(path)
        assert report.format == "sam-med2d"
        assert report.resized == ["image_encoder.position_adapter.source"]

    def test_data_parallel_prefix(self, tmp_path: Path, image: Tensor) -> None:
        sam = randomise(build_sam(TINY["tiny_b"], SIZE), 0)
        torch.save(
            {f"module.{name}": tensor for name, tensor in sam.state_dict().items()}, tmp_path / "sam.pth"
        )
        model = LMSFESAM("tiny_b", SIZE, **OFF).eval()
        model.load_pretrained(tmp_path / "sam.pth")
        with torch.no_grad():
            torch.testing.assert_close(model.encode(image).features, sam.image_encoder(image))

    def test_our_own(self, tmp_path: Path) -> None:
        model = randomise(LMSFESAM("tiny_t", SIZE), 0)
        save_weights(model, tmp_path / "model.pt")
        report = load_pretrained(LMSFESAM("tiny_t", SIZE), tmp_path / "model.pt")
        assert report.format == "lmsfe_sam"
        assert report.resized == report.new == report.unused == []
        smaller = load_pretrained(LMSFESAM("tiny_t", 48), tmp_path / "model.pt")
        assert "image_encoder.pos_embed" in smaller.resized
        assert not any("source" in name for name in smaller.resized)

    def test_parameters_saved_as_they_are(self, tmp_path: Path) -> None:
        """Older files pickle Parameters, which carry hooks in an OrderedDict."""
        sam = build_sam(TINY["tiny_b"], SIZE)
        everything = dict(sam.named_parameters()) | dict(sam.named_buffers())
        state = {name: everything[name] for name in sam.state_dict()}
        torch.save(state, tmp_path / "sam.pth", _use_new_zipfile_serialization=False)
        LMSFESAM("tiny_b", SIZE, **OFF).load_pretrained(tmp_path / "sam.pth")

    def test_half_precision(self, tmp_path: Path) -> None:
        model = randomise(LMSFESAM("tiny_t", SIZE), 0)
        torch.save(
            {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()},
            tmp_path / "h.pt",
        )
        other = LMSFESAM("tiny_t", SIZE)
        load_pretrained(other, tmp_path / "h.pt")
        assert other.image_encoder.pos_embed.dtype == torch.float32
        torch.testing.assert_close(
            other.image_encoder.pos_embed, model.image_encoder.pos_embed, atol=1e-3, rtol=1e-2
        )


def medical_state(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=False)["model"]


class TestStepZero:
    """Before training, our parts add nothing to a loaded network."""

    def logits(self, model: LMSFESAM, image: Tensor) -> list[Tensor]:
        with torch.no_grad():
            embedding = model.eval().encode(image)
            points, labels = torch.full((2, 1, 1, 2), 30.0), torch.ones(2, 1, 1)
            masks = torch.ones(2, 1, 16, 16)
            return [
                embedding.features,
                *model.decode(embedding, boxes=BOX.expand(2, 1, 4)),
                *model.decode(embedding, points=points, point_labels=labels, multimask_output=True),
                *model.decode(embedding, boxes=BOX.expand(2, 1, 4), masks=masks),
                model(image),
            ]

    @pytest.mark.parametrize("norm", ["layer", "instance"])
    @pytest.mark.parametrize("balancing", [True, False])
    def test_sam(self, tmp_path: Path, image: Tensor, norm: str, balancing: bool) -> None:
        sam = randomise(build_sam(TINY["tiny_b"], 1024), 0)
        torch.save(sam.state_dict(), tmp_path / "sam.pth")
        plain = LMSFESAM("tiny_b", SIZE, **OFF)
        plain.load_pretrained(tmp_path / "sam.pth")
        full = LMSFESAM("tiny_b", SIZE, position_norm=norm, balancing_adapter=balancing)
        report = full.load_pretrained(tmp_path / "sam.pth")
        assert report.new
        assert set(report.new) == {k for k in full.state_dict() if k not in plain.state_dict()} - {
            "image_encoder.position_adapter.source"
        }
        for found, expected in zip(self.logits(full, image), self.logits(plain, image), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
        for found, expected in zip(self.logits(full.train(), image), self.logits(plain, image), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)

    def test_sam_med2d(self, tmp_path: Path, image: Tensor) -> None:
        plain = randomise(build_sam(TINY["tiny_b"], SIZE, med2d=True), 0)
        path = medical_file(tmp_path / "sam-med2d_b.pth", plain)
        plain.load_state_dict(medical_state(path))
        full = LMSFESAM("tiny_b", SIZE)
        full.load_pretrained(path)
        with torch.no_grad():
            features = plain.image_encoder(image)
            assert features.std() > 0.1
            torch.testing.assert_close(full.eval().encode(image).features, features, atol=1e-4, rtol=0)
            sparse, dense = plain.prompt_encoder(None, BOX[0], None)
            positions = plain.prompt_encoder.get_dense_pe()
            low, iou = plain.mask_decoder(features[:1], positions, sparse, dense, multimask_output=False)
            _, our_iou, our_low = full.decode(full.encode(image[:1]), boxes=BOX, return_low_res=True)
        torch.testing.assert_close(our_low, low, atol=1e-4, rtol=0)
        torch.testing.assert_close(our_iou, iou, atol=1e-4, rtol=0)

    def test_adapters_alone_are_sam_med2d_too(self, tmp_path: Path, image: Tensor) -> None:
        plain = randomise(build_sam(TINY["tiny_b"], SIZE, med2d=True), 0)
        torch.save({"model": plain.state_dict()}, tmp_path / "med2d.pth")
        ours = LMSFESAM("tiny_b", SIZE, **{**OFF, "adapters": True}).eval()
        ours.load_pretrained(tmp_path / "med2d.pth")
        with torch.no_grad():
            torch.testing.assert_close(
                ours.encode(image).features, plain.image_encoder(image), atol=1e-4, rtol=0
            )

    def test_position_source_is_the_files_own_table(self, tmp_path: Path) -> None:
        """SAM's 64 x 64 as it is; SAM-Med2D's 16 x 16 (here 4 x 4) upsampled; frozen in both."""
        sam = randomise(build_sam(dataclasses.replace(TINY["tiny_b"], position_source=64), 1024), 0)
        torch.save(sam.state_dict(), tmp_path / "sam.pth")
        PRESETS["tiny_b64"] = dataclasses.replace(TINY["tiny_b"], position_source=64)
        try:
            model = LMSFESAM("tiny_b64", SIZE)
        finally:
            del PRESETS["tiny_b64"]
        report = model.load_pretrained(tmp_path / "sam.pth")
        source = model.image_encoder.position_adapter.source
        assert "image_encoder.position_adapter.source" in report.loaded
        assert torch.equal(source, sam.image_encoder.pos_embed)
        assert not source.requires_grad
        med2d = randomise(build_sam(TINY["tiny_b"], SIZE, med2d=True), 0)
        torch.save({"model": med2d.state_dict()}, tmp_path / "med2d.pth")
        model = LMSFESAM("tiny_b", SIZE)
        assert (
            "image_encoder.position_adapter.source" in model.load_pretrained(tmp_path / "med2d.pth").resized
        )
        source = model.image_encoder.position_adapter.source
        assert source.shape == (1, 8, 8, 32)
        assert torch.equal(source, resize_table(med2d.image_encoder.pos_embed, source.shape))


def keys(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a key list: name, tab, shape, tab, type."""
    lines = [line.split("\t") for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {name: tuple(int(n) for n in re.findall(r"\d+", shape)) for name, shape, *_ in lines}


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.fixture
def design() -> Path:
    folder = ROOT.parent / "shared" / "design"
    if not folder.is_dir():
        pytest.skip(f"key lists of the published files are not at {folder}")
    return folder


class TestKeyLists:
    def test_sam(self, design: Path) -> None:
        with torch.device("meta"):
            ours, plain = LMSFESAM("vit_b", 1024, **OFF), build_sam(PRESETS["vit_b"], 1024)
        listed = keys(design / "sam_vit_b_keys.txt")
        assert len(listed) > 300
        assert shapes(plain) == listed
        assert shapes(ours) == listed

    def test_sam_med2d(self, design: Path) -> None:
        with torch.device("meta"):
            plain, ours = build_sam(PRESETS["vit_b"], 256, med2d=True), LMSFESAM("vit_b")
        listed = keys(design / "sam_med2d_keys.txt")
        assert len(listed) == 386
        assert shapes(plain) == listed
        renamed = {name.replace(".Adapter.", ".channel_spatial_adapter."): s for name, s in listed.items()}
        assert renamed.items() <= shapes(ours).items()

    @pytest.mark.parametrize("preset", ["vit_b", "vit_l", "vit_h"])
    def test_segment_anything(self, preset: str) -> None:
        with torch.device("meta"):
            plain = sam_model_registry[preset]()
            ours = LMSFESAM(preset, 1024, **OFF)
        assert shapes(ours) == shapes(plain)


class TestTables:
    def test_grid(self) -> None:
        table = torch.arange(16.0).reshape(1, 4, 4, 1).expand(1, 4, 4, 2)
        half = resize_table(table, torch.Size((1, 2, 2, 2)))
        assert half[0, :, :, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]

    def test_as_segment_anything_resizes_relative_positions(self) -> None:
        from segment_anything.modeling.image_encoder import get_rel_pos

        table = torch.randn(127, 8, generator=torch.Generator().manual_seed(0))
        resized = resize_table(table, torch.Size((31, 8)))
        expected = get_rel_pos(16, 16, table)
        offsets = torch.arange(16)[:, None] - torch.arange(16)[None] + 15
        torch.testing.assert_close(resized[offsets], expected)

    def test_same_size_is_left_alone(self) -> None:
        table = torch.randn(1, 4, 4, 3)
        torch.testing.assert_close(resize_table(table, table.shape), table, atol=1e-6, rtol=0)
