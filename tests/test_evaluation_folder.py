"""The output folder of an evaluation belongs to one evaluation, at a time and in the end."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evaluation_results import INFO, make_results
from lmsfe_sam.errors import InputError
from lmsfe_sam.evaluation.handlers import EvaluationWriter
from lmsfe_sam.evaluation.report import writing
from lmsfe_sam.evaluation.report.runs import read_run
from lmsfe_sam.evaluation.results import ImageResult
from lmsfe_sam.evaluation.settings import LOG, _refuse_masks_to_be_replaced, lock_folder
from lmsfe_sam.files import close_logs
from lmsfe_sam.stopping import Stopped

HOLDS = (
    "import fcntl,sys; f=open(sys.argv[1],'ab'); fcntl.lockf(f,fcntl.LOCK_EX); print(1,flush=True); input()"
)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_logs()


def test_a_second_evaluation_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text("of the first\n")
    left = tmp_path / "masks" / "box" / ".a.png.tmp-a1b2c3d4.png"
    left.parent.mkdir(parents=True)
    left.touch()  # which the first may be about to rename
    command = [sys.executable, "-c", HOLDS, str(tmp_path / LOG)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"1\n"
        with pytest.raises(InputError, match=r"in use by another evaluation: .*--output_dir"):
            lock_folder(str(tmp_path))
        assert left.exists() and (tmp_path / LOG).read_text() == "of the first\n"
        other.kill()
    lock_folder(str(tmp_path))
    assert not left.exists() and (tmp_path / LOG).read_text() == ""


def test_one_process_may_evaluate_again_and_logs_apart(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        lock_folder(str(tmp_path / name))
        logging.getLogger("lmsfe_sam").error("of the %s", name)
    lock_folder(str(tmp_path / "second"))
    logging.getLogger("lmsfe_sam").error("again")
    assert (tmp_path / "first" / LOG).read_text().endswith("of the first\n")
    assert [line.split()[-1] for line in (tmp_path / "second" / LOG).read_text().splitlines()] == ["again"]


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / LOG).mkdir()
    with pytest.raises(InputError, match=r"evaluation\.log' could not be written"):
        lock_folder(str(tmp_path))


class TestEarlierResults:
    """What another evaluation left in the folder never stands beside this one's results."""

    def test_nothing_of_them_stays_and_other_files_do(self, tmp_path: Path) -> None:
        evaluate(tmp_path, make_results(3))
        mine = [tmp_path / "mine.csv", tmp_path / "masks" / "box" / "mine.png"]
        for file in mine:
            file.touch()
        before = {path for path in tmp_path.rglob("*") if path.is_file()}
        later = [dataclasses.replace(result, masks={}, prompts={}) for result in make_results(2)]
        evaluate(tmp_path, later, save_masks=False)
        after = {path for path in tmp_path.rglob("*") if path.is_file()}
        assert {path for path in after if path.suffix == ".png" or path in mine} == set(mine)
        assert before - after >= {
            tmp_path / "predictions.csv",
            tmp_path / "masks" / "point" / "x" / "000.png",
        }

    def test_killed_between_two_files_there_is_no_summary(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        evaluate(tmp_path, make_results(3))

        def killed(*_: object) -> None:
            raise Stopped(9)

        monkeypatch.setattr(writing, "write_masks", killed)
        with pytest.raises(Stopped):
            evaluate(tmp_path, make_results(2))
        assert not (tmp_path / "summary.json").exists() and not [*tmp_path.glob("masks/*/*/*.png")]
        with pytest.raises(InputError, match=r"holds no summary\.json of a finished evaluation"):
            read_run(tmp_path)

    @pytest.mark.parametrize(
        "content",
        [
            "image,prompt\n../../{0},box\n{0},../..\n/,box\n..,box\nx\0,box\n" + "n" * 5000 + ",box\n",
            "image\nx.png\n",
            "image,prompt\nx.png\n",
            "",
            "\udcff",
        ],
    )
    def test_a_table_of_somebody_else_removes_nothing_outside(self, tmp_path: Path, content: str) -> None:
        outside, folder = tmp_path / "outside.png", tmp_path / "out"
        for file in (outside, folder / "outside.png", folder / "masks" / "outside.png"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        (folder / "metrics.csv").write_bytes(content.format(outside).encode(errors="surrogateescape"))
        writing.remove_results(folder)
        assert outside.exists() and (folder / "outside.png").exists()
        assert (folder / "masks" / "outside.png").exists() and not (folder / "metrics.csv").exists()

    def test_one_that_cannot_be_removed_is_a_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "report.html").mkdir()
        with pytest.raises(InputError, match=r"report\.html' could not be written .*--output_dir"):
            writing.remove_results(tmp_path)

    @pytest.mark.parametrize("below", ["masks", "masks/box", "other/../masks/box/"])
    def test_masks_that_would_be_replaced_are_not_scored(self, tmp_path: Path, below: str) -> None:
        with pytest.raises(InputError, match=r"lies in output_dir, whose masks are replaced: .*--output_dir"):
            _refuse_masks_to_be_replaced(tmp_path / "out", tmp_path / "out" / below)
        _refuse_masks_to_be_replaced(tmp_path / "out", tmp_path / "out" / "theirs")


def evaluate(folder: Path, results: list[ImageResult], save_masks: bool = True) -> None:
    records = [{"name": result.image} for result in results]
    writer = EvaluationWriter(records, INFO, str(folder), save_masks=save_masks, gallery=0)
    engine: Any = SimpleNamespace(state=SimpleNamespace(output=results))
    writer(engine)
    writer.finish(engine)
