"""Files of weights that are malicious, damaged or of another network: none is run, each gets a sentence."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lmsfe_sam import LMSFESAM
from lmsfe_sam.errors import InputError
from lmsfe_sam.model.checkpoints import save_weights
from lmsfe_sam.model.weights.pretrained import read_state
from sam_med2d import build_sam
from tiny import SIZE, TINY

pytestmark = pytest.mark.usefixtures("small_presets")

OFF = dict.fromkeys(("local_encoder", "mhpm", "adapters", "balancing_adapter"), False)
BOX = torch.tensor([[[10.0, 12, 40, 50]]])


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

    def test_the_message_names_the_function(self, tmp_path: Path) -> None:
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
    def test_not_a_checkpoint(self, tmp_path: Path, content: bytes) -> None:
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
    def test_not_a_state_dict(self, tmp_path: Path, content: object) -> None:
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
        with pytest.raises(InputError, match=r"pos_embed has shape \(1, 4, 4, 48\) where \(1, 4, 4, 32\)"):
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
