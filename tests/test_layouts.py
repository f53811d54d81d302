"""Each layout of public data is recognised, and what is missing is named."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import data_folders as make
from lmsfe_sam.data.layouts.folders import NEAR_DUPLICATES, PATIENT, VIDEO, FolderContents
from lmsfe_sam.data.layouts.registry import LAYOUTS
from lmsfe_sam.data.masks.reading import record_mask
from lmsfe_sam.errors import InputError
from medical_files import save_dicom

MAKERS: dict[str, tuple[Callable[[Path], Path], str, int]] = {
    "busi": (make.make_busi, "busi", 7),
    "busbra": (make.make_busbra, "busbra", 4),
    "tn3k": (make.make_tn3k, "tn3k", 10),
    "tg3k": (make.make_tg3k, "tg3k", 12),
    "ddti xml": (make.make_ddti_xml, "ddti", 4),
    "ddti views": (make.make_ddti_views, "ddti", 5),
    "plain": (make.make_plain, "plain", 8),
    "coco": (make.make_coco, "coco", 6),
    "voc": (make.make_voc, "voc", 6),
}


MASK_FILES = [name for name in MAKERS if name not in ("ddti xml", "coco", "voc")]
"""The layouts whose masks are files, one for each image."""


@pytest.fixture(params=MAKERS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str, int]:
    maker, layout, images = MAKERS[request.param]
    return maker(tmp_path / "set"), layout, images


def _recognised(root: Path) -> set[str]:
    names = {name for name, layout in LAYOUTS.items() if layout.recognise(root)}
    return names - {LAYOUTS[name].refines for name in names}


def _find(root: Path, layout: str) -> FolderContents:
    return LAYOUTS[layout].find(root)


def test_exactly_one_layout_is_recognised(folder: tuple[Path, str, int]) -> None:
    root, layout, _ = folder
    assert _recognised(root) == {layout}
    assert _recognised(root.parent) == set()


def test_records_are_complete_and_load(folder: tuple[Path, str, int]) -> None:
    root, layout, images = folder
    records = _find(root, layout).records
    assert len(records) == images
    assert len({record["name"] for record in records}) == images
    for record in records:
        assert Path(record["image"]) == root / record["name"]
        assert all(Path(mask).is_file() for mask in record["label"])
        assert bool(record["label"]) != ("outlines" in record)
        assert all(isinstance(text, str) for text in (record["group"], *record["subgroup"].values()))
        size = (64, 80) if record["name"] in {f"thyroid-image/{k:04d}.jpg" for k in (4, 5, 6)} else make.SIZE
        assert record_mask(record, size).any()


@pytest.mark.parametrize("folder", MASK_FILES, indirect=True)
def test_an_image_that_lost_its_mask_is_named(folder: tuple[Path, str, int]) -> None:
    root, layout, _ = folder
    record = _find(root, layout).records[0]
    Path(record["label"][0]).unlink()
    with pytest.raises(InputError, match="has no mask") as error:
        _find(root, layout)
    assert record["image"] in str(error.value)


@pytest.mark.parametrize("folder", MASK_FILES, indirect=True)
def test_a_mask_that_lost_its_image_is_named(folder: tuple[Path, str, int]) -> None:
    root, layout, _ = folder
    record = _find(root, layout).records[0]
    Path(record["image"]).unlink()
    with pytest.raises(InputError, match="has no image") as error:
        _find(root, layout)
    assert record["label"][0] in str(error.value)


# --- one by one -----------------------------------------------------------------------------------


def test_busi_unites_numbered_masks_and_skips_normal(tmp_path: Path) -> None:
    root = make.make_busi(tmp_path, benign=2, malignant=1, normal=3)
    make.save(root / "benign" / "benign (1)_mask_1.png", make.disc(radius=4, centre=(8, 8)))
    make.save(root / "benign" / "benign (1)_mask_2.png", make.disc(radius=4, centre=(50, 60)))
    found = _find(root, "busi")
    first = next(record for record in found.records if record["name"] == "benign/benign (1).png")
    assert [Path(mask).name for mask in first["label"]] == [
        f"benign (1)_mask{k}.png" for k in ("", "_1", "_2")
    ]
    mask = record_mask(first, make.SIZE)
    assert mask[8, 8] and mask[50, 60] and mask[30, 36]
    assert [Path(record["image"]).stem for record in found.normal[""]] == [f"normal ({k})" for k in (1, 2, 3)]
    assert Counter(record["subgroup"]["class"] for record in found.records) == {"benign": 2, "malignant": 1}
    assert found.grouping == NEAR_DUPLICATES


def test_busi_with_one_class_only(tmp_path: Path) -> None:
    assert _recognised(make.make_busi(tmp_path / "a", malignant=0)) == {"busi"}


def test_busbra_takes_patients_from_its_table(tmp_path: Path) -> None:
    found = _find(make.make_busbra(tmp_path), "busbra")
    assert found.grouping == PATIENT
    assert [record["group"] for record in found.records] == ["P0001", "P0001", "P0002", "P0003"]
    assert found.records[0]["subgroup"] == {"class": "malignant", "birads": "4", "device": "GE"}


def test_busbra_without_its_table_takes_patients_from_the_names(tmp_path: Path) -> None:
    found = _find(make.make_busbra(tmp_path, table=False), "busbra")
    assert [record["group"] for record in found.records] == ["1", "1", "2", "3"]


def test_busbras_names_and_table_agree(shared_data: Path) -> None:
    found = _find(shared_data / "busbra", "busbra")
    for record in found.records:
        assert record["group"] == str(int(Path(record["name"]).stem[4:8]))


def test_tn3k_keeps_its_fold_and_its_test_folder(tmp_path: Path) -> None:
    parts = _find(make.make_tn3k(tmp_path), "tn3k").parts
    assert parts is not None
    assert [record["name"] for record in parts["val"]] == [f"trainval-image/{k:04d}.jpg" for k in (5, 6)]
    assert [record["name"] for record in parts["test"]] == [f"test-image/{k:04d}.jpg" for k in range(3)]
    assert len(parts["train"]) == 5


def test_tn3k_says_what_its_fold_file_lacks(tmp_path: Path) -> None:
    root = make.make_tn3k(tmp_path)
    fold = root / "tn3k-trainval-fold0.json"
    fold.write_text(json.dumps({"train": [0, 1, 2, 77], "val": [5]}))
    assert _find(root, "tn3k").skipped == {
        "images that the fold file lists and the folder lacks": 1,
        "images that the fold file does not list": 3,
    }
    fold.write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        _find(root, "tn3k")
    fold.unlink()
    with pytest.raises(InputError, match=r"has no tn3k-trainval-fold0\.json"):
        _find(root, "tn3k")


def test_tg3k_is_grouped_by_video_and_not_by_its_leaking_list(tmp_path: Path) -> None:
    found = _find(make.make_tg3k(tmp_path), "tg3k")
    assert found.grouping == VIDEO and found.parts is None
    assert [record["group"] for record in found.records] == ["video 1"] * 4 + ["video 2"] * 3 + [
        "video 3"
    ] * 5


def test_ddti_polygons_are_drawn_salvaged_and_counted(tmp_path: Path) -> None:
    found = _find(make.make_ddti_xml(tmp_path), "ddti")
    assert [record["name"] for record in found.records] == ["1_1.jpg", "1_2.jpg", "2_1.jpg", "3_1.jpg"]
    assert [record["group"] for record in found.records] == ["1", "1", "2", "3"]
    assert found.skipped == {"images without a drawn outline": 1}
    square = np.zeros(make.SIZE, bool)
    square[20:45, 10:30] = True
    for place in (0, 3):  # patient 3's file breaks off after the polygon
        np.testing.assert_array_equal(record_mask(found.records[place], make.SIZE), square)
    two = record_mask(found.records[2], make.SIZE)
    assert (two & square).sum() == square.sum()
    assert 35 <= (two & ~square).sum() <= 55  # half of 10 x 10


def test_ddti_views_are_grouped_by_patient(tmp_path: Path) -> None:
    found = _find(make.make_ddti_views(tmp_path), "ddti")
    assert [record["group"] for record in found.records] == ["12", "1", "1", "1", "7"]


def test_ddti_numbered_has_no_patients(tmp_path: Path) -> None:
    make.make_pairs(tmp_path / "p_image", tmp_path / "p_mask", ["1.png", "2.png"])
    assert _recognised(tmp_path) == {"ddti"}
    assert _find(tmp_path, "ddti").grouping == NEAR_DUPLICATES


@pytest.mark.parametrize(
    "content", ["<case><mark>", "", "nonsense", '<?xml version="1.0" encoding="x"?><a/>']
)
def test_a_patient_of_broken_xml_is_left_out_by_name(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = make.make_ddti_xml(tmp_path)
    (root / "2.xml").write_text(content)
    found = _find(root, "ddti")
    assert {Path(record["name"]).name for record in found.records} == {"1_1.jpg", "1_2.jpg", "3_1.jpg"}
    assert found.skipped["patients left out, whose XML is damaged"] == 1
    assert "2.xml" in caplog.text and "2_1.jpg" in caplog.text


@pytest.mark.parametrize("points", ['[{"x": 1}]', "[1, 2, 3]", '[{"x": "a", "y": 1}]', "[{'x': 1}]", "[NaN]"])
def test_drawings_of_ddti_that_are_none_leave_the_picture_out(tmp_path: Path, points: str) -> None:
    root = make.make_ddti_xml(tmp_path)
    mark = f'<mark><image>1</image><svg>[{{"points": {points}}}]</svg></mark>'
    (root / "2.xml").write_text(f"<case>{mark}</case>")
    found = _find(root, "ddti")
    assert "2_1.jpg" not in {record["name"] for record in found.records}
    assert found.skipped == {"images without a drawn outline": 2}


def _with_masks(images: Path, masks: Path, image: str, mask: str) -> None:
    for k in range(3):
        make.save(images / image.format(k), make.speckle(k))
        make.save(masks / mask.format(k), make.disc())


@pytest.mark.parametrize(
    ("images", "image", "masks", "mask", "layout"),
    [
        ("original", "{:03}.png", "GT", "{:03}.png", "plain"),
        ("img", "{}.bmp", "label", "{}.png", "plain"),
        ("image", "{}.jpg", "mask", "{}_segmentation.png", "plain"),
        ("images", "{}.png", "masks", "{}_Mask.png", "plain"),
        ("JPEGImages", "{}.jpg", "SegmentationClass", "{}.png", "plain"),
        ("imagesTr", "{:03}_0000.png", "labelsTr", "{:03}.png", "nnunet"),
        (".", "case{}.png", ".", "case{}_tumor.png", "suffix"),
        (".", "{}_HC.png", ".", "{}_HC_Annotation.png", "suffix"),
        (".", "a{}_image.png", ".", "a{}_mask.png", "suffix"),
        (".", "Test_Image_{}.png", ".", "mask_{}.png", "stu"),
        ("train/images", "{}.png", "train/masks", "{}.png", "split"),
        ("images/train", "{}.png", "masks/train", "{}.png", "split"),
        ("train_images", "{}.png", "train_masks", "{}.png", "split"),
        ("images", "{}.png", "annotations", "{}.png", "plain"),
        ("input", "{}.png", "target", "{}.png", "plain"),
        ("Original", "{}.png", "Ground truth", "{}.png", "plain"),
        ("img_dir", "{}.png", "ann_dir", "{}.png", "plain"),
        ("images/benign", "{}.png", "masks/benign", "{}_mask.png", "plain"),
        ("images", "a{}_image.png", "masks", "a{}_binary.png", "plain"),
        ("images", "us_{:02}0.png", "masks", "mask_{:02}0.png", "plain"),
        ("images", "{}.nrrd.png", "seg", "{}.nrrd.seg.png", "plain"),
    ],
)
def test_layouts_of_many_sets(
    tmp_path: Path, images: str, image: str, masks: str, mask: str, layout: str
) -> None:
    _with_masks(tmp_path / images, tmp_path / masks, image, mask)
    assert _recognised(tmp_path) == {layout}
    records = _find(tmp_path, layout).records
    assert len(records) == 3
    for k, record in enumerate(records):
        assert Path(record["image"]) == tmp_path / images / image.format(k)
        assert [Path(path) for path in record["label"]] == [tmp_path / masks / mask.format(k)]
        assert record.get("masks") == ("filled" if "Annotation" in mask else None)


def test_names_that_only_end_in_the_same_number_are_no_pairs(tmp_path: Path) -> None:
    make.save(tmp_path / "images" / "10.png", make.speckle(0))
    make.save(tmp_path / "images" / "20.png", make.speckle(1))
    make.save(tmp_path / "masks" / "1.png", make.disc())
    make.save(tmp_path / "masks" / "2.png", make.disc())
    with pytest.raises(InputError, match="has no mask"):
        _find(tmp_path, "plain")


def test_folders_of_other_things_do_not_hide_images_and_masks(tmp_path: Path) -> None:
    _with_masks(tmp_path / "images", tmp_path / "masks", "{}.png", "{}.png")
    for name in ("annotations", "data", "seg"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.json").write_text("{}")
    assert _recognised(tmp_path) == {"plain"}
    assert len(_find(tmp_path, "plain").records) == 3


@pytest.mark.parametrize("parts", [("train", "val", "test"), ("training", "validation", "testing")])
def test_folders_of_parts_are_the_sets_own_split(tmp_path: Path, parts: tuple[str, ...]) -> None:
    for number, part in enumerate(parts, start=1):
        make.make_pairs(
            tmp_path / part / "images", tmp_path / part / "masks", [f"{k}.png" for k in range(number)]
        )
    own = _find(tmp_path, "split").parts
    assert own is not None
    assert {part: len(records) for part, records in own.items()} == {"train": 1, "val": 2, "test": 3}
    assert own["test"][0]["name"] == f"{parts[2]}/images/0.png"


def test_names_are_compared_in_one_unicode_form(tmp_path: Path) -> None:
    make.save(tmp_path / "images" / "e\u0301cho.png", make.speckle(1))
    make.save(tmp_path / "masks" / "\u00e9cho.png", make.disc())
    assert len(_find(tmp_path, "plain").records) == 1


def test_pairs_of_nifti_nrrd_and_dicom(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for name, suffix in (("a", ".nii.gz"), ("b", ".nrrd"), ("c", ".dcm")):
        for folder, pixels in (("images", make.speckle(1)), ("masks", np.uint8(make.disc()))):
            path = tmp_path / folder / f"{name}{suffix}"
            if suffix == ".dcm":
                save_dicom(path, pixels)
            else:
                sitk.WriteImage(sitk.GetImageFromArray(pixels), str(path))
    for record in _find(tmp_path, "plain").records:
        np.testing.assert_array_equal(record_mask(record, make.SIZE), make.disc())


@pytest.mark.parametrize(("images", "masks"), [("Images", "MASKS"), ("images", "Masks")])
def test_plain_in_any_case(tmp_path: Path, images: str, masks: str) -> None:
    root = make.make_plain(tmp_path, 3, images, masks)
    assert _recognised(root) == {"plain"}
    assert {record["name"] for record in _find(root, "plain").records} == {
        f"{images}/case_{k}.png" for k in range(3)
    }


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    root = make.make_plain(tmp_path, 2)
    make.save(root / "images" / "case_0.jpg", make.speckle(0))
    with pytest.raises(InputError, match=r"case_0\.png' differ in their ending only|case_0\.jpg' and"):
        _find(root, "plain")
