"""Files of weights that load, and are none: refused by a sentence before a network takes memory for them."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lmsfe_sam import LMSFESAM, Predictor
from lmsfe_sam.errors import MAX_SENTENCE, InputError
from lmsfe_sam.files import atomic_write
from lmsfe_sam.model.checkpoints import (
    network_from_checkpoint,
    read_description,
    read_image_size,
    save_weights,
    seal_weights,
)
from lmsfe_sam.model.weights.checks import sha256
from lmsfe_sam.model.weights.pretrained import read_state
from tiny import SIZE

pytestmark = pytest.mark.usefixtures("small_presets")

NAME = "mask_decoder.mask_tokens.weight"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "model.pt"
    save_weights(LMSFESAM(preset="vit_t", image_size=SIZE), path)
    return path


def with_number(number: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed.view(-1)[-1] = number
        return changed

    return change


TENSORS = {
    "nan": (with_number(float("nan")), "NaN or infinity"),
    "inf": (with_number(float("inf")), "NaN or infinity"),
    "minus inf": (with_number(-float("inf")), "NaN or infinity"),
    "half inf": (lambda t: with_number(float("inf"))(t.half()), "NaN or infinity"),
    "complex": (lambda t: t.to(torch.complex64), "of the type complex64"),
    "float8": (lambda t: t.to(torch.float8_e4m3fn), "of the type float8_e4m3fn"),
    "quantized": (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "quantized"),
    "meta": (lambda t: t.to("meta"), "on the meta device"),
    "sparse": (lambda t: t.to_sparse(), "sparse"),
    "expanded": (lambda t: torch.zeros(1).expand(t.shape), "expanded"),
    "expanded to 4 TB": (lambda t: torch.zeros(1).expand(10**6, 10**6), "expanded"),
    "overlapping": (lambda t: torch.zeros(8).as_strided((5, 5), (1, 0)), "expanded"),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_what_is_no_plain_tensor_is_refused(own: Path, tmp_path: Path, kind: str) -> None:
    change, words = TENSORS[kind]
    state = torch.load(own, weights_only=True)
    torch.save({**state, NAME: change(state[NAME])}, tmp_path / "model.pt")
    (tmp_path / "model.json").write_text(own.with_suffix(".json").read_text())
    with pytest.raises(InputError, match=words) as caught:
        network_from_checkpoint(tmp_path / "model.pt")
    assert NAME in str(caught.value) or kind == "quantized" or kind == "sparse"


def test_weights_in_one_storage_are_loaded_as_they_are(own: Path, tmp_path: Path) -> None:
    """Views of one long tensor, most of which is nobody's; the network keeps none of it."""
    state = torch.load(own, weights_only=True)
    floats = {name: tensor for name, tensor in state.items() if tensor.dtype == torch.float32}
    storage = torch.zeros(2**22 + sum(tensor.numel() for tensor in floats.values()))
    views, place = {}, 0
    for name, tensor in floats.items():
        views[name] = storage[place : place + tensor.numel()].view(tensor.shape)
        views[name].copy_(tensor)
        place += tensor.numel()
    torch.save({**state, **views}, tmp_path / "model.pt")
    (tmp_path / "model.json").write_text(own.with_suffix(".json").read_text())
    loaded = network_from_checkpoint(tmp_path / "model.pt").state_dict()
    for name, tensor in state.items():
        assert torch.equal(loaded[name], tensor)
        assert loaded[name].untyped_storage().nbytes() < 2**22


def test_many_names_of_one_storage_are_refused(own: Path, tmp_path: Path) -> None:
    storage = torch.zeros(2**18)
    torch.save({f"layer{number}.weight": storage for number in range(10_000)}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"10485760000 bytes in a file of \d+, which share memory"):
        read_state(tmp_path / "model.pt")


def test_weights_that_are_numbers_and_give_none_are_named(own: Path, tmp_path: Path) -> None:
    state = torch.load(own, weights_only=True)
    torch.save(
        {name: t * 1e30 if t.is_floating_point() else t for name, t in state.items()}, tmp_path / "m.pt"
    )
    (tmp_path / "m.json").write_text(own.with_suffix(".json").read_text())
    predictor = Predictor.from_checkpoint(tmp_path / "m.pt")
    predictor.set_image(np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE))
    with pytest.raises(InputError, match="the network gives NaN or infinity"):
        predictor.predict(box=[4, 4, 20, 20])


def test_a_compressed_archive_is_refused_before_it_unfolds(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for member in plain.namelist():
            bomb.writestr(member, plain.read(member))
    with pytest.raises(InputError, match="is a compressed archive: save it with torch"):
        read_state(tmp_path / "bomb.pt")


@pytest.mark.parametrize("name", ["x" * 5_000_000, "a\nb\x1b[31m" * 1000, "\ud800" * 2000])
def test_names_of_tensors_are_shortened(tmp_path: Path, name: str) -> None:
    torch.save({name: torch.full((2,), torch.nan)}, tmp_path / "m.pt")
    with pytest.raises(InputError) as caught:
        read_state(tmp_path / "m.pt")
    assert len(str(caught.value)) <= MAX_SENTENCE and str(caught.value).isprintable()


NONSENSE: list[Any] = [
    {"local_encoder": "no"}, {"mhpm": 1}, {"adapters": None}, {"balancing_adapter": [True]},
    {"image_size": 160000000}, {"image_size": -16}, {"image_size": 250}, {"image_size": 256.0},
    {"image_size": True}, {"image_size": "256"}, {"image_size": 10**400}, {"image_size": 8192},
    {"preset": ["vit_t"]}, {"preset": {"vit_t": 1}}, {"preset": None}, {"preset": "x" * 10**6},
    {"preset": 7}, {"backbone": "b" * 101}, {"backbone": 7}, {"position_norm": "none"},
    {"position_mode": ["add"]}, {"network": 7}, {"network": "n" * 10**6},
    {"network": "unet", "image_size": 160000000}, {"network": "unet", "image_size": [1]},
    {"preset": "vit_x"}, {"preset": "\ud800"}, {"preset": "vit_h"}, {"preset": "vit_b"},
]  # fmt: skip


@pytest.mark.parametrize("change", NONSENSE, ids=lambda change: str(change)[:40])
def test_a_nonsensical_description_is_one_sentence(
    own: Path, tmp_path: Path, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {**json.loads(own.with_suffix(".json").read_text()), **change}
    (tmp_path / "m.pt").write_bytes(own.read_bytes())
    (tmp_path / "m.json").write_text(json.dumps(content))
    monkeypatch.setattr("lmsfe_sam.model.network.ImageEncoder", None)  # no network is begun
    for read in (network_from_checkpoint, read_image_size):
        if read is read_image_size and change.get("network") and "image_size" not in change:
            continue
        if read is read_image_size and set(change) == {"preset"} and isinstance(change["preset"], str):
            continue
        with pytest.raises(InputError) as caught:
            read(tmp_path / "m.pt")
        assert len(str(caught.value)) <= MAX_SENTENCE and "\n" not in str(caught.value)
        assert f"{tmp_path / 'm'}." in str(caught.value)


def test_a_backbone_that_the_file_has_no_room_for_is_not_built(own: Path, tmp_path: Path) -> None:
    content = {**json.loads(own.with_suffix(".json").read_text()), "backbone": "resnet18"}
    torch.save({"a": torch.zeros(9)}, tmp_path / "m.pt")
    (tmp_path / "m.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"m\.pt' is not what .* backbone resnet18: restore both files"):
        network_from_checkpoint(tmp_path / "m.pt")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", '"text"', "null", "[" * 100000, '{"a":' * 50000,
     '{"preset": "vit_t", "image_size": 1e999}', "\x00" * 50,
     '{"preset": "vit_t"' + " " * 2**20 + "}", '{"preset": "vit_t", "x": ' + "9" * 9999 + "}"],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_a_damaged_description_is_one_sentence(own: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "m.pt").write_bytes(own.read_bytes())
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(InputError, match="restore it or remove it") as caught:
        read_description(tmp_path / "m.pt")
    assert len(str(caught.value)) <= MAX_SENTENCE


@pytest.mark.parametrize("name", ["pos_embed", "rel_pos_h"])
@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("size", [0, 3])
def test_tables_of_no_size_or_other_channels_are_refused(
    own: Path, tmp_path: Path, name: str, axis: int, size: int
) -> None:
    state = torch.load(own, weights_only=True)
    key = next(key for key in state if key.endswith(name))
    shape = [*state[key].shape]
    shape[axis] = size
    if name == "rel_pos_h" and axis == 0 and size:
        pytest.skip("a grid of another size is resized")
    torch.save({**state, key: torch.zeros(shape)}, tmp_path / "m.pt")
    shutil.copy(own.with_suffix(".json"), tmp_path / "m.json")
    with pytest.raises(InputError, match=r"m\.pt' does not fit .* has shape"):
        network_from_checkpoint(tmp_path / "m.pt")


@pytest.mark.parametrize("table", [torch.zeros(3), torch.tensor(1.0), torch.zeros(1, 999, 999, 32)])
def test_tables_of_other_shapes_tell_no_preset(own: Path, tmp_path: Path, table: Tensor) -> None:
    state = torch.load(own, weights_only=True)
    torch.save({**state, "image_encoder.pos_embed": table}, tmp_path / "m.pt")
    with pytest.raises(InputError):
        read_description(tmp_path / "m.pt")


class TestHash:
    @pytest.fixture
    def sealed(self, own: Path, tmp_path: Path) -> Path:
        path = tmp_path / "model.pt"
        for suffix in (".pt", ".json"):
            path.with_suffix(suffix).write_bytes(own.with_suffix(suffix).read_bytes())
        seal_weights(path)
        return path

    def test_the_file_that_was_sealed_loads(self, sealed: Path) -> None:
        assert json.loads(sealed.with_suffix(".json").read_text())["sha256"] == sha256(sealed)
        network_from_checkpoint(sealed)

    def test_one_other_bit_is_refused(self, sealed: Path) -> None:
        content = bytearray(sealed.read_bytes())
        content[len(content) // 2] ^= 1
        sealed.write_bytes(content)
        with pytest.raises(InputError, match=r"is not the file that 'model\.json' beside it describes"):
            network_from_checkpoint(sealed)

    @pytest.mark.parametrize("stated", [7, "", ["a"], "0" * 64, True, {}])
    def test_no_other_hash_passes(self, sealed: Path, stated: Any) -> None:
        content = json.loads(sealed.with_suffix(".json").read_text())
        sealed.with_suffix(".json").write_text(json.dumps({**content, "sha256": stated}))
        with pytest.raises(InputError, match="restore both files"):
            read_state(sealed)

    def test_a_description_without_a_hash_loads_as_before(self, own: Path) -> None:
        assert "sha256" not in json.loads(own.with_suffix(".json").read_text())
        network_from_checkpoint(own)

    @pytest.mark.parametrize("failing", ["model.pt", "model.json"])
    def test_a_kill_while_sealed_weights_are_replaced_leaves_files_that_load(
        self, sealed: Path, failing: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def killed(path: Path) -> Any:
            if path.name == failing:
                raise KeyboardInterrupt
            return atomic_write(path)

        monkeypatch.setattr("lmsfe_sam.model.checkpoints.atomic_write", killed)
        with pytest.raises(KeyboardInterrupt):
            save_weights(LMSFESAM(preset="vit_t", image_size=SIZE), sealed)
        network_from_checkpoint(sealed)

    def test_the_shipped_weights_are_sealed(self, bundle_root: Path) -> None:
        weights = bundle_root / "models" / "model.pt"
        assert json.loads(weights.with_suffix(".json").read_text())["sha256"] == sha256(weights)
