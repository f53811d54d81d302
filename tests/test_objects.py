"""Objects of an image's masks: union, labels, parts; in records, data lists, training and evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data_folders as make
from lmsfe_sam.data.combined import find_records
from lmsfe_sam.data.masks.objects import connected_parts, object_map, record_objects, separate_objects
from lmsfe_sam.data.transforms.loading import LoadUltrasoundd
from lmsfe_sam.errors import InputError
from lmsfe_sam.evaluation.settings import usable_modes
from lmsfe_sam.training.settings import check_settings
from training_parts import TinyNetwork

SIZE = make.SIZE
NERVE = make.disc(radius=4, centre=(12, 12)) > 0
VESSEL = make.disc(radius=6, centre=(40, 50)) > 0
SECOND_VESSEL = make.disc(radius=3, centre=(20, 60)) > 0
CLASSES = (NERVE + 2 * (VESSEL | SECOND_VESSEL)).astype(np.uint8)


def record(folder: Path, *masks: np.ndarray, **more: object) -> dict:
    return {
        "image": str(make.save(folder / "i.png", make.speckle(1))),
        "label": [str(make.save(folder / f"m{k}.png", mask)) for k, mask in enumerate(masks)],
        "name": "i.png",
        **more,
    }


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("union", [(1, NERVE | VESSEL | SECOND_VESSEL)]),
        ("labels", [(1, NERVE), (2, VESSEL | SECOND_VESSEL)]),
        ("parts", [(1, NERVE), (2, VESSEL), (2, SECOND_VESSEL)]),
    ],
)
def test_the_objects_of_a_label_map(tmp_path: Path, rule: str, expected: list) -> None:
    objects = record_objects(record(tmp_path, CLASSES, objects=rule), SIZE)
    assert [one.label for one in objects] == [label for label, _ in expected]
    for one, (_, mask) in zip(objects, expected, strict=True):
        np.testing.assert_array_equal(one.mask, mask)
    assert [one.largest for one in objects] == [True, True, False][: len(objects)]


def test_several_mask_files_are_several_labels(tmp_path: Path) -> None:
    objects = record_objects(
        record(tmp_path, np.uint8(255) * NERVE, np.uint8(255) * VESSEL, objects="labels"), SIZE
    )
    assert [one.label for one in objects] == [1, 2]
    np.testing.assert_array_equal(objects[1].mask, VESSEL)
    assert len(record_objects(record(tmp_path, np.uint8(255) * NERVE, np.uint8(255) * VESSEL), SIZE)) == 1


def test_an_unknown_rule_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="objects is 'each': give one of union, parts, labels"):
        record_objects(record(tmp_path, CLASSES, objects="each"), SIZE)


def test_specks_are_no_parts_unless_there_is_nothing_else() -> None:
    mask = np.zeros((200, 200), bool)
    mask[5, 5] = True
    assert [part.sum() for part in connected_parts(mask)] == [1]
    mask[50:90, 50:90] = mask[120:140, 20:30] = mask[140, 30] = True  # a corner joins
    assert [part.sum() for part in connected_parts(mask)] == [1600, 201]


def test_where_objects_overlap_the_smaller_one_is_kept(tmp_path: Path) -> None:
    large, small = make.disc(radius=15, centre=(30, 30)) > 0, make.disc(radius=4, centre=(30, 30)) > 0
    objects = record_objects(
        record(tmp_path, np.uint8(255) * small, np.uint8(255) * large, objects="labels"), SIZE
    )
    labels = object_map(objects, "i.png")
    np.testing.assert_array_equal(labels == 1, small)
    np.testing.assert_array_equal(labels == 2, large & ~small)
    with pytest.raises(InputError, match=r"'i\.png' has 300 objects"):
        object_map(objects * 150, "i.png")


def test_loading_gives_a_label_map_or_one_object(tmp_path: Path) -> None:
    made = record(tmp_path, CLASSES, objects="parts", unprompted=False)
    loaded = LoadUltrasoundd()(made)
    assert loaded["unprompted"] is False and "objects" not in loaded
    np.testing.assert_array_equal(np.unique(loaded["label"]), [0, 1, 2, 3])
    separate = separate_objects([made])
    assert [one["name"] for one in separate] == ["i.png#1", "i.png#2", "i.png#3"]
    assert [one["subgroup"] for one in separate] == [
        {"label": "1", "part": "largest"},
        {"label": "2", "part": "largest"},
        {"label": "2", "part": "other"},
    ]
    np.testing.assert_array_equal(LoadUltrasoundd()(separate[2])["label"][0], SECOND_VESSEL)


def folder_of(root: Path, images: int = 10) -> Path:
    for number in range(images):
        make.save(root / "images" / f"{number}.png", make.speckle(number))
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(CLASSES).save(root / "masks" / f"{number}.png")
    return root


def test_each_data_set_has_its_rule(tmp_path: Path) -> None:
    folders = [str(folder_of(tmp_path / name)) for name in ("lesions", "organs")]
    datalist = find_records(
        folders, "auto", "group", 0, 8, objects=["union", "parts"], prompted_only=["organs"]
    )
    for one in datalist.select("all"):
        organs = one["name"].startswith("organs")
        assert (one["objects"], one["unprompted"]) == (("parts", False) if organs else ("union", True))
    with pytest.raises(InputError, match="objects has 3 rules: give one, or one for each of lesions, organs"):
        find_records(folders, "auto", "group", 0, 8, objects=["union"] * 3)
    with pytest.raises(InputError, match="prompted_only names 'nerves': choose from lesions, organs"):
        find_records(folders, "auto", "group", 0, 8, prompted_only=["nerves"])


def test_without_a_prompt_means_all_objects() -> None:
    network = TinyNetwork()
    assert "none" in usable_modes(network, "all")
    assert "none" not in usable_modes(network, "all", "parts")
    with pytest.raises(InputError, match="none, which means all objects"):
        usable_modes(network, ["box", "none"], ["parts", "union"])


def test_a_wrong_rule_is_refused_by_the_options() -> None:
    with pytest.raises(InputError, match="objects is 'all': give one of union, parts, labels"):
        check_settings({"objects": "all"})
