"""Data sets that are not as their layout has it: what is left out is counted and named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

import data_folders as make
from lmsfe_sam.data.audit import audit
from lmsfe_sam.data.checking import check_records
from lmsfe_sam.data.datalist import build_datalist
from lmsfe_sam.data.layouts.registry import LAYOUTS
from lmsfe_sam.data.masks.reading import record_mask
from lmsfe_sam.errors import InputError


@pytest.mark.parametrize(
    ("picture", "points"),
    [
        (1, "[[1000, 2000], [3000, 2000], [3000, 3000]]"),
        (1, "[[1, 2], [2, 4], [3, 6]]"),
        (1, "[[1e308, 2], [-1e308, 2], [30, 1e308]]"),
        (99, "[[1, 2], [30, 2], [30, 30]]"),
    ],
)
def test_outlines_of_ddti_that_hold_nothing_are_left_out_by_name(
    tmp_path: Path, picture: int, points: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = make.make_ddti_xml(tmp_path)
    drawn = json.dumps([{"points": [{"x": x, "y": y} for x, y in json.loads(points)]}])
    (root / "2.xml").write_text(f"<case><mark><image>{picture}</image><svg>{drawn}</svg></mark></case>")
    found = LAYOUTS["ddti"].find(root)
    assert found.skipped["outlines that hold no pixel of a picture"] == 1
    assert f"an outline of 2_{picture}" in caplog.text
    for record in found.records:
        record_mask(record, make.SIZE)


def test_images_in_subfolders_are_counted(tmp_path: Path) -> None:
    root = make.make_plain(tmp_path)
    for name in ("a/x.png", "a/b/y.jpg", ".z/w.png", "a/notes.txt"):
        make.save(root / "images" / f"{name}.png", make.speckle(1)).rename(root / "images" / name)
    assert list(LAYOUTS["plain"].find(root).skipped.values()) == [2]


def test_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    root = make.make_plain(tmp_path)
    (root / "images" / "case_0.png").rename(root / "images" / os.fsdecode(b"\xe9.png"))
    with pytest.raises(InputError, match=r"\\xe9\.png' has a name that is not UTF-8: rename it"):
        LAYOUTS["plain"].find(root)


def test_a_mask_of_several_pages_is_named(tmp_path: Path) -> None:
    root = make.make_plain(tmp_path)
    pages = [Image.fromarray(make.disc())] * 3
    (root / "masks" / "case_2.png").unlink()
    pages[0].save(root / "masks" / "case_2.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match=r"case_2\.tif' has 3 slices, and a data set takes files of one"):
        check_records(build_datalist(root).select("all"))
    (problem,) = audit(build_datalist(root)).problems
    assert "a data set takes files of one" in problem.sentence


def test_test_images_of_nnunet_without_labels_are_counted(tmp_path: Path) -> None:
    make.save(tmp_path / "imagesTr" / "a_0000.png", make.speckle(1))
    make.save(tmp_path / "labelsTr" / "a.png", make.disc())
    make.save(tmp_path / "imagesTs" / "b_0000.png", make.speckle(2))
    assert LAYOUTS["nnunet"].find(tmp_path).skipped == {"files of imagesTs, without labelsTs": 1}


def test_labels_that_are_texts_are_named(tmp_path: Path) -> None:
    make.save(tmp_path / "images" / "a.png", make.speckle(1))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.2 0.2 0.5 0.5 0.7 0.2")
    with pytest.raises(InputError, match=r"labels' holds no mask that is read, but 1 other .* 'a\.txt'"):
        LAYOUTS["plain"].find(tmp_path)
