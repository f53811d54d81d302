"""The audit as a user calls it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import data_folders as make


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lmsfe_sam.data.audit", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_folder_with_faults_exits_0(tmp_path: Path) -> None:
    root = make.make_plain(tmp_path / "set")
    make.save(root / "masks" / "case_1.png", make.disc() & False)
    make.save(root / "masks" / "case_2.png", make.disc((30, 30)))
    done = _run(str(root), "--output", str(tmp_path / "audit.html"))
    assert done.returncode == 0, done.stderr
    assert "1  normal images" in done.stdout and "1  size mismatches" in done.stdout
    assert (tmp_path / "audit.html").is_file()


def test_a_missing_folder_is_one_sentence_and_exits_1(tmp_path: Path) -> None:
    done = _run(str(tmp_path / "absent"))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "absent' does not exist" in done.stderr
