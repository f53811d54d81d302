"""This project's own checkpoints: written and read whole, and built again from their description."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.utils import copy_model_state
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from lmsfe_sam import LMSFESAM, __version__
from lmsfe_sam.errors import InputError
from lmsfe_sam.model.checkpoints import load_weights, network_from_checkpoint, read_description, save_weights
from lmsfe_sam.model.weights.checks import sha256
from sam_med2d import build_sam, randomise
from tiny import SIZE, TINY

pytestmark = pytest.mark.usefixtures("small_presets")

OFF = dict.fromkeys(("local_encoder", "mhpm", "adapters", "balancing_adapter"), False)
BOX = torch.tensor([[[10.0, 12, 40, 50]]])


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


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

    def test_a_norm_that_only_the_description_has_is_not_assumed_silently(
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
