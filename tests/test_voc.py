"""Pascal VOC's layout: masks to train on and score against, boxes as prompts of the evaluation."""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import data_folders as make
from lmsfe_sam.data.combined import find_records
from lmsfe_sam.data.datalist import DataList, build_datalist
from lmsfe_sam.data.masks.objects import matching_box, separate_objects
from lmsfe_sam.errors import InputError

MALFORMED = "boxes that are malformed or of another image"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make.make_voc(tmp_path / "set")


def annotate(root: Path, text: str, name: str = "us 0.xml") -> None:
    (root / "Annotations" / name).write_text(text, encoding="utf-8")


def first_boxes(found: DataList) -> Any:
    return next(record["boxes"] for record in found.select("all") if record["name"].endswith("us 0.png"))


def test_boxes_count_pixels_from_one(root: Path) -> None:
    found = build_datalist(root)
    assert (found.layout, len(found.select("all")), found.skipped) == ("voc", 6, {})
    assert all(record["boxes"] == [[23, 17, 50, 44]] for record in found.select("all"))


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ((24.5, 18.25, 50, 44), [24.5, 18.25, 50, 44]),
        (("24.0", " 18 ", "5e1", "44"), [23, 17, 50, 44]),
        ((0, 18, 50, 44), [0, 18, 50, 44]),
    ],
)
def test_fractions_and_a_zero_tell_edges_from_zero(root: Path, other: Any, expected: list[float]) -> None:
    annotate(root, make.voc_xml([other]))
    found = build_datalist(root)
    assert first_boxes(found) == [expected]
    whole = expected[0] == 23
    rest = next(record["boxes"] for record in found.select("all") if record["name"].endswith("us 1.png"))
    assert rest == [[23, 17, 50, 44]] if whole else [[24, 18, 50, 44]]


def test_boxes_are_cut_at_the_border_and_several_are_kept(root: Path) -> None:
    annotate(root, make.voc_xml([(24, 18, 50, 44), (60, 50, 900, 70), (1, 1, 1, 1)]))
    assert first_boxes(build_datalist(root)) == [[23, 17, 50, 44], [59, 49, 72, 60], [0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((80, 18, 90, 44), r"\[80, 18, 90, 44\] of 'us 0\.png', which lies outside"),
        ((50, 18, 24, 44), "which has no area"),
        (("a", 18, 50, 44), r"object 1 \('lesion'\), whose box is a, 18, 50, 44 of 'us 0\.png'"),
        (("nan", 18, 50, 44), "whose box is nan"),
        (("inf", 18, 50, 44), "whose box is inf"),
        ((24, 18, 50), "whose box is 24, 18, 50, nothing"),
        (("", "", "", ""), "whose box is nothing, nothing"),
        (("1e400", 18, 50, 44), "whose box is 1e400"),
    ],
)
def test_what_is_no_box_is_left_out_counted_and_named(
    root: Path, caplog: pytest.LogCaptureFixture, box: Any, words: str
) -> None:
    annotate(root, make.voc_xml([box]))
    found = build_datalist(root)
    assert first_boxes(found) == [] and found.skipped == {MALFORMED: 1}
    assert re.search(words, caplog.text)


@pytest.mark.parametrize("size", [(72, 60), (120, 144)])
def test_boxes_of_a_picture_of_another_size_are_left_out(
    root: Path, caplog: pytest.LogCaptureFixture, size: tuple[int, int]
) -> None:
    annotate(root, make.voc_xml([(24, 18, 50, 44)], size))
    found = build_datalist(root)
    assert first_boxes(found) == [] and found.skipped == {MALFORMED: 1}
    assert f"'us 0.png', which is 72 x 60 pixels and {size[1]} x {size[0]} in its XML" in caplog.text


@pytest.mark.parametrize("size", [None, (0, 0)])
def test_a_size_that_is_not_stated_is_unknown(root: Path, size: tuple[int, int] | None) -> None:
    annotate(root, make.voc_xml([(24, 18, 50, 44)], size))
    assert first_boxes(build_datalist(root)) == [[23, 17, 50, 44]]


@pytest.mark.parametrize(
    "text", ["", "<annotation><object>", "\x00\x01", "<?xml version='1.0' encoding='x'?><a/>"]
)
def test_damaged_xml_is_counted_and_named(root: Path, caplog: pytest.LogCaptureFixture, text: str) -> None:
    annotate(root, text)
    found = build_datalist(root)
    assert first_boxes(found) == [] and found.skipped == {"XML files that are damaged": 1}
    assert "us 0.xml' is no XML" in caplog.text


def test_an_image_of_boxes_alone_is_no_training_data(root: Path) -> None:
    (root / "SegmentationClass" / "us 3.png").unlink()
    annotate(root, make.voc_xml([(1, 1, 5, 5)]), "gone.xml")
    found = build_datalist(root)
    assert len(found.select("all")) == 5
    assert found.skipped == {
        "images without a mask, of which boxes are no training data": 1,
        "XML files of no image": 1,
    }
    for path in (root / "SegmentationClass").iterdir():
        path.unlink()
    (root / "SegmentationClass").rmdir()
    with pytest.raises(InputError, match=r"has boxes and no masks.*SegmentationClass/"):
        build_datalist(root)


def test_a_mask_without_an_image_is_an_error(root: Path) -> None:
    make.save(root / "SegmentationClass" / "us 9.png", make.disc())
    with pytest.raises(InputError, match=r"us 9\.png' has no image"):
        build_datalist(root)


def test_names_are_compared_in_one_form_of_unicode(root: Path) -> None:
    name = unicodedata.normalize("NFD", "Läsion é")
    for folder in ("JPEGImages", "SegmentationClass"):
        (root / folder / "us 0.png").rename(root / folder / f"{name}.png")
    (root / "Annotations" / "us 0.xml").rename(
        root / "Annotations" / f"{unicodedata.normalize('NFC', name)}.XML"
    )
    assert all(record["boxes"] for record in build_datalist(root).select("all"))


def test_the_split_of_image_sets(root: Path) -> None:
    sets = root / "ImageSets" / "Segmentation"
    sets.mkdir(parents=True)
    for part, numbers in (("train", (0, 1, 2)), ("val", (3,)), ("test", (4, 5, 77))):
        (sets / f"{part}.txt").write_text("".join(f"us {k}\n" for k in numbers))
    found = build_datalist(root)
    assert found.own_split and found.counts() == "3 train, 1 val, 2 test"


def test_a_datalist_keeps_the_boxes(root: Path) -> None:
    build_datalist(root).write(root / "datalist.json")
    assert first_boxes(build_datalist(root)) == [[23, 17, 50, 44]]
    content = json.loads((root / "datalist.json").read_text())
    for box in ([5, 5, 5, 9], [1, 2, 3], ["a", 1, 2, 3], [1, 2, 3, float("nan")], "box"):
        content["training"][0]["boxes"] = [box]
        (root / "datalist.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match="box"):
            build_datalist(root)


def test_each_object_gets_the_box_that_overlaps_it_most(root: Path) -> None:
    mask = make.disc(radius=6, centre=(15, 15)) | make.disc(radius=6, centre=(40, 50))
    make.save(root / "SegmentationClass" / "us 0.png", mask)
    annotate(root, make.voc_xml([(40, 30, 60, 50), (8, 8, 24, 24), (30, 2, 36, 8)]))
    records = find_records(str(root), "auto", "group", 0, 0, objects="parts").select("all")
    own = [one["boxes"] for one in separate_objects(records) if "us 0.png#" in one["name"]]
    assert sorted(own) == [[[7, 7, 24, 24]], [[39, 29, 60, 50]]]
    assert matching_box(mask, []) == matching_box(mask, [[60, 50, 70, 58]]) == []


def test_masks_of_objects_are_preferred(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for k in range(6):
        palette = Image.fromarray(make.disc().astype(np.uint8) * 3)
        palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
        (root / "SegmentationObject").mkdir(exist_ok=True)
        palette.save(root / "SegmentationObject" / f"us {k}.png")
    labels = [Path(record["label"][0]).parent.name for record in build_datalist(root).select("all")]
    assert set(labels) == {"SegmentationObject"} and not caplog.text
