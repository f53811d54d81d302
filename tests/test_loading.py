"""The transforms give the tensors that the network and the predictor work on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader
from monai.transforms import Compose, NormalizeIntensityd

import data_folders as make
from lmsfe_sam.data.datalist import build_datalist
from lmsfe_sam.data.masks.reading import resize_mask
from lmsfe_sam.data.phantoms.rendering import phantom_records
from lmsfe_sam.data.transforms.loading import LoadUltrasoundd, ResizeUltrasoundd, load_image_and_mask
from lmsfe_sam.errors import InputError
from lmsfe_sam.model.presets import PIXEL_MEAN, PIXEL_STD
from lmsfe_sam.predict.preprocessing import prepare


def _record(folder: Path, image: np.ndarray, *masks: np.ndarray) -> dict[str, Any]:
    return {
        "image": str(make.save(folder / "i.png", image)),
        "label": [str(make.save(folder / f"m{k}.png", mask)) for k, mask in enumerate(masks)],
        "name": "i.png",
        "group": "g",
        "subgroup": {"class": "benign"},
    }


def test_what_loading_gives(tmp_path: Path) -> None:
    record = _record(tmp_path, make.speckle(1), make.disc())
    loaded = LoadUltrasoundd()(record)
    assert loaded["image"].dtype == torch.float32 and loaded["label"].dtype == torch.uint8
    np.testing.assert_array_equal(loaded["image"].numpy(), np.stack([make.speckle(1)] * 3))
    np.testing.assert_array_equal(loaded["label"].numpy()[0], make.disc())
    assert loaded["original_size"].tolist() == list(make.SIZE)
    assert (loaded["name"], loaded["group"]) == ("i.png", "g")
    assert "subgroup" not in loaded and "subgroup" in record


@pytest.mark.parametrize("kind", ["16-bit", "RGBA"])
def test_unusual_images_simply_work(tmp_path: Path, kind: str) -> None:
    grey = make.speckle(1)
    image = grey.astype(np.uint16) * 100 if kind == "16-bit" else np.dstack([grey, grey, grey, grey // 2])
    loaded = LoadUltrasoundd()(_record(tmp_path, image, make.disc()))["image"]
    assert loaded.shape == (3, *make.SIZE)
    if kind == "RGBA":
        np.testing.assert_array_equal(loaded.numpy(), np.stack([grey] * 3))
    else:
        assert (loaded.min(), loaded.max()) == (0, 255)


def test_lesions_are_united_or_numbered(tmp_path: Path) -> None:
    first, second = make.disc(radius=6, centre=(15, 15)), make.disc(radius=5, centre=(40, 50))
    record = _record(tmp_path, make.speckle(1), first, second)
    np.testing.assert_array_equal(LoadUltrasoundd()(record)["label"][0].numpy(), first | second)
    np.testing.assert_array_equal(
        LoadUltrasoundd()({**record, "objects": "labels"})["label"][0].numpy(), first + 2 * second
    )


def test_an_image_alone(tmp_path: Path) -> None:
    path = make.save(tmp_path / "i.png", make.speckle(1))
    loaded = LoadUltrasoundd(keys="image")({"image": str(path), "prompt": 3})
    assert set(loaded) == {"image", "original_size", "name", "prompt"}
    assert loaded["name"] == str(path)


def test_sizes_that_differ_are_named(tmp_path: Path) -> None:
    record = _record(tmp_path, make.speckle(1), make.disc((30, 30)))
    with pytest.raises(InputError, match=r"i\.png' is 72 x 60 pixels and its mask .* 30 x 30"):
        load_image_and_mask(record)


def test_the_transforms_make_the_predictors_tensor(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (97, 131, 3), dtype=np.uint8)
    mask = make.disc((97, 131), 30)
    chain = Compose(
        [
            LoadUltrasoundd(),
            ResizeUltrasoundd(image_size=64),
            NormalizeIntensityd("image", subtrahend=PIXEL_MEAN, divisor=PIXEL_STD, channel_wise=True),
        ]
    )
    made = chain(_record(tmp_path, image, mask))
    np.testing.assert_allclose(made["image"].numpy(), prepare(image, 64).numpy(), atol=1e-6)
    np.testing.assert_array_equal(made["label"][0].numpy(), resize_mask(mask, (64, 64)))
    assert made["original_size"].tolist() == [97, 131]


def test_phantoms_and_files_load_alike() -> None:
    records = phantom_records(2, 7)
    loaded = [LoadUltrasoundd()(record) for record in records]
    for one in loaded:
        assert one["image"].shape[0] == 3 and one["image"].dtype == torch.float32
        assert set(one["label"].unique().tolist()) == {0, 1}
        assert one["label"].shape[1:] == one["image"].shape[1:]
        assert isinstance(one["name"], str)
    assert loaded[0]["name"] != loaded[1]["name"]
    assert torch.equal(LoadUltrasoundd()(records[0])["image"], loaded[0]["image"])


def test_ragged_records_collate(tmp_path: Path) -> None:
    """Subgroups, numbers of masks, outlines and sizes that differ all fit one batch."""
    records = [
        *build_datalist(make.make_busi(tmp_path / "busi")).select("all")[:2],
        *build_datalist(make.make_ddti_xml(tmp_path / "ddti")).select("all")[:1],
        *build_datalist(make.make_tg3k(tmp_path / "tg3k")).select("all")[:6],
    ]
    extra = make.save(tmp_path / "extra.png", make.disc(radius=3, centre=(5, 5)))
    records[0]["label"].append(str(extra))
    dataset = CacheDataset(records, Compose([LoadUltrasoundd(), ResizeUltrasoundd(32)]), progress=False)
    batch = next(iter(DataLoader(dataset, batch_size=len(records))))
    assert batch["image"].shape == (9, 3, 32, 32)
    assert batch["label"].shape == (9, 1, 32, 32)
    assert batch["name"] == [record["name"] for record in records]
    assert batch["original_size"].shape == (9, 2)


def test_missing_keys_may_be_allowed(tmp_path: Path) -> None:
    image = {"image": torch.zeros(3, 20, 30)}
    assert ResizeUltrasoundd(8, allow_missing_keys=True)(image)["image"].shape == (3, 8, 8)
    with pytest.raises(KeyError):
        ResizeUltrasoundd(8)(image)
