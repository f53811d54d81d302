"""What is read and written where something else than a text file is: a pipe, a device, a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fuzzing import is_sentence
from lmsfe_sam.data.layouts.folders import read_json
from lmsfe_sam.errors import InputError
from lmsfe_sam.evaluation.comparison import read_metrics
from lmsfe_sam.evaluation.report.runs import read_run
from lmsfe_sam.files import LockedLog, read_text
from lmsfe_sam.journal import Journal
from lmsfe_sam.selftest.checking import find_problems
from lmsfe_sam.training.machine_time import FILE, MachineTime
from lmsfe_sam.training.run_folder import LAST, SETTINGS, RunFolder

PLACES: dict[str, Callable[[Path], Any]] = {
    "pipe": os.mkfifo,
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
    "circle": lambda path: path.symlink_to(path.name),
    "deep": lambda path: path.write_text("[" * 100_000),
    "large": lambda path: (path.touch(), os.truncate(path, 2**40)),
}

EMPTY_METRICS = "image,prompt,dice,iou,sensitivity,specificity,accuracy,hd,hd95,assd,hd_mm\n"


def resume(folder: Path) -> None:
    (folder / LAST).touch()
    RunFolder("unused", str(folder), {"seed": 0})


def clock(folder: Path) -> None:
    run: Any = SimpleNamespace(source=folder, main_process=True, settings={})
    MachineTime(run, "cpu").start(None)  # type: ignore[arg-type]


def evaluated(folder: Path) -> None:
    (folder / "metrics.csv").write_text(EMPTY_METRICS)
    read_run(folder)


def installed(folder: Path) -> None:
    problems = find_problems(folder)
    raise InputError(problems[0])


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "metrics to compare with": ("metrics.csv", lambda folder: read_metrics(folder / "metrics.csv")),
    "an evaluation's summary": ("summary.json", evaluated),
    "a run's settings": (SETTINGS, resume),
    "a data set's JSON": ("a.json", lambda folder: read_json(folder / "a.json")),
    "a bundle's metadata": ("configs/metadata.json", installed),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_text_is_a_sentence(tmp_path: Path, reader: str, place: str) -> None:
    name, read = READERS[reader]
    path = tmp_path / "it" / name
    path.parent.mkdir(parents=True)
    if reader == "metrics to compare with" and place in ("deep", "large"):
        pytest.skip("is read line by line")
    PLACES[place](path)
    with pytest.raises(InputError) as raised:
        read(tmp_path / "it")
    assert is_sentence(str(raised.value)) and "it" in str(raised.value)


@pytest.mark.parametrize("place", ["pipe", "endless", "folder", "circle"])
def test_what_is_no_file_is_not_written_to(tmp_path: Path, place: str) -> None:
    for name, write in (
        ("journal.jsonl", lambda: Journal(tmp_path)),
        ("training.log", lambda: LockedLog(tmp_path / "training.log", "training")),
    ):
        PLACES[place](tmp_path / name)
        with pytest.raises(InputError, match=name) as raised:
            write()
        assert is_sentence(str(raised.value))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"minutes": "x"}', '{"minutes": NaN}', '{"minutes": -1}'])
def test_a_damaged_record_of_machine_time_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(InputError, match=rf"'{tmp_path}'.*{FILE} is damaged") as raised:
        clock(tmp_path)
    assert is_sentence(str(raised.value))


def test_a_record_of_machine_time_is_gone_on_with(tmp_path: Path) -> None:
    clock(tmp_path)
    (tmp_path / FILE).write_text(json.dumps({"minutes": 2.5}))
    run: Any = SimpleNamespace(source=tmp_path, main_process=True, settings={})
    time = MachineTime(run, torch.device("cpu"))
    time.start(None)  # type: ignore[arg-type]
    assert 2.5 <= time.minutes < 3


def test_a_text_file_has_a_largest_size(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("x" * 100)
    assert read_text(path, most=100) == "x" * 100
    with pytest.raises(OSError, match="larger than"):
        read_text(path, most=99)
