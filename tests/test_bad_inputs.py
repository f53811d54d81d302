"""What the campaign of benchmarks/reliability/bad_inputs.py has found, kind by kind."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bombs import meta
from data_folders import SIZE, disc, make_plain, save, speckle
from lmsfe_sam import options
from lmsfe_sam.batch.record import Record
from lmsfe_sam.batch.sources import read_sources
from lmsfe_sam.batch.storage import Store
from lmsfe_sam.data.combined import find_records
from lmsfe_sam.data.datalist import build_datalist
from lmsfe_sam.data.foreign_masks import ForeignMasks
from lmsfe_sam.data.masks.reading import record_mask
from lmsfe_sam.errors import InputError, find_input_error
from lmsfe_sam.files import atomic_write
from lmsfe_sam.images.reading import read_image
from lmsfe_sam.inference.inputs import find_inputs
from lmsfe_sam.selftest import __main__ as selftest


@pytest.mark.parametrize("word", ["False", "false", "0"])
def test_a_metaimage_written_as_text_is_refused_and_not_read_as_numbers(tmp_path: Path, word: str) -> None:
    meta(tmp_path / "a.mha", "8 8", b"0 " * 64, BinaryData=word)
    with pytest.raises(InputError, match=r"values written as text: save it with binary data"):
        read_image(tmp_path / "a.mha")


@pytest.mark.parametrize("name", ["n" * 300, "/".join(["folder"] * 1000)])
def test_a_path_that_is_too_long_for_the_system_is_a_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError) as raised:
        (tmp_path / name).stat()
    try:
        raise RuntimeError("Failed to instantiate component") from raised.value
    except RuntimeError as error:
        sentence = find_input_error(error)
    assert sentence is not None and len(str(sentence)) <= 500
    assert "is longer than this system allows: give a shorter one." in str(sentence)


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ELOOP, "leads back to itself"), (errno.EACCES, "change its permissions")]
)
def test_a_path_that_cannot_be_followed_is_a_sentence(number: int, words: str) -> None:
    try:
        raise RuntimeError("Symlink loop") from OSError(number, "from the system", "/data/scans")
    except RuntimeError as error:
        sentence = find_input_error(error)
    assert sentence is not None and "'/data/scans'" in str(sentence) and words in str(sentence)
    assert find_input_error(OSError(number, "without a path")) is None


def test_a_data_set_that_is_a_circular_link_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to("data")
    with pytest.raises((InputError, OSError, RuntimeError)) as raised:
        build_datalist(tmp_path / "data")
    sentence = find_input_error(raised.value)
    assert sentence is not None and str(tmp_path / "data") in str(sentence)


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_a_manifest_that_is_no_file_is_refused_before_it_is_opened(tmp_path: Path, ending: str) -> None:
    for name, make in (("pipe", os.mkfifo), ("endless", lambda path: path.symlink_to("/dev/zero"))):
        make(tmp_path / f"{name}{ending}")
        with pytest.raises(InputError, match=f"manifest '.*{name}{ending}' cannot be read"):
            next(read_sources(str(tmp_path / f"{name}{ending}"), {}))


def test_settings_of_a_job_that_are_no_file_are_refused_before_they_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "settings.json")
    with pytest.raises(InputError, match=r"settings\.json' cannot be read \(it is a folder, a pipe"):
        Record(Store(str(tmp_path), "job")).open({})


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/null")])
def test_a_device_or_a_pipe_is_not_replaced_by_a_file(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "page.html")
    sentence = r"page\.html' could not be written \(it is a folder, a pipe"
    with pytest.raises(InputError, match=sentence), atomic_write(tmp_path / "page.html") as temporary:
        temporary.write_text("content")
    assert not (tmp_path / "page.html").is_file() and len([*tmp_path.iterdir()]) == 1


def test_two_masks_of_one_image_are_refused_and_none_is_chosen(tmp_path: Path) -> None:
    data = make_plain(tmp_path / "data", 4)
    records = [record for part in build_datalist(data).records.values() for record in part]
    masks = shutil.copytree(data / "masks", tmp_path / "predictions")
    shutil.copy(masks / "case_2.png", masks / "case_2.tif")
    with pytest.raises(InputError, match=r"case_2\.png' and 'case_2\.tif' differ in their ending only"):
        ForeignMasks(str(masks), records, 256)


@pytest.mark.parametrize("frames", ["all", "0:2", 3])
def test_a_slice_beside_frames_is_refused_and_not_passed_over(tmp_path: Path, frames: str | int) -> None:
    with pytest.raises(InputError, match=rf"slice is 1 and frames {frames}: give one of them"):
        find_inputs(tmp_path, slice_index=1, frames=frames)


ENTRY = {"image": "images/case_0.png", "label": "masks/case_0.png"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"training": {}, "test": 7}, "has training {}"),
        ({"test": [{**ENTRY, "label": 7}]}, r"case_0\.png' has label 7"),
        ({"test": [{**ENTRY, "group": []}]}, r"has group \[\]"),
        ({"test": [{**ENTRY, "subgroup": "x"}]}, "has subgroup 'x'"),
        ({"test": [{**ENTRY, "masks": "maybe"}]}, "has masks 'maybe'"),
        ({"test": [{"image": "images/case_0.png", "outlines": "7"}]}, "the outlines '7': write a JSON list"),
        ({"test": [{"image": "images/case_0.png", "outlines": "[" * 9999}]}, "the outlines"),
        ({"test": [ENTRY], "root": 7}, "has root 7"),
        ({"test": [ENTRY], "seed": "x"}, "has seed 'x'"),
        ({"test": [ENTRY, ENTRY]}, r"lists 'images/case_0\.png' more than once in test"),
    ],
)
def test_a_datalist_of_other_values_is_refused_by_name(tmp_path: Path, content: Any, words: str) -> None:
    data = make_plain(tmp_path, 2)
    (data / "datalist.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=words) as refused:
        build_datalist(data)
    assert len(str(refused.value)) <= 500


def test_a_bottomless_datalist_is_refused(tmp_path: Path) -> None:
    (tmp_path / "datalist.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="cannot be read as JSON"):
        build_datalist(tmp_path)


@pytest.mark.parametrize(
    "outline",
    [
        "x",
        [["a", "b"]],
        [1, 2, 3],
        {"size": [9, 9]},
        {"size": 9, "counts": [81]},
        {"size": [9, 9], "counts": ["x"]},
        {"size": [10**6, 10**6], "counts": [0, 10**12]},
        {"size": [-9, -9], "counts": [0, 81]},
    ],
)
def test_an_outline_that_is_none_is_refused_before_it_takes_memory(outline: Any) -> None:
    record = {"image": "a.png", "outlines": json.dumps([outline])}
    with pytest.raises(InputError, match=r"a\.png"):
        record_mask(record, (20, 20))


def test_how_masks_are_read_survives_the_list_of_a_run(tmp_path: Path) -> None:
    """HC18's outlines are filled, by the folder and by the datalist.json that training wrote of it."""
    ring = disc(radius=20) & ~disc(radius=18)
    for number in range(4):
        save(tmp_path / "HC18" / f"{number}_HC.png", speckle(number))
        save(tmp_path / "HC18" / f"{number}_HC_Annotation.png", ring)
    datalist = build_datalist(tmp_path / "HC18")
    read = build_datalist(datalist.write(tmp_path / "run" / "datalist.json"))
    for part, records in datalist.records.items():
        for before, after in zip(records, read.records[part], strict=True):
            assert before["masks"] == after["masks"] == "filled"
            np.testing.assert_array_equal(record_mask(after, SIZE), record_mask(before, SIZE))


def test_repeats_for_one_set_are_refused_and_not_passed_over(tmp_path: Path) -> None:
    data = make_plain(tmp_path, 4)
    for one in (str(data), None):
        with pytest.raises(InputError, match=r"repeats is \[1, 2\]: leave it out, or give"):
            find_records(one, "auto", "group", 0, 8, [1, 2])


def test_the_list_of_a_run_with_repeats_is_read_again(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_plain(tmp_path / name, 8)
    datalist = find_records([str(tmp_path / "a"), str(tmp_path / "b")], "auto", "group", 0, 8, [2, 1])
    read = build_datalist(datalist.write(tmp_path / "run" / "datalist.json"))
    assert [len(read.records[part]) for part in ("train", "val", "test")] == [
        len(datalist.records[part]) for part in ("train", "val", "test")
    ]


@pytest.mark.parametrize("name", ["gone.json", "a.png", "."])
def test_a_config_of_a_batch_that_is_none_is_a_sentence(tmp_path: Path, name: str) -> None:
    pytest.importorskip("pyarrow")
    from lmsfe_sam.batch.job import BatchOptions, run_batch

    save(tmp_path / "a.png", speckle(0))
    job = BatchOptions(
        input=str(tmp_path / "a.png"), output=str(tmp_path / "out"), config_files=(str(tmp_path / name),)
    )
    with pytest.raises(InputError, match=r"is no config: give a \.json or \.yaml file"):
        run_batch(job)
    with pytest.raises(InputError, match="gpus is nan: give a number of at least 0"):
        run_batch(replace(job, config_files=(), gpus=float("nan")))


def test_a_bundle_that_is_no_folder_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is no folder: give one that holds configs and models"):
        selftest.main(["--bundle", str(tmp_path / "file")])
    with pytest.raises(SystemExit) as end:
        options.main(["--configs", str(tmp_path / "file")])
    assert end.value.code == 2
    assert "has no train.json: give the folder of a bundle's configs" in capsys.readouterr().err
