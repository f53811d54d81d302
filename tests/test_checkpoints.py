"""Reading every format without running it, the report, the errors, and what a loaded network computes."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import json
import pickle
import re
import struct
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.utils import copy_model_state
from segment_anything import sam_model_registry
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from conftest import ROOT
from lmsfe_sam import LMSFESAM, __version__
from lmsfe_sam.errors import InputError
from lmsfe_sam.model.checkpoints import load_weights, network_from_checkpoint, read_description, save_weights
from lmsfe_sam.model.presets import PRESETS
from lmsfe_sam.model.pretrained import load_pretrained, read_state, resize_table
from lmsfe_sam.model.weight_checks import sha256
from sam_med2d import build_sam, randomise
from tiny import SIZE, TINY, tiny_presets

OFF = dict.fromkeys(("local_encoder", "mhpm", "adapters", "balancing_adapter"), False)
BOX = torch.tensor([[[10.0, 12, 40, 50]]])


@pytest.fixture(scope="module", autouse=True)
def _presets() -> Iterator[None]:
    with tiny_presets():
        yield


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


class Malicious:
    """Creates a file when it is unpickled by the book."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


class MaliciousThroughTorch(Malicious):
    """The same by way of a function that unpickles bytes, which lives inside torch."""

    def __reduce__(self) -> tuple[Any, ...]:
        buffer = io.BytesIO()
        torch.save(Malicious(self.trace), buffer)
        return torch.storage._load_from_bytes, (buffer.getvalue(),)


class MaliciousEval(Malicious):
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"open({str(self.trace)!r}, 'w').close()",)


class MaliciousOptimizer(Malicious):
    """Hides in a module that the loader knows to replace, under a dotted name."""

    def __reduce__(self) -> tuple[Any, ...]:
        return torch.optim.Adam, (Malicious(self.trace),)


class TestMaliciousPickles:
    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    @pytest.mark.parametrize("kind", [Malicious, MaliciousThroughTorch, MaliciousEval, MaliciousOptimizer])
    @pytest.mark.parametrize("where", ["alone", "in a state dict", "as optimizer"])
    @pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle"])
    def test_refused_and_not_run(self, tmp_path: Path, kind: type[Malicious], where: str, form: str) -> None:
        trace, path = tmp_path / "trace", tmp_path / "model.pth"
        attack = kind(trace)
        state: dict[str, Any] = dict(build_sam(TINY["tiny_b"], SIZE).state_dict())
        content = {
            "alone": attack,
            "in a state dict": {**state, "image_encoder.pos_embed": attack},
            "as optimizer": {"model": state, "optimizer": attack},
        }[where]
        if form == "bare pickle":
            path.write_bytes(pickle.dumps(attack))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
        with pytest.raises(InputError, match=r"would run '[\w.]+' while it loads|cannot be read") as caught:
            LMSFESAM("tiny_b", SIZE, **OFF).load_pretrained(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
        assert not trace.exists()
        if form != "bare pickle":  # proof that the file would have done it
            with contextlib.suppress(TypeError):
                torch.load(path, weights_only=False)
            assert trace.exists()

    def test_message_names_what_was_asked_for(self, tmp_path: Path) -> None:
        torch.save({"model": {}, "optimizer": MaliciousEval(tmp_path / "trace")}, tmp_path / "model.pth")
        with pytest.raises(InputError, match=r"would run '__builtin__\.eval'"):
            read_state(tmp_path / "model.pth")

    @pytest.mark.parametrize(
        "name",
        ["torch.optim.optimizer.os.system", "torch.optim.os", "torch.hub.load", "torch.load", "os.system"],
    )
    def test_nothing_known_to_torch_is_fetched_by_name(self, tmp_path: Path, name: str) -> None:
        """Protocol 4 looks dotted names up inside a module: none may lead out of the stand-ins."""
        module, _, function = name.rpartition(".")
        if name.startswith("torch.optim.optimizer"):
            module, function = "torch.optim.optimizer", "os.system"
        trace = tmp_path / "trace"

        def text(value: str) -> bytes:
            return b"\x8c" + struct.pack("<B", len(value)) + value.encode()

        command = text(f"touch {trace}")
        body = b"\x80\x04" + text(module) + text(function) + b"\x93" + command + b"\x85R."
        path = tmp_path / "model.pth"
        torch.save({}, path)
        with zipfile.ZipFile(path) as archive:
            members = {item: archive.read(item) for item in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for item, data in members.items():
                archive.writestr(item, body if item.endswith("data.pkl") else data)
        with pytest.raises(InputError):
            read_state(path)
        assert not trace.exists()

    @pytest.mark.filterwarnings("ignore")
    def test_torch_script_is_not_run(self, tmp_path: Path) -> None:
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "model.pt")
        with pytest.raises(InputError, match=r"is a TorchScript program.*give the file of weights"):
            read_state(tmp_path / "model.pt")


class TestDamagedAndWrongFiles:
    def model(self) -> LMSFESAM:
        return LMSFESAM("tiny_b", SIZE, **OFF)

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"nothing\.pth' does not exist: give the path of a"):
            self.model().load_pretrained(tmp_path / "nothing.pth")
        with pytest.raises(InputError, match=r"' does not exist"):
            self.model().load_pretrained(tmp_path)

    @pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.98])
    @pytest.mark.parametrize("legacy", [False, True])
    def test_truncated(self, tmp_path: Path, keep: float, legacy: bool) -> None:
        path = tmp_path / "sam.pth"
        torch.save(
            build_sam(TINY["tiny_b"], SIZE).state_dict(), path, _use_new_zipfile_serialization=not legacy
        )
        data = path.read_bytes()
        path.write_bytes(data[: int(keep * len(data))])
        with pytest.raises(
            InputError, match=r"cannot be read \(.*\): it is damaged or no PyTorch checkpoint"
        ):
            self.model().load_pretrained(path)

    @pytest.mark.parametrize(
        "content", [b"<html>404: Not Found</html>\n", b"\x89PNG\r\n\x1a\n" + bytes(99), b"\0" * 999]
    )
    def test_no_checkpoint(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "sam_vit_b.pth"
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read") as caught:
            self.model().load_pretrained(path)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "content",
        [{}, [], torch.zeros(3), {"epoch": 3}, {"model": {}}, {1: torch.zeros(1)}, {"model": {"a": "b"}}],
        ids=str,
    )
    def test_no_state_dict(self, tmp_path: Path, content: object) -> None:
        torch.save(content, tmp_path / "model.pth")
        with pytest.raises(InputError, match=r"is not a state dict: save the network's state_dict\(\)"):
            self.model().load_pretrained(tmp_path / "model.pth")

    def test_wrong_preset(self, tmp_path: Path) -> None:
        torch.save(build_sam(TINY["tiny_b"], SIZE).state_dict(), tmp_path / "sam.pth")
        before = LMSFESAM("tiny_t", SIZE)
        state = copy.deepcopy(before.state_dict())
        with pytest.raises(InputError, match=r"preset 'tiny_t'.*name the (right )?network"):
            before.load_pretrained(tmp_path / "sam.pth")
        assert all(torch.equal(before.state_dict()[name], tensor) for name, tensor in state.items())
        wide = dataclasses.replace(TINY["tiny_b"], embed_dim=48)
        torch.save(build_sam(wide, SIZE).state_dict(), tmp_path / "wide.pth")
        with pytest.raises(
            InputError, match=r"proj.weight has shape \(48, 3, 16, 16\) where \(32, 3, 16, 16\)"
        ):
            self.model().load_pretrained(tmp_path / "wide.pth")

    def test_leftovers_are_an_error_by_name(self, tmp_path: Path) -> None:
        state = build_sam(TINY["tiny_b"], SIZE).state_dict()
        torch.save({**state, "image_encoder.extra.weight": torch.zeros(2)}, tmp_path / "sam.pth")
        with pytest.raises(
            InputError, match=r"holds 1 tensors .* no place for \(image_encoder\.extra\.weight\)"
        ):
            self.model().load_pretrained(tmp_path / "sam.pth")

    def test_adapters_without_a_place_are_left_out(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        state = build_sam(TINY["tiny_b"], SIZE, med2d=True).state_dict()
        torch.save({"model": state}, tmp_path / "med2d.pth")
        report = self.model().load_pretrained(tmp_path / "med2d.pth")
        assert report.left_out == [name for name in state if ".Adapter." in name]
        assert "24 left out" in caplog.text

    @pytest.mark.parametrize(
        "lost", ["mask_decoder.iou_token.weight", "image_encoder.blocks.2.attn.rel_pos_h"]
    )
    def test_a_head_is_never_made_up(self, tmp_path: Path, lost: str) -> None:
        state = build_sam(TINY["tiny_b"], SIZE).state_dict()
        del state[lost]
        torch.save(state, tmp_path / "sam.pth")
        for model in (self.model(), LMSFESAM("tiny_b", SIZE)):
            with pytest.raises(
                InputError, match=rf"lacks 1 tensors of preset 'tiny_b' \({re.escape(lost)}\)"
            ):
                model.load_pretrained(tmp_path / "sam.pth")

    def test_own_file_that_lacks_a_part(self, tmp_path: Path) -> None:
        save_weights(LMSFESAM("tiny_t", SIZE, balancing_adapter=False), tmp_path / "model.pt")
        with pytest.raises(InputError, match=r"lacks \d+ tensors .*balancing_adapter"):
            LMSFESAM("tiny_t", SIZE).load_pretrained(tmp_path / "model.pt")


class TestOwnFiles:
    @pytest.mark.parametrize("preset", ["tiny_b", "tiny_t"])
    def test_round_trip(self, tmp_path: Path, image: Tensor, preset: str) -> None:
        model = randomise(LMSFESAM(preset, SIZE, mhpm=False, position_norm="instance"), 0).eval()
        save_weights(model, tmp_path / "run" / "model.pt")
        loaded = network_from_checkpoint(tmp_path / "run" / "model.pt")
        assert not loaded.training
        assert loaded.describe() == model.describe()
        assert loaded.state_dict().keys() == model.state_dict().keys()
        assert all(torch.equal(loaded.state_dict()[name], t) for name, t in model.state_dict().items())
        with torch.no_grad():
            assert torch.equal(loaded(image), model(image))

    def test_the_two_files(self, tmp_path: Path) -> None:
        model = LMSFESAM("tiny_t", SIZE, mhpm=False)
        save_weights(model, tmp_path / "model.pt")
        assert sorted(file.name for file in tmp_path.iterdir()) == ["model.json", "model.pt"]
        state = torch.load(tmp_path / "model.pt", weights_only=True)
        assert all(isinstance(tensor, Tensor) for tensor in state.values())
        assert state.keys() == model.state_dict().keys()
        assert json.loads((tmp_path / "model.json").read_text()) == {
            "preset": "tiny_t",
            "image_size": SIZE,
            "local_encoder": True,
            "mhpm": False,
            "adapters": True,
            "balancing_adapter": True,
            "position_norm": "layer",
            "position_mode": "add",
            "backbone": "plain",
            "normalisation": {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]},
            "version": __version__,
        }

    def test_default_preset_makes_a_small_file(self, tmp_path: Path) -> None:
        save_weights(LMSFESAM(), tmp_path / "model.pt")
        assert (tmp_path / "model.pt").stat().st_size < 25e6

    def test_shared_storage_is_not_saved_whole(self, tmp_path: Path) -> None:
        model = LMSFESAM("tiny_t", SIZE)
        whole = torch.zeros(1_000_000)
        model.image_encoder.pos_embed.data = whole[: 16 * 32].reshape(1, 4, 4, 32)
        save_weights(model, tmp_path / "model.pt")
        assert (tmp_path / "model.pt").stat().st_size < 1_500_000

    @pytest.mark.parametrize(
        "off", [(), ("local_encoder",), ("mhpm",), ("adapters",), ("balancing_adapter",)]
    )
    @pytest.mark.parametrize("mode", ["add", "replace"])
    def test_missing_sidecar(self, tmp_path: Path, off: tuple[str, ...], mode: str) -> None:
        """Names and shapes tell what the network is, as far as they differ."""
        toggles = dict.fromkeys(off, False)
        if off == ("local_encoder",):
            toggles |= {"mhpm": False, "balancing_adapter": False}
        if off == ("adapters",) and mode == "replace":
            pytest.skip("no position adapter, no mode")
        model = LMSFESAM("tiny_t", 96, position_mode=mode, **toggles)
        save_weights(model, tmp_path / "model.pt")
        (tmp_path / "model.json").unlink()
        assert network_from_checkpoint(tmp_path / "model.pt").describe() == model.describe()

    def test_contradicting_preset(self, tmp_path: Path) -> None:
        path = tmp_path / "model.pt"
        save_weights(LMSFESAM("tiny_t", SIZE), path)
        assert network_from_checkpoint(path, preset="tiny_t").preset == "tiny_t"
        with pytest.raises(
            InputError, match=r"preset 'vit_b' contradicts checkpoint .*, which holds 'tiny_t'"
        ):
            network_from_checkpoint(path, preset="vit_b")
        (tmp_path / "model.json").unlink()
        with pytest.raises(InputError, match="preset 'vit_b' contradicts"):
            read_description(path, preset="vit_b")

    @pytest.mark.parametrize("content", ["", "{", "[1, 2]", "{}", '{"image_size": 256}', "null"])
    def test_damaged_sidecar(self, tmp_path: Path, content: str) -> None:
        save_weights(LMSFESAM("tiny_t", SIZE), tmp_path / "model.pt")
        (tmp_path / "model.json").write_text(content)
        with pytest.raises(
            InputError, match=r"model\.json' (is not JSON|names no preset).*restore it or remove it"
        ):
            network_from_checkpoint(tmp_path / "model.pt")

    def test_sidecar_of_another_network(self, tmp_path: Path) -> None:
        save_weights(LMSFESAM("tiny_t", SIZE), tmp_path / "model.pt")
        description = json.loads((tmp_path / "model.json").read_text())
        (tmp_path / "model.json").write_text(json.dumps({**description, "image_size": 48}))
        with pytest.raises(InputError, match="does not fit preset 'tiny_t' at 48 pixels"):
            network_from_checkpoint(tmp_path / "model.pt")
        (tmp_path / "model.json").write_text(json.dumps({**description, "preset": "vit_x"}))
        with pytest.raises(InputError, match="preset 'vit_x' is unknown"):
            network_from_checkpoint(tmp_path / "model.pt")

    def test_not_one_of_ours(self, tmp_path: Path) -> None:
        torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "unet.pt")
        with pytest.raises(InputError, match="holds none of this project's networks"):
            network_from_checkpoint(tmp_path / "unet.pt")
        with pytest.raises(InputError, match=r"does not exist: train one or give the path"):
            network_from_checkpoint(tmp_path / "missing.pt")

    def test_weights_must_fit_exactly(self, tmp_path: Path) -> None:
        """`load_weights` resizes nothing and leaves nothing new: that is for start weights."""
        torch.save(build_sam(TINY["tiny_b"], 2 * SIZE).state_dict(), tmp_path / "sam.pt")
        with pytest.raises(InputError, match=r"does not fit preset 'tiny_b' at 64 pixels.*--pretrained"):
            load_weights(LMSFESAM("tiny_b", SIZE, **OFF), tmp_path / "sam.pt")
        torch.save(build_sam(TINY["tiny_b"], SIZE).state_dict(), tmp_path / "same.pt")
        with pytest.raises(InputError, match="does not fit"):
            load_weights(LMSFESAM("tiny_b", SIZE), tmp_path / "same.pt")
        load_weights(LMSFESAM("tiny_b", SIZE, **OFF), tmp_path / "same.pt")

    def test_interrupted_writing_leaves_the_old_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "model.pt"
        save_weights(LMSFESAM("tiny_t", SIZE), path)
        before = sha256(path)

        def full_disk(target: Path, content: bytes) -> None:
            with target.open("wb") as file:
                file.write(content[:100])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full_disk)
        with pytest.raises(InputError, match=r"model\.pt' could not be written \(No space left on device\)"):
            save_weights(LMSFESAM("tiny_t", SIZE), path)
        assert sha256(path) == before
        assert sorted(file.name for file in tmp_path.iterdir()) == ["model.json", "model.pt"]

    def test_sha256(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"abc")
        assert sha256(tmp_path / "file").startswith("ba7816bf8f01cfea")


class TestDescriptions:
    def test_a_preset_alone_means_the_defaults(self, tmp_path: Path) -> None:
        save_weights(LMSFESAM("tiny_t", 256), tmp_path / "model.pt")
        (tmp_path / "model.json").write_text('{"preset": "tiny_t"}')
        description = read_description(tmp_path / "model.pt")
        assert description["image_size"] == 256 and description["mhpm"] is True
        assert network_from_checkpoint(tmp_path / "model.pt").toggles["adapters"] is True

    @pytest.mark.parametrize(
        ("entry", "words"),
        [
            ({"local_encoder": "no"}, "local_encoder 'no'"),
            ({"image_size": 160000000}, "image_size 160000000"),
            ({"image_size": 100}, "image_size 100"),
            ({"preset": ["vit_t"]}, r"preset \['vit_t'\]"),
            ({"position_norm": "batch"}, "position_norm 'batch'"),
        ],
    )
    def test_nonsense_is_refused_before_a_network_is_built(
        self, entry: dict[str, Any], words: str, tmp_path: Path
    ) -> None:
        save_weights(LMSFESAM("tiny_t", SIZE), tmp_path / "model.pt")
        (tmp_path / "model.json").write_text(json.dumps({"preset": "tiny_t", **entry}))
        with pytest.raises(InputError, match=f"model.json' has {words}"):
            network_from_checkpoint(tmp_path / "model.pt")

    def test_bottomless_nesting(self, tmp_path: Path) -> None:
        save_weights(LMSFESAM("tiny_t", SIZE), tmp_path / "model.pt")
        (tmp_path / "model.json").write_text("[" * 100_000)
        with pytest.raises(InputError, match="is not JSON"):
            read_description(tmp_path / "model.pt")

    def test_a_norm_that_only_the_description_tells_is_not_taken_silently(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        save_weights(LMSFESAM("tiny_t", SIZE, position_norm="instance"), tmp_path / "model.pt")
        assert read_description(tmp_path / "model.pt")["position_norm"] == "instance"
        (tmp_path / "model.json").unlink()
        assert read_description(tmp_path / "model.pt")["position_norm"] == "layer"
        assert "'model.json' is missing" in caplog.text

    def test_names_in_files_stay_those_of_the_first_version(self, tmp_path: Path) -> None:
        """Also for those who copy tensors by name, as ``monai.bundle.load`` does."""
        model = randomise(LMSFESAM("tiny_t", SIZE), 0).eval()
        names = {name.split(".")[0] for name in model.state_dict()}
        assert names == {
            "image_encoder", "prompt_encoder", "mask_decoder", "dense_prompt_encoder", "fine_head",
        }  # fmt: skip
        parameters = dict(model.named_parameters())
        assert "mask_decoder.fine_head.to_half.weight" in parameters
        other = LMSFESAM("tiny_t", SIZE).eval()
        _, changed, unchanged = copy_model_state(other, model.state_dict())
        assert not unchanged and len(changed) == len(model.state_dict())
        wrapped = AveragedModel(LMSFESAM("tiny_t", SIZE), use_buffers=True)
        wrapped.load_state_dict(AveragedModel(model, use_buffers=True).state_dict())
        image = torch.zeros(1, 3, SIZE, SIZE)
        with torch.no_grad():
            assert torch.equal(other(image), model(image))
            assert torch.equal(wrapped.module.eval()(image), model(image))
