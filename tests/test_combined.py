"""Several data sets put together: each divided as it is alone, apart by name, repeated as often as given."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import data_folders as make
from lmsfe_sam.data.combined import combine, find_records
from lmsfe_sam.data.datalist import DataList, build_datalist
from lmsfe_sam.data.splits import PARTS
from lmsfe_sam.errors import InputError


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    make.make_busi(tmp_path / "busi", benign=6, malignant=4)
    make.make_plain(tmp_path / "thyroid", number=10)
    return [str(tmp_path / "busi"), str(tmp_path / "thyroid")]


def _found(folders: list[str], repeats: list[int] | None = None) -> DataList:
    return find_records(folders, "auto", "group", 0, 120, repeats)


def test_each_set_is_divided_as_it_is_alone(folders: list[str]) -> None:
    together = _found(folders)
    for folder, name in zip(folders, ("busi", "thyroid"), strict=True):
        alone = build_datalist(folder)
        for part in PARTS:
            own = [record for record in together.records[part] if record["subgroup"]["set"] == name]
            assert [record["image"] for record in own] == [r["image"] for r in alone.records[part]]
            assert all(record["name"].startswith(f"{name}/") for record in own)
            assert all(record["group"].startswith(f"{name}/") for record in own)


def test_training_images_alone_are_shown_as_often_as_asked(folders: list[str]) -> None:
    once, more = _found(folders), _found(folders, [1, 3])
    assert more.records["val"] == once.records["val"] and more.records["test"] == once.records["test"]
    counts = Counter(record["name"] for record in more.records["train"])
    assert all(n == (1 if name.startswith("busi/") else 3) for name, n in counts.items())
    assert len(more.select("all")) == len(once.select("all"))


def test_without_a_test_part_the_validation_part_stays_and_the_rest_is_trained_on(folders: list[str]) -> None:
    usual = _found(folders)
    whole = find_records(folders, "auto", "group", 0, 120, test_fraction=0.0)
    names = {part: {r["name"] for r in usual.records[part]} for part in PARTS}
    assert names["test"] and not whole.records["test"]
    assert {r["name"] for r in whole.records["val"]} == names["val"]
    assert {r["name"] for r in whole.records["train"]} == names["train"] | names["test"]


def test_the_list_is_written_and_read_back(folders: list[str], tmp_path: Path) -> None:
    together = _found(folders, [2, 1])
    path = together.write(tmp_path / "run" / "datalist.json")
    back = build_datalist(path)
    for part in PARTS:
        assert [r["name"] for r in back.records[part]] == [r["name"] for r in together.records[part]]
        assert [r["image"] for r in back.records[part]] == [r["image"] for r in together.records[part]]


def test_repeats_that_do_not_fit_and_a_set_named_twice_are_refused(folders: list[str]) -> None:
    for repeats in ([1], [1, 0], [1, 2, 3]):
        with pytest.raises(InputError, match="repeats"):
            _found(folders, repeats)
    with pytest.raises(InputError, match="once"):
        _found([folders[0], folders[0]])
    with pytest.raises(InputError, match="sets"):
        combine([])


def test_what_is_said_of_data_sets_needs_one() -> None:
    with pytest.raises(InputError, match=r"prompted_only is \['usgra'\], of data sets, but there is none"):
        find_records(None, "auto", "group", 0, 12, prompted_only=["usgra"])
    with pytest.raises(InputError, match=r"objects is \['parts', 'union'\], of data sets"):
        find_records(None, "auto", "group", 0, 12, objects=["parts", "union"])
    assert find_records(None, "auto", "group", 0, 12, objects="parts").layout == "phantoms"
