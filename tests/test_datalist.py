"""From a folder to divided records, to a file that can be published, and back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import data_folders as make
from lmsfe_sam.data.checking import check_records
from lmsfe_sam.data.combined import find_records
from lmsfe_sam.data.datalist import (
    DataList,
    build_datalist,
    effective_split,
)
from lmsfe_sam.data.masks.reading import record_mask
from lmsfe_sam.data.splits import PARTS
from lmsfe_sam.errors import InputError

LARGE = (240, 300)


def _groups(datalist: DataList) -> list[set[str]]:
    return [{record["group"] for record in datalist.records[part]} for part in PARTS]


# --- finding the folder ---------------------------------------------------------------------------


def test_the_folder_itself_or_its_parent(tmp_path: Path) -> None:
    root = make.make_busi(tmp_path / "download" / "Dataset_BUSI_with_GT")
    for folder in (root, root.parent):
        datalist = build_datalist(folder)
        assert (datalist.name, datalist.layout, datalist.root) == ("busi", "busi", root)
        assert len(datalist.select("all")) == 7


def test_a_relative_folder_gives_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make.make_plain(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    datalist = build_datalist("mine")
    assert datalist.name == "mine"
    assert all(Path(record["image"]).is_absolute() for record in datalist.select("all"))


def test_two_layouts_in_one_folder_ask_for_one(tmp_path: Path) -> None:
    make.make_busi(make.make_plain(tmp_path))
    with pytest.raises(InputError, match=r"ambiguous \(busi in .*, plain in .*--layout"):
        build_datalist(tmp_path)
    assert build_datalist(tmp_path, layout="busi").layout == "busi"
    assert build_datalist(tmp_path, layout="plain").layout == "plain"


def test_two_data_sets_side_by_side_ask_for_one(tmp_path: Path) -> None:
    make.make_tn3k(tmp_path / "tn3k")
    make.make_tg3k(tmp_path / "tg3k")
    with pytest.raises(InputError, match=r"ambiguous \(tg3k in tg3k/, tn3k in tn3k/\)"):
        build_datalist(tmp_path)
    assert build_datalist(tmp_path, layout="tg3k").root == tmp_path / "tg3k"


def test_a_special_layout_can_be_read_as_plain(tmp_path: Path) -> None:
    make.make_ddti_views(tmp_path)
    assert build_datalist(tmp_path).layout == "ddti"
    assert build_datalist(tmp_path, layout="plain").layout == "plain"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"layout": "busy"}, "layout 'busy' is unknown: give auto, datalist, busi"),
        ({"split_rule": "random"}, "split_rule 'random' is unknown: give one of group, paper"),
        ({"validation_fraction": 0.6, "test_fraction": 0.4}, "leave something to train on"),
        ({"test_fraction": -0.1}, "leave something to train on"),
        ({"layout": "datalist"}, "has no datalist.json"),
        ({"layout": "tn3k"}, "in no known layout.*tn3k: trainval-image"),
        ({"split_rule": "paper"}, "no counts for the layout plain, only for busi"),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, arguments: dict[str, object], sentence: str) -> None:
    make.make_plain(tmp_path)
    with pytest.raises(InputError, match=sentence):
        build_datalist(tmp_path, **arguments)  # type: ignore[arg-type]


def test_folders_without_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dataset_dir '.*absent' does not exist"):
        build_datalist(tmp_path / "absent")
    with pytest.raises(InputError, match="is empty"):
        build_datalist(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"no known layout.*busi: .*plain: "):
        build_datalist(tmp_path)
    with pytest.raises(InputError, match=r"is a file, and no datalist\.json"):
        build_datalist(tmp_path / "notes.txt")
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="holds no images"):
        build_datalist(tmp_path)


# --- dividing -------------------------------------------------------------------------------------


def _plain_with_copies(root: Path, order: list[int] | None = None) -> Path:
    """20 images, of which 3 and 4, 8 and 9, 9 and 10 are near-duplicates."""
    pictures = [make.speckle(k, LARGE) for k in range(20)]
    for first, second in ((3, 4), (8, 9), (9, 10)):
        pictures[second] = np.roll(pictures[first], (2, -3), (0, 1))
    for k in order or range(20):
        make.save(root / "images" / f"{k:02d}.png", pictures[k])
        make.save(root / "masks" / f"{k:02d}.png", make.disc(LARGE))
    return root


def test_near_duplicates_stay_together(tmp_path: Path) -> None:
    root = _plain_with_copies(tmp_path)
    for seed in range(8):
        datalist = build_datalist(root, seed=seed)
        train, val, test = _groups(datalist)
        assert not (train & val or train & test or val & test)
        groups = {record["name"]: record["group"] for record in datalist.select("all")}
        assert groups["images/04.png"] == groups["images/03.png"] == "images/03.png"
        assert groups["images/10.png"] == "images/08.png"
        assert len(set(groups.values())) == 17
        assert datalist.counts() == "14 train, 2 val, 4 test"


def test_the_order_of_writing_does_not_matter(tmp_path: Path) -> None:
    one = build_datalist(_plain_with_copies(tmp_path / "set"))
    shutil.rmtree(tmp_path / "set")
    other = build_datalist(_plain_with_copies(tmp_path / "set", list(range(19, -1, -1))))
    assert one.records == other.records


def test_seeds_differ(tmp_path: Path) -> None:
    root = _plain_with_copies(tmp_path)
    assert build_datalist(root, seed=1).records["test"] != build_datalist(root, seed=2).records["test"]
    assert build_datalist(root, seed=1).records == build_datalist(root, seed=1).records


def test_patients_stay_together(tmp_path: Path) -> None:
    cases = [f"{case:04d}-{side}" for case in range(1, 13) for side in "lr"]
    train, val, test = _groups(build_datalist(make.make_busbra(tmp_path, cases)))
    assert len(train | val | test) == 12 == len(train) + len(val) + len(test)


def test_parts_can_be_left_out(tmp_path: Path) -> None:
    datalist = build_datalist(make.make_plain(tmp_path), validation_fraction=0.25, test_fraction=0)
    assert datalist.counts() == "6 train, 2 val, 0 test"
    with pytest.raises(InputError, match=r"split 'test' of .* is empty \(6 train, 2 val, 0 test\)"):
        datalist.select("test")
    with pytest.raises(InputError, match="split 'dev' is unknown: give train, val, test or all"):
        datalist.select("dev")


def test_a_folders_own_split_is_kept(tmp_path: Path) -> None:
    datalist = build_datalist(make.make_tn3k(tmp_path))
    assert datalist.own_split and datalist.counts() == "5 train, 2 val, 3 test"
    assert len(datalist.select(effective_split(datalist))) == 3
    assert len(datalist.select(effective_split(datalist, "val"))) == 2
    assert len(datalist.select(effective_split(datalist, "all"))) == 10


def test_evaluating_a_folder_without_split_means_all(tmp_path: Path) -> None:
    datalist = build_datalist(make.make_plain(tmp_path))
    assert effective_split(datalist) == effective_split(datalist, "test") == "all"
    assert len(datalist.select(effective_split(datalist, "test"))) == 8
    assert datalist.select(effective_split(datalist, "val")) == datalist.records["val"]


def test_the_papers_split_of_busi(tmp_path: Path) -> None:
    datalist = build_datalist(make.make_busi(tmp_path, benign=12, malignant=8), split_rule="paper")
    train, test = datalist.records["train"], datalist.records["test"]
    assert (len(train), len(test)) == (16, 4)
    assert {record["name"] for record in datalist.records["val"]} < {record["name"] for record in train}
    assert not {record["group"] for record in train} & {record["group"] for record in test}
    assert "518 training and 129 test images, 647 in all; of the 20 found, 16 and 4" in datalist.summary()
    assert len(datalist.select(effective_split(datalist))) == 4
    assert len(datalist.select("all")) == 20


def test_the_papers_split_of_the_thyroid_sets(tmp_path: Path) -> None:
    pooled = build_datalist(make.make_tn3k(tmp_path / "tn3k"), split_rule="paper")
    assert (len(pooled.records["train"]), len(pooled.records["test"])) == (8, 2)
    assert (
        build_datalist(make.make_tg3k(tmp_path / "tg3k"), split_rule="paper").counts()
        == "12 train, 3 val, 0 test"
    )
    ddti = build_datalist(make.make_ddti_views(tmp_path / "ddti"), split_rule="paper")
    assert ddti.counts() == "0 train, 0 val, 5 test"
    assert len(ddti.select(effective_split(ddti))) == 5


def test_the_shared_sets(shared_data: Path) -> None:
    for name, images, grouping in (
        ("busi", 518, "near-duplicate group"),
        ("busbra", 1309, "patient"),
        ("ddti", 245, "patient"),
    ):
        datalist = build_datalist(shared_data / name)
        assert (datalist.name, datalist.grouping, datalist.own_split) == (name, grouping, False)
        assert len(datalist.select("all")) == images
        train, val, test = _groups(datalist)
        assert not (train & val or train & test or val & test)
        assert abs(len(datalist.records["val"]) - 0.1 * images) < 2
        assert abs(len(datalist.records["test"]) - 0.2 * images) < 2


# --- datalist.json --------------------------------------------------------------------------------


@pytest.mark.parametrize("maker", [make.make_busi, make.make_ddti_xml, make.make_coco])
def test_written_and_read_back(tmp_path: Path, maker: object) -> None:
    datalist = build_datalist(maker(tmp_path / "set"), seed=5)  # type: ignore[operator]
    path = datalist.write(tmp_path / "run" / "datalist.json")
    for again in (build_datalist(path), build_datalist(path.parent), build_datalist(path.parent, "datalist")):
        assert again.records == datalist.records
        assert (again.name, again.root, again.own_split) == (datalist.name, datalist.root, True)
        assert again.select(effective_split(again)) == datalist.records["test"]


def test_what_the_file_states(tmp_path: Path) -> None:
    path = build_datalist(make.make_busi(tmp_path / "set", normal=2), seed=5).write(
        tmp_path / "datalist.json"
    )
    content = json.loads(path.read_text())
    assert (content["name"], content["split_rule"], content["seed"]) == ("busi", "group", 5)
    assert content["counts"] == {part: len(content[part]) for part in ("training", "validation", "test")}
    assert content["skipped"] == {"normal images, without a lesion": 2}
    entry = content["training"][0]
    assert not Path(entry["image"]).is_absolute() and entry["label"].endswith("_mask.png")
    assert entry["subgroup"]["class"] in ("benign", "malignant")


def test_published_it_works_in_another_copy_of_the_folder(tmp_path: Path) -> None:
    datalist = build_datalist(make.make_busi(tmp_path / "here"))
    path = datalist.write(tmp_path / "datalist.json")
    elsewhere = tmp_path / "there"
    shutil.move(tmp_path / "here", elsewhere)
    with pytest.raises(InputError, match="put the list into the data set's folder"):
        build_datalist(path)
    shutil.move(path, elsewhere)
    again = build_datalist(elsewhere)
    assert (again.layout, again.root) == ("datalist", elsewhere)
    for part in PARTS:
        assert [record["name"] for record in again.records[part]] == [
            record["name"] for record in datalist.records[part]
        ]
    assert build_datalist(elsewhere, layout="busi").layout == "busi"


def test_monai_reads_it(tmp_path: Path) -> None:
    from monai.data import load_decathlon_datalist

    root = make.make_plain(tmp_path)
    datalist = build_datalist(root)
    path = datalist.write(root / "datalist.json")
    for part, section in (("train", "training"), ("val", "validation"), ("test", "test")):
        items = load_decathlon_datalist(str(path), is_segmentation=True, data_list_key=section)
        assert [item["image"] for item in items] == [record["image"] for record in datalist.records[part]]
        assert [[item["label"]] for item in items] == [record["label"] for record in datalist.records[part]]


def test_a_datalist_written_by_hand(tmp_path: Path) -> None:
    root = make.make_plain(tmp_path, 3)
    items = [{"image": f"images/case_{k}.png", "mask": f"masks/case_{k}.png"} for k in range(3)]
    (root / "datalist.json").write_text(json.dumps({"training": items[:2], "validation": items[2:]}))
    datalist = build_datalist(root)
    assert datalist.counts() == "2 train, 1 val, 0 test"
    assert datalist.records["train"][0] == {
        "image": str(root / "images" / "case_0.png"),
        "label": [str(root / "masks" / "case_0.png")],
        "name": "images/case_0.png",
        "group": "images/case_0.png",
        "subgroup": {},
    }


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "is no data list: it needs at least one list named training, validation, test"),
        ('{"training": []}', "is no data list"),
        ('{"training": ["a.png"]}', 'every entry needs an "image"'),
        (
            '{"training": [{"image": "images/case_0.png"}]}',
            "lists the image 'images/case_0.png' without a label",
        ),
        ('{"training": [{"image": "b.png", "label": "c.png"}]}', "lists 'b.png', which is not in"),
    ],
)
def test_bad_datalists_are_named(tmp_path: Path, content: str, sentence: str) -> None:
    root = make.make_plain(tmp_path, 2)
    (root / "datalist.json").write_text(content)
    with pytest.raises(InputError, match=sentence):
        build_datalist(root)


# --- checking the files ---------------------------------------------------------------------------


def test_good_records_pass(tmp_path: Path) -> None:
    check_records(build_datalist(make.make_busi(tmp_path)).select("all"))
    check_records([{"phantom": 3}])
    check_records([])


def test_sixteen_bit_and_rgba_images_simply_work(tmp_path: Path) -> None:
    root = make.make_plain(tmp_path, 4)
    make.save(root / "images" / "case_0.png", make.speckle(0).astype(np.uint16) * 257)
    make.save(root / "images" / "case_1.png", np.dstack([make.speckle(1)] * 4))
    check_records(build_datalist(root).select("all"))


def _save_mask(root: Path, pixels: np.ndarray) -> None:
    make.save(root / "masks" / "case_2.png", pixels)


def _truncate(root: Path) -> None:
    path = root / "images" / "case_2.png"
    path.write_bytes(path.read_bytes()[:-400])


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_truncate, r"case_2\.png' cannot be read as a picture"),
        (lambda root: _save_mask(root, make.speckle(9)), r"case_2\.png' is no mask"),
        (lambda root: _save_mask(root, make.disc((30, 30))), r"case_2\.png' 30 x 30"),
    ],
    ids=["truncated", "no mask", "sizes"],
)
def test_a_bad_file_is_named(tmp_path: Path, spoil: object, sentence: str) -> None:
    root = make.make_plain(tmp_path)
    spoil(root)  # type: ignore[operator]
    records = build_datalist(root).select("all")
    with pytest.raises(InputError, match=sentence):
        check_records(records)


def test_images_with_black_masks_are_normal_and_left_out(tmp_path: Path) -> None:
    root = make.make_plain(tmp_path)
    for k in (2, 5):
        make.save(root / "masks" / f"case_{k}.png", np.zeros(make.SIZE, bool))
    datalist = build_datalist(root)
    assert len(datalist.select("all")) == 6
    assert datalist.skipped == {"normal images, without a lesion": 2}
    for k in range(8):
        make.save(root / "masks" / f"case_{k}.png", np.zeros(make.SIZE, np.uint8))
    with pytest.raises(InputError, match=r"every mask in '.*' is all black"):
        build_datalist(root)


def test_outlines_and_inverted_masks_are_refused_with_the_remedy(tmp_path: Path) -> None:
    root = make.make_plain(tmp_path)
    ring = make.disc() & ~make.disc(radius=10.5)
    make.save(root / "masks" / "case_3.png", ring)
    with pytest.raises(InputError, match=r"case_3\.png' is an outline alone.*--masks filled"):
        check_records(build_datalist(root).select("all"))
    records = find_records(str(root), "auto", "group", 0, 0, masks="filled").select("all")
    check_records(records)
    for record in records:  # outlines are filled, and what is filled stays
        assert (record_mask(record, make.SIZE) == make.disc()).all()
    for k in range(8):
        make.save(root / "masks" / f"case_{k}.png", ~make.disc())
    with pytest.raises(InputError, match=r"8 of 8 masks.*--masks inverted"):
        check_records(build_datalist(root).select("all"))
    records = find_records(str(root), "auto", "group", 0, 0, masks="inverted").select("all")
    check_records(records)
    assert (record_mask(records[0], make.SIZE) == make.disc()).all()


def test_the_first_bad_record_is_the_one_named(tmp_path: Path) -> None:
    root = make.make_plain(tmp_path)
    for k in (5, 1, 6):
        make.save(root / "masks" / f"case_{k}.png", make.speckle(k + 20))
    with pytest.raises(InputError, match=r"case_1\.png"):
        check_records(build_datalist(root).select("all"))


def test_names_are_relative_to_the_folder_that_was_given(tmp_path: Path) -> None:
    """``metrics.csv`` promises paths relative to ``dataset_dir``, which may be the data set's parent."""
    root = tmp_path / "Dataset_BUSI_with_GT"
    make.make_busi(root)
    for given in (root, tmp_path):
        datalist = build_datalist(given)
        assert all((given / record["name"]).is_file() for record in datalist.select("all"))
    by_parent, by_root = build_datalist(tmp_path), build_datalist(root)
    for part in ("train", "val", "test"):
        images = [[record["image"] for record in own.records[part]] for own in (by_parent, by_root)]
        assert images[0] == images[1]
