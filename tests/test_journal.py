"""The journal of a run: whole after every kill, and for one process at a time."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsfe_sam.errors import InputError
from lmsfe_sam.files import append_whole
from lmsfe_sam.journal import NAME, Entry, Journal, read_events

SETTINGS = {"mode": "auto", "slice": None}


def entry(word: str) -> Entry:
    return Entry(f"key of {word}", (f"masks/{word}.png",), [{"image": word, "area_mm2": None}])


def write_journal(folder: Path) -> bytes:
    journal = Journal(folder)
    journal.start({"mode": "resize"})
    journal.finish("old", entry("old"))
    journal.start(SETTINGS)
    for name in ("a", "b", "c"):
        journal.begin(name, entry(name).files)
        journal.finish(name, entry(name))
    journal.drop("b")
    journal.begin("d", entry("d").files)
    journal.close()
    return (folder / NAME).read_bytes()


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_journal(tmp_path)
    journal = Journal(tmp_path)
    assert journal.events.settings == SETTINGS
    assert journal.events.done == {"a": entry("a"), "c": entry("c")}
    assert journal.events.unfinished == {"d": ("masks/d.png",)}
    assert journal.events.files() == ["masks/d.png", "masks/a.png", "masks/c.png"]
    journal.close()


def test_cut_anywhere_it_is_read_up_to_the_last_whole_line_and_gone_on_with(tmp_path: Path) -> None:
    content = write_journal(tmp_path)
    for length in range(len(content) + 1):
        (tmp_path / NAME).write_bytes(content[:length])
        journal = Journal(tmp_path)
        whole = content[: content.rfind(b"\n", 0, length) + 1]
        assert journal.events == read_events(whole.splitlines(keepends=True))
        journal.start(SETTINGS)
        journal.finish("new", entry("new"))
        journal.close()
        again = Journal(tmp_path)
        assert again.events.done == {"new": entry("new")}
        again.close()


@given(st.binary(max_size=60))
def test_junk_is_read_or_refused(content: bytes) -> None:
    try:
        read_events(content.splitlines(keepends=True))
    except ValueError:
        return


@pytest.mark.parametrize(
    "line",
    ["[]", "7", '{"done": "a"}', '{"begin": [], "files": 7}', "{" * 2000, "not json", '{"start": 7}',
     '{"begin": "a", "files": ["../b.png"]}', '{"done": "a", "key": "", "files": ["/b"], "rows": []}',
     '{"begin": "a", "files": ["\\u0000"]}'],
)  # fmt: skip
def test_a_damaged_one_is_refused_by_a_sentence(tmp_path: Path, line: str) -> None:
    content = write_journal(tmp_path) + line.encode() + b"\n"
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(InputError, match=r"journal\.jsonl' is damaged: move the folder away"):
        Journal(tmp_path)
    assert (tmp_path / NAME).read_bytes() == content


def test_another_process_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.start(SETTINGS)
    code = (
        f"from pathlib import Path; from lmsfe_sam.journal import Journal; Journal(Path({str(tmp_path)!r}))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert "is in use by another run" in process.stderr
    journal.close()
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class FullDisk(FileIO):
    """Has room for ten bytes of each write, and then none."""

    def write(self, content: Any) -> int:
        if len(content) <= 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(content[:10])


def test_a_full_disk_is_a_sentence_and_no_half_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"before\n")
    with (
        FullDisk(path, "ab") as file,
        pytest.raises(InputError, match=r"written \(No space left on device\)"),
    ):
        append_whole(file, b"a line of more than ten bytes\n", path)
    assert path.read_bytes() == b"before\n"


def test_lines_can_be_read_by_others(tmp_path: Path) -> None:
    lines = write_journal(tmp_path).splitlines()
    assert json.loads(lines[4]) == {
        "done": "a", "key": "key of a", "files": ["masks/a.png"], "rows": [{"image": "a", "area_mm2": None}]
    }  # fmt: skip
