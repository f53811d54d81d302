"""The output folder of an evaluation belongs to one evaluation at a time."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmsfe_sam.errors import InputError
from lmsfe_sam.evaluation.settings import LOG, lock_folder
from lmsfe_sam.files import close_logs

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
