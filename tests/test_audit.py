"""The audit finds planted faults, and its page stands alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import data_folders as make
from lmsfe_sam.data.audit import Audit, audit, main
from lmsfe_sam.data.datalist import build_datalist
from lmsfe_sam.errors import InputError

SIZE = (240, 300)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine images whose data list parts a pair, with an empty mask, a size mismatch and a truncated file."""
    root = tmp_path_factory.mktemp("data") / "faulty <set>"
    pictures = [make.speckle(k, SIZE) for k in range(9)]
    pictures[5] = np.roll(pictures[0], 3, 1)  # in test, and 0 in training
    pictures[2] = np.roll(pictures[1], 3, 0)  # both in training
    pictures[3][118:121, 190:211] = pictures[3][109:130, 199:202] = 255
    masks = [make.disc(SIZE, 50) for _ in range(9)]
    masks[6][:] = False
    masks[7] = make.disc((100, 100))
    for k in range(9):
        make.save(root / "images" / f"{k}.png", pictures[k])
        make.save(root / "masks" / f"{k}.png", masks[k])
    broken = root / "images" / "8.png"
    broken.write_bytes(broken.read_bytes()[:3000])
    items = [
        {
            "image": f"images/{k}.png",
            "label": f"masks/{k}.png",
            "subgroup": {"class": "benign" if k < 5 else "malignant"},
        }
        for k in range(9)
    ]
    content = {
        "name": "faulty <set>",
        "training": items[:5],
        "validation": items[6:],
        "test": [items[5], items[4]],
    }
    (root / "datalist.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def found(faulty: Path) -> Audit:
    return audit(build_datalist(faulty))


def test_every_planted_fault_is_found(found: Audit) -> None:
    counts = {what: (number, fault) for what, number, fault in found.counts()}
    assert counts["images"] == (9, False)
    assert counts["images in both train and test"] == (1, True)
    assert counts["empty masks"] == (1, True)
    assert counts["size mismatches"] == (1, True)
    assert counts["unreadable files or bad masks"] == (1, True)
    assert counts["near-duplicate pairs"] == (2, False)
    assert counts["near-duplicate pairs in two parts of the split"] == (1, True)
    assert counts["near-duplicate pairs of two classes or patients"] == (1, True)
    assert counts["images with markings near a lesion"] == (1, False)


def test_pairs_and_markings_are_the_planted_ones(found: Audit) -> None:
    names = [record["name"] for record in found.records]
    assert [(names[pair.first], names[pair.second]) for pair in found.crossing()] == [
        ("images/0.png", "images/5.png")
    ]
    assert [(names[pair.first], names[pair.second]) for pair in found.within()] == [
        ("images/1.png", "images/2.png")
    ]
    assert [names[place] for place in found.markings] == ["images/3.png"]
    sentences = " ".join(problem.sentence for problem in found.problems)
    assert all(f"{k}.png" in sentences for k in (6, 7, 8))


def test_the_command_writes_a_page_that_stands_alone(
    faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "audit.html"
    main([str(faulty), "--output", str(page), "--datalist", str(tmp_path / "datalist.json")])
    text = page.read_text()
    assert text.count("data:image/jpeg;base64,") == 2 + 2 + 2 + 1
    assert not re.search(r'(src|href)="(?!data:)|https?://|@import', text)
    assert "{{" not in text and "{%" not in text
    assert "faulty &lt;set&gt;" in text and "<set>" not in text
    printed = capsys.readouterr().out
    assert "1  near-duplicate pairs in two parts of the split" in printed
    assert build_datalist(tmp_path / "datalist.json").counts() == "5 train, 3 val, 2 test"


def test_long_galleries_say_what_they_leave_out(faulty: Path, tmp_path: Path) -> None:
    main([str(faulty), "--output", str(tmp_path / "a.html"), "--most", "0"])
    text = (tmp_path / "a.html").read_text()
    assert "data:image" not in text and text.count("0 of 1 are shown.") == 4


def test_a_clean_folder_is_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make.make_busi(tmp_path / "set", normal=2)
    main([str(tmp_path / "set"), "--output", str(tmp_path / "a.html")])
    text = (tmp_path / "a.html").read_text()
    assert 'class="fault"' not in text and text.count("None.") == 5
    assert "2  normal images, without a lesion" in capsys.readouterr().out


def test_two_patients_with_one_picture(tmp_path: Path) -> None:
    root = make.make_busbra(tmp_path, ("0001-l", "0002-l", "0003-l", "0004-l"))
    make.save(root / "Images" / "bus_0003-l.png", make.speckle(0))
    counts = {what: number for what, number, _ in audit(build_datalist(root)).counts()}
    assert counts["near-duplicate pairs of two classes or patients"] == 1


def test_what_cannot_be_audited_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        main([str(tmp_path / "absent")])
