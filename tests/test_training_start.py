"""The split written down, and found again when a run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lmsfe_sam.data.combined import find_records
from lmsfe_sam.data.datalist import build_datalist
from lmsfe_sam.errors import InputError
from lmsfe_sam.training.run_folder import write_datalist
from lmsfe_sam.training.settings import start_network


class Folder(SimpleNamespace):
    def __truediv__(self, name: str) -> Path:
        return self.path / name


def folder(path: Path, source: Path | None = None, main_process: bool = True) -> Any:
    path.mkdir(exist_ok=True)
    return Folder(path=path, source=source, main_process=main_process)


def test_phantoms_are_listed_and_other_ones_noticed(tmp_path: Path) -> None:
    datalist = find_records(None, "auto", "group", seed=0, phantoms=20)
    write_datalist(datalist, folder(tmp_path))
    assert len(json.loads((tmp_path / "datalist.json").read_text())["training"]) == 14
    write_datalist(datalist, folder(tmp_path, source=tmp_path))
    with pytest.raises(InputError, match="other training images"):
        write_datalist(find_records(None, "auto", "group", 0, 24), folder(tmp_path, source=tmp_path))


def test_the_list_of_a_folder_can_be_trained_on_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(rng.integers(0, 255, (32, 32), np.uint8)).save(tmp_path / f"data/{kind}/{i}.png")
    datalist = find_records(str(tmp_path / "data"), "auto", "group", seed=0, phantoms=20)
    write_datalist(datalist, folder(tmp_path / "run"))
    again = build_datalist(tmp_path / "run" / "datalist.json")
    for part in ("train", "val", "test"):
        assert [r["image"] for r in again.select(part)] == [r["image"] for r in datalist.select(part)]


def test_helpers_of_a_distributed_run_write_nothing(tmp_path: Path) -> None:
    write_datalist(find_records(None, "auto", "group", 0, 20), folder(tmp_path, main_process=False))
    assert not (tmp_path / "datalist.json").exists()


def test_start_weights_are_loaded_only_when_named() -> None:
    loaded: list[str] = []
    methods = dict.fromkeys(("encode", "decode", "decode_tokens", "describe"), print)
    sizes = {"image_size": 64, "low_res_size": 16, "prompt_kinds": ("box",)}
    network = SimpleNamespace(load_pretrained=loaded.append, **methods, **sizes)
    assert start_network(network, None) is network and loaded == []
    assert start_network(network, "sam.pth") is network and loaded == ["sam.pth"]
