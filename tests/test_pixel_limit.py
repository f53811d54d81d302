"""``--max_pixels`` in training and evaluation: of images and of masks, below the default and above it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lmsfe_sam.data.checking import check_records
from lmsfe_sam.data.combined import find_records
from lmsfe_sam.data.datalist import DataList
from lmsfe_sam.data.foreign_masks import foreign_masks
from lmsfe_sam.data.masks.objects import separate_objects
from lmsfe_sam.data.transforms.loading import LoadUltrasoundd
from lmsfe_sam.errors import InputError
from lmsfe_sam.images import reading
from lmsfe_sam.images.limits import MAX_PIXELS


def records_of(folder: Path, max_pixels: int, objects: str = "union") -> DataList:
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(8):
        Image.fromarray(rng.integers(0, 256, (30, 40), np.uint8)).save(folder / f"images/{number}.png")
        mask = np.zeros((30, 40), np.uint8)
        mask[5:20, 5 + number : 25] = 255
        Image.fromarray(mask).save(folder / f"masks/{number}.png")
    return find_records(str(folder), "auto", "group", 0, 8, objects=objects, max_pixels=max_pixels)


def test_an_image_above_the_limit_is_named_before_training(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has 1200 pixels, more than 1199: .*--max_pixels"):
        check_records(records_of(tmp_path, 1199).select("all"))
    with pytest.raises(InputError, match=r"has 1200 pixels, more than 1199"):
        LoadUltrasoundd()(records_of(tmp_path, 1199).select("train")[0])
    check_records(records_of(tmp_path, 1200).select("all"))
    loaded = LoadUltrasoundd()(records_of(tmp_path, 1200).select("train")[0])
    assert "max_pixels" not in loaded and loaded["image"].shape == (3, 30, 40)


def test_a_higher_limit_is_a_higher_limit_for_every_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, int]] = []
    open_image = reading.open_image

    def note(path: str, max_pixels: int = MAX_PIXELS) -> reading.ImageFile:
        opened.append((str(path), max_pixels))
        return open_image(path, max_pixels)

    monkeypatch.setattr(reading, "open_image", note)
    found = records_of(tmp_path, MAX_PIXELS + 1, "labels").select("all")
    check_records(found)
    LoadUltrasoundd()(separate_objects(found)[0])
    masks = foreign_masks(str(tmp_path / "masks"), records_of(tmp_path, MAX_PIXELS + 1).select("all"), 256)
    assert masks is not None and masks(found[0]["name"], (30, 40)).any()
    assert len(opened) > 30 and {most for _, most in opened} == {MAX_PIXELS + 1}


def test_the_limit_is_not_of_the_data_list(tmp_path: Path) -> None:
    path = records_of(tmp_path / "a", 1200).write(tmp_path / "datalist.json")
    assert "max_pixels" not in json.dumps(json.loads(path.read_text()))
