"""A run's folder: what may be written over, and what may be gone on with."""

from __future__ import annotations

import csv
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lmsfe_sam.data.datalist import DataList
from lmsfe_sam.errors import InputError
from lmsfe_sam.stopping import Stopped
from lmsfe_sam.training.run_folder import (
    HISTORY_COLUMNS,
    LAST,
    RunFolder,
    closing_line,
    run,
    write_datalist,
    write_history,
)

SETTINGS = {"dataset_dir": "data", "preset": "vit_t", "seed": 0, "epochs": 3}


@pytest.fixture(autouse=True)
def _close_log_files() -> Iterator[None]:
    before = list(logging.getLogger("lmsfe_sam").handlers)
    yield
    for handler in set(logging.getLogger("lmsfe_sam").handlers) - set(before):
        logging.getLogger("lmsfe_sam").removeHandler(handler)
        handler.close()


def finished(path: Path, **settings: object) -> RunFolder:
    folder = RunFolder(str(path), None, {**SETTINGS, **settings})
    write_history(folder, [{"epoch": 1, "loss": 0.5, "val_dice": 0.25}])
    (folder / LAST).touch()
    return folder


def test_history_has_one_row_an_epoch_and_gaps_where_nothing_was_measured(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    with (folder / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == HISTORY_COLUMNS
    assert (rows[0]["epoch"], rows[0]["val_dice"], rows[0]["val_dice_none"]) == ("1", "0.25", "")
    assert sorted(p.name for p in folder.path.iterdir()) == [LAST, "history.csv", "run.json", "training.log"]


def test_a_finished_run_on_data_is_never_written_over(tmp_path: Path) -> None:
    finished(tmp_path / "run")
    with pytest.raises(InputError, match=r"holds the results of a run already.*--resume .*--output_dir"):
        RunFolder(str(tmp_path / "run"), None, SETTINGS)
    assert (tmp_path / "run" / "history.csv").is_file()


def test_a_demonstration_makes_room_but_keeps_what_is_not_its_own(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", dataset_dir=None)
    (folder / "notes.txt").write_text("mine")
    again = RunFolder(str(tmp_path / "run"), None, SETTINGS)
    assert not (again / "history.csv").exists() and not (again / LAST).exists()
    assert (again / "notes.txt").read_text() == "mine"


def test_a_run_that_never_finished_an_epoch_is_started_anew(tmp_path: Path) -> None:
    RunFolder(str(tmp_path / "run"), None, SETTINGS)
    RunFolder(str(tmp_path / "run"), None, {**SETTINGS, "seed": 1})
    assert json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["seed"] == 1


def test_resume_goes_on_in_its_own_folder(tmp_path: Path) -> None:
    finished(tmp_path / "run")
    folder = RunFolder(str(tmp_path / "default"), str(tmp_path / "run"), {**SETTINGS, "epochs": 9})
    assert folder.path == tmp_path / "run" and folder.last_checkpoint == tmp_path / "run" / LAST
    assert not (tmp_path / "default").exists()


def test_resume_refuses_other_settings_and_folders_without_a_run(tmp_path: Path) -> None:
    finished(tmp_path / "run")
    with pytest.raises(InputError, match="was started with preset 'vit_t', not 'vit_b'"):
        RunFolder("default", str(tmp_path / "run"), {**SETTINGS, "preset": "vit_b"})
    with pytest.raises(InputError, match=r"was started with dataset_dir '.*data', not None"):
        RunFolder("default", str(tmp_path / "run"), {**SETTINGS, "dataset_dir": None})
    with pytest.raises(InputError, match=r"holds no checkpoint_last\.pt"):
        RunFolder("default", str(tmp_path), SETTINGS)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"output_dir '.*file/run' cannot be written to"):
        RunFolder(str(tmp_path / "file" / "run"), None, SETTINGS)


def logs_of(folder: RunFolder) -> str:
    return (folder / "training.log").read_text()


def test_a_second_run_in_one_process_does_not_write_into_the_log_of_the_first(tmp_path: Path) -> None:
    first = RunFolder(str(tmp_path / "first"), None, SETTINGS)
    logging.getLogger("lmsfe_sam").error("of the first")
    second = RunFolder(str(tmp_path / "second"), None, SETTINGS)
    logging.getLogger("lmsfe_sam").error("of the second")
    assert "of the first" in logs_of(first) and "of the second" not in logs_of(first)
    assert "of the second" in logs_of(second)


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_closes_its_log_however_it_ends(tmp_path: Path, fails: bool) -> None:
    def train() -> None:
        logging.getLogger("lmsfe_sam").error("while it runs")
        if fails:
            raise ValueError

    folder = RunFolder(str(tmp_path / "run"), None, SETTINGS)
    (folder / "datalist.json").write_text(json.dumps({"training": [], "test": []}))
    trainer: Any = SimpleNamespace(run=train)
    with pytest.raises(ValueError) if fails else nullcontext():
        run(trainer, folder)
    logging.getLogger("lmsfe_sam").error("afterwards")
    assert "while it runs" in logs_of(folder) and "afterwards" not in logs_of(folder)


@pytest.mark.parametrize(("test", "split"), [([{"image": "a.png"}], "test"), ([], "val")])
def test_the_next_command_evaluates_on_the_runs_own_images(tmp_path: Path, test: list, split: str) -> None:
    folder = RunFolder(str(tmp_path / "run"), None, SETTINGS)
    (folder / "datalist.json").write_text(json.dumps({"layout": "busi", "training": [], "test": test}))
    assert closing_line(folder).endswith(f"--dataset_dir {folder / 'datalist.json'} --split {split}")


def test_the_next_command_names_the_network_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(str(tmp_path / "run"), None, SETTINGS)
    (folder / "datalist.json").write_text("{}")
    network, other = tmp_path / "my_net.json", tmp_path / "other.json"
    network.write_text('{"network_def": {"_target_": "UNet"}}')
    other.write_text('{"epochs": 3}')
    given = {"config_file": f"['configs/train.json', '{network}', '{other}']", "network_def": '{"a": "b c"}'}
    given["prompt_form"] = "box"
    monkeypatch.setattr("lmsfe_sam.training.run_folder.given_keys", lambda: given)
    line = closing_line(folder)
    assert f"\"['configs/train.json','configs/evaluate.json','{network}']\"" in line
    assert """--network_def '{"a": "b c"}' --prompt_form box""" in line
    monkeypatch.setattr("lmsfe_sam.training.run_folder.given_keys", lambda: {})
    assert "network_def" not in closing_line(folder) and "my_net" not in closing_line(folder)


def test_helpers_of_a_distributed_run_write_nothing(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path / "run"), None, SETTINGS, main_process=False)
    assert list(folder.path.iterdir()) == []


def written_by(path: Path, version: str, **changes: object) -> None:
    """Make a run look as if another version had written its settings; None takes an option out."""
    content = json.loads((path / "run.json").read_text())
    settings = {**content["settings"], **changes}
    settings = {key: value for key, value in settings.items() if value is not None}
    (path / "run.json").write_text(json.dumps({"version": version, "settings": settings}))


def test_a_run_of_a_later_version_is_refused(tmp_path: Path) -> None:
    finished(tmp_path / "run").close()
    written_by(tmp_path / "run", "99.0", warp="fast", twist=2)
    before = (tmp_path / "run" / "run.json").read_text()
    with pytest.raises(
        InputError, match=r"started by version 99\.0, with options that this .* \(twist, warp\)"
    ):
        RunFolder("default", str(tmp_path / "run"), SETTINGS)
    assert (tmp_path / "run" / "run.json").read_text() == before


def test_a_run_of_an_earlier_version_goes_on_and_says_what_it_did_not_have(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    finished(tmp_path / "run").close()
    written_by(tmp_path / "run", "0.1", preset=None, seed=None)
    RunFolder("default", str(tmp_path / "run"), SETTINGS)
    assert "was started by version 0.1, which had no option preset, seed:" in caplog.text
    assert json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["preset"] == "vit_t"


def test_a_run_that_does_not_say_its_version_is_gone_on_with(tmp_path: Path) -> None:
    finished(tmp_path / "run").close()
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    (tmp_path / "run" / "run.json").write_text(json.dumps({"settings": settings}))
    assert RunFolder("default", str(tmp_path / "run"), SETTINGS).path == tmp_path / "run"


DAMAGE = {
    "missing": None,
    "empty": b"",
    "torn": b'{"settings": {"pre',
    "a list": b"[1, 2]",
    "a number": b"7",
    "null": b"null",
    "no settings": b"{}",
    "settings are a list": b'{"settings": [], "training": 7}',
    "settings are null": b'{"settings": null, "training": [{}], "validation": [], "test": []}',
    "not UTF-8": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
    "a long number": b'{"settings": {"epochs": ' + b"9" * 9999 + b"}}",
}


def damage(path: Path, kind: str) -> None:
    content = DAMAGE[kind]
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)


@pytest.mark.parametrize("kind", DAMAGE)
def test_resume_without_its_settings_is_a_sentence(tmp_path: Path, kind: str) -> None:
    finished(tmp_path / "run")
    damage(tmp_path / "run" / "run.json", kind)
    with pytest.raises(InputError, match=r"as its run\.json is (missing|damaged): put the file back"):
        RunFolder("default", str(tmp_path / "run"), SETTINGS)


@pytest.mark.parametrize("kind", DAMAGE)
def test_results_whose_settings_cannot_be_read_are_not_replaced(tmp_path: Path, kind: str) -> None:
    finished(tmp_path / "run", dataset_dir=None)
    damage(tmp_path / "run" / "run.json", kind)
    with pytest.raises(InputError, match="holds the results of a run already"):
        RunFolder(str(tmp_path / "run"), None, SETTINGS)
    assert (tmp_path / "run" / "history.csv").is_file()


@pytest.mark.parametrize("kind", DAMAGE)
def test_resume_without_its_images_is_a_sentence(tmp_path: Path, kind: str) -> None:
    finished(tmp_path / "run")
    folder = RunFolder("default", str(tmp_path / "run"), SETTINGS)
    damage(tmp_path / "run" / "datalist.json", kind)
    datalist = DataList("x", tmp_path, "plain", {"train": [], "val": [], "test": []})
    with pytest.raises(InputError, match=r"as its datalist\.json is (missing|damaged): put the file back"):
        write_datalist(datalist, folder)


def test_temporary_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    left = folder / ".checkpoint_last.pt.tmp-a1b2_3d4.pt"
    for file in (left, folder / ".mine.pt", folder / "mine.tmp-a1b2c3d4.pt"):
        file.touch()
    RunFolder(str(folder), None, SETTINGS)
    assert not left.exists() and (folder / ".mine.pt").exists() and (folder / "mine.tmp-a1b2c3d4.pt").exists()


def test_a_stopped_run_says_what_is_finished_and_how_to_go_on(tmp_path: Path) -> None:
    def train() -> None:
        raise Stopped(15)

    folder = finished(tmp_path / "run")
    trainer: Any = SimpleNamespace(run=train, state=SimpleNamespace(max_epochs=3))
    with pytest.raises(Stopped) as stopped:
        run(trainer, folder)
    assert str(stopped.value).startswith("stopped by SIGTERM. 1 of 3 epochs are finished: the same command")
    assert str(stopped.value).endswith(f"with --resume {folder.path} goes on.")
    (folder / LAST).unlink()
    with pytest.raises(Stopped, match="No epoch is finished: the same command starts anew"):
        run(trainer, folder)


HOLDS = (
    "import fcntl,sys; f=open(sys.argv[1],'ab'); fcntl.lockf(f,fcntl.LOCK_EX); print(1,flush=True); input()"
)


def test_two_trainings_in_one_folder_are_told_apart_until_one_is_killed(tmp_path: Path) -> None:
    finished(tmp_path / "run", dataset_dir=None).close()
    before = (tmp_path / "run" / "history.csv").read_text(), (tmp_path / "run" / "run.json").read_text()
    left = tmp_path / "run" / ".history.csv.tmp-a1b2c3d4.csv"
    left.touch()  # which the other training may be about to rename
    command = [sys.executable, "-c", HOLDS, str(tmp_path / "run" / "training.log")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"1\n"
        for resume in (None, str(tmp_path / "run")):
            settings = {**SETTINGS, "dataset_dir": None}
            with pytest.raises(InputError, match=r"in use by another training: .*--output_dir"):
                RunFolder(str(tmp_path / "run"), resume, settings)
        assert left.exists()
        now = (tmp_path / "run" / "history.csv").read_text(), (tmp_path / "run" / "run.json").read_text()
        assert now == before
        other.kill()
    RunFolder(str(tmp_path / "run"), None, {**SETTINGS, "dataset_dir": None})
    assert not (tmp_path / "run" / "history.csv").exists() and not left.exists()


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "run" / "training.log").mkdir(parents=True)
    with pytest.raises(InputError, match=r"training\.log' could not be written"):
        RunFolder(str(tmp_path / "run"), None, SETTINGS)
