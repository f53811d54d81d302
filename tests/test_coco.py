"""COCO files: one or several, polygons and run lengths, and their faults."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import data_folders as make
from lmsfe_sam.data.layouts.folders import FolderContents
from lmsfe_sam.data.layouts.registry import LAYOUTS, recognise
from lmsfe_sam.data.masks.reading import record_mask
from lmsfe_sam.errors import InputError

SQUARE = [[10, 20, 30, 20, 30, 45, 10, 45]]


def _find(root: Path) -> FolderContents:
    assert LAYOUTS["coco"].recognise(root)
    return LAYOUTS["coco"].find(root)


def _edit(root: Path, change: dict[str, object]) -> None:
    file = root / "annotations.json"
    content = json.loads(file.read_text())
    content["annotations"][0].update(change)
    file.write_text(json.dumps(content))


def test_polygons(tmp_path: Path) -> None:
    found = _find(make.make_coco(tmp_path))
    mask = record_mask(found.records[0], make.SIZE)
    assert mask.sum() == 20 * 25 and mask[20:45, 10:30].all()
    assert found.parts is None


def test_run_lengths(tmp_path: Path) -> None:
    root = make.make_coco(tmp_path, 2)
    height, width = make.SIZE
    _edit(root, {"segmentation": {"size": [height, width], "counts": [3, 4, height * width - 7]}})
    mask = record_mask(_find(root).records[0], make.SIZE)
    assert np.argwhere(mask).tolist() == [[3, 0], [4, 0], [5, 0], [6, 0]]


def test_annotations_of_one_image_are_united_and_bare_images_counted(tmp_path: Path) -> None:
    root = make.make_coco(tmp_path, 3)
    _edit(root, {"image_id": 2, "segmentation": [[0, 0, 5, 0, 5, 5, 0, 5]]})
    found = _find(root)
    assert [record["name"] for record in found.records] == ["images/us_1.png", "images/us_2.png"]
    assert record_mask(found.records[0], make.SIZE).sum() == 20 * 25 + 25
    assert found.skipped == {"images without an annotation": 1}


@pytest.mark.parametrize(
    "files",
    [
        {
            "annotations/instances_train2017.json": "train2017",
            "annotations/instances_val2017.json": "val2017",
        },
        {"train/_annotations.coco.json": "train", "valid/_annotations.coco.json": "valid"},
        {"train.json": "images", "val.json": "images"},
    ],
    ids=["coco", "roboflow", "side by side"],
)
def test_several_files_state_a_split(tmp_path: Path, files: dict[str, str]) -> None:
    for place, (file, folder) in enumerate(files.items()):
        name = f"us_{place}.png"
        make.save(tmp_path / folder / name, make.speckle(place))
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(json.dumps(make.coco_content([name], SQUARE)))
    parts = _find(tmp_path).parts
    assert parts is not None
    folders = list(files.values())
    assert [record["name"] for record in parts["train"]] == [f"{folders[0]}/us_0.png"]
    assert [record["name"] for record in parts["val"]] == [f"{folders[1]}/us_1.png"]


def test_several_files_without_parts_in_their_names_are_refused(tmp_path: Path) -> None:
    root = make.make_coco(tmp_path)
    (root / "more.json").write_text((root / "annotations.json").read_text())
    with pytest.raises(InputError, match="tells no part"):
        _find(root)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_id": 99}, "annotation 0, of image 99, which is not listed"),
        *(
            ({"segmentation": none}, "annotation 0 of 'us_0.png' (it has no outline)")
            for none in ([], {}, None)
        ),
    ],
)
def test_an_annotation_of_nothing_is_left_out_by_name(
    tmp_path: Path, change: dict[str, object], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = make.make_coco(tmp_path, 3)
    _edit(root, change)
    found = _find(root)
    assert len(found.records) == 2 and words in caplog.text
    assert found.skipped["annotations that are malformed or hold no pixel"] == 1


def test_boxes_alone_are_refused(tmp_path: Path) -> None:
    root = make.make_coco(tmp_path, 3)
    content = json.loads((root / "annotations.json").read_text())
    for annotation in content["annotations"]:
        annotation["bbox"] = annotation.pop("segmentation")[0][:4]
    (root / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="no outline in any annotation: export polygons"):
        _find(root)


@pytest.mark.parametrize("kind", [str, float])
def test_one_id_written_in_two_ways(tmp_path: Path, kind: type) -> None:
    root = make.make_coco(tmp_path, 3)
    content = json.loads((root / "annotations.json").read_text())
    for annotation in content["annotations"]:
        annotation["image_id"] = kind(annotation["image_id"])
    (root / "annotations.json").write_text(json.dumps(content))
    assert len(_find(root).records) == 3


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 2, 3]],
        [[1, 2, "a", 4, 5, 6]],
        [[None] * 6],
        ["nonsense"],
        "nonsense",
        7,
        [{"x": 1}],
        [[1, 2, [3], 4, 5, 6]],
        [[float("nan")] * 6],
        [[1e308, 0, 2e308, 1, 0, 5]],
        {"counts": "x"},
        {"size": [3, 4], "counts": [12]},
        {"size": "ab", "counts": [1]},
        {"size": [60, 72], "counts": "\u20ac"},
        [[10, 10, 10, 10, 10, 10]],
        [[10, 10, 20, 10, 30, 10]],
        [[900, 900, 910, 900, 910, 910]],
    ],
    ids=range(17),
)
def test_a_malformed_annotation_is_left_out_by_name(
    tmp_path: Path, segmentation: object, caplog: pytest.LogCaptureFixture
) -> None:
    root = make.make_coco(tmp_path, 3)
    _edit(root, {"segmentation": segmentation})
    found = _find(root)
    assert [record["name"] for record in found.records] == ["images/us_1.png", "images/us_2.png"]
    assert found.skipped["annotations that are malformed or hold no pixel"] == 1
    assert "annotations.json" in caplog.text and "annotation 0 of 'us_0.png'" in caplog.text


@pytest.mark.parametrize("change", [{"image_id": [1]}, {"image_id": None}])
def test_an_annotation_of_no_image_is_left_out(tmp_path: Path, change: dict[str, object]) -> None:
    root = make.make_coco(tmp_path, 3)
    _edit(root, change)
    assert len(_find(root).records) == 2


@pytest.mark.parametrize(
    "entry", [7, {}, {"id": 9}, {"id": [], "file_name": "a.png"}, {"id": 9, "file_name": 3}]
)
def test_a_malformed_image_entry_is_left_out(tmp_path: Path, entry: object) -> None:
    root = make.make_coco(tmp_path, 3)
    content = json.loads((root / "annotations.json").read_text())
    content["images"].append(entry)
    (root / "annotations.json").write_text(json.dumps(content))
    assert len(_find(root).records) == 3


@pytest.mark.parametrize("annotations", [None, {}, "x", 7])
def test_a_file_without_a_list_of_annotations_is_no_coco(tmp_path: Path, annotations: object) -> None:
    root = make.make_coco(tmp_path, 3)
    content = json.loads((root / "annotations.json").read_text())
    (root / "annotations.json").write_text(json.dumps({**content, "annotations": annotations}))
    assert not LAYOUTS["coco"].recognise(root)


def test_paths_as_windows_writes_them(tmp_path: Path) -> None:
    root = make.make_coco(tmp_path, 2)
    content = json.loads((root / "annotations.json").read_text())
    content["images"][0]["file_name"] = "images\\us_0.png"
    content["images"][1]["file_name"] = "C:\\data\\images\\us_1.png"
    (root / "annotations.json").write_text(json.dumps(content))
    assert [record["name"] for record in _find(root).records] == ["images/us_0.png", "images/us_1.png"]


def test_an_image_that_is_not_there_is_named(tmp_path: Path) -> None:
    root = make.make_coco(tmp_path)
    (root / "images" / "us_3.png").unlink()
    with pytest.raises(InputError, match=r"lists the image 'us_3\.png', which is not there"):
        _find(root)


def test_an_id_of_two_images_leaves_both_out_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = make.make_coco(tmp_path, 3)
    content = json.loads((root / "annotations.json").read_text())
    content["images"][1]["id"] = content["images"][0]["id"]
    (root / "annotations.json").write_text(json.dumps(content))
    found = _find(root)
    assert [record["name"] for record in found.records] == ["images/us_2.png"]
    assert "image entry 1 ('us_1.png'), whose id" in caplog.text and "which is listed twice" in caplog.text


def test_an_image_that_is_listed_under_two_ids_is_one(tmp_path: Path) -> None:
    root = make.make_coco(tmp_path, 2)
    content = json.loads((root / "annotations.json").read_text())
    content["images"][1]["file_name"] = content["images"][0]["file_name"]
    content["annotations"][1]["segmentation"] = [[0, 0, 5, 0, 5, 5, 0, 5]]
    (root / "annotations.json").write_text(json.dumps(content))
    (record,) = _find(root).records
    assert record_mask(record, make.SIZE).sum() == 20 * 25 + 25


@pytest.mark.parametrize("folder", ["images", "images/train", "data", "img", "."])
def test_where_exports_put_images_and_in_which_unicode_form(tmp_path: Path, folder: str) -> None:
    make.save(tmp_path / folder / "e\u0301cho.png", make.speckle(1))
    content = {
        "images": [{"id": 1, "file_name": "\u00e9cho.png"}],
        "annotations": [{"id": 1, "image_id": 1, "segmentation": SQUARE}],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(content))
    assert len(_find(tmp_path).records) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [(b'{"images": [', "copy it again"), ('{"images": "\u00e9"}'.encode("latin-1"), "save it in UTF-8")],
)
def test_damaged_annotations_are_named(tmp_path: Path, content: bytes, words: str) -> None:
    root = make.make_coco(tmp_path)
    (root / "annotations.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"annotations\.json' cannot be read as JSON .*: {words}"):
        recognise(root, "auto")
