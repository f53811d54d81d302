"""A journal beside a run's outputs: which inputs are finished, so that the next run does what is missing.

One line of JSON an event, only ever appended, so that a run that is killed at any moment leaves every line
before the last one whole:

``{"start": settings}`` a run with these settings; all lines before it are void
``{"begin": id, "files": [...]}`` these files of an input are about to be written
``{"done": id, "key": ..., "files": [...], "rows": [...]}`` they are written, and these are its rows
``{"drop": id}`` its files are no longer there

No library does this for files: databases that survive a kill (SQLite) need locks that network file systems
often lack, and nobody can read them with ``less``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from lmsfe_sam.errors import InputError
from lmsfe_sam.files import append_whole, check_regular, lock_file, unwritable

NAME = "journal.jsonl"


@dataclass(frozen=True)
class Entry:
    """One finished input.

    Args:
        key: of its content: an input whose key has changed is done again.
        files: that were written for it, relative to the journal's folder.
        rows: that it has in the table.
    """

    key: str
    files: tuple[str, ...]
    rows: list[dict[str, Any]]


@dataclass
class Events:
    """What the lines of a journal amount to.

    Args:
        settings: of the last run, or None where there was none.
        done: the finished inputs by their ids.
        unfinished: files of inputs that were begun and not finished.
    """

    settings: dict[str, Any] | None = None
    done: dict[str, Entry] = field(default_factory=dict)
    unfinished: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def files(self) -> list[str]:
        """All files that the journal knows, finished or not."""
        known = [*self.unfinished.values(), *(entry.files for entry in self.done.values())]
        return [file for files in known for file in files]

    def add(self, event: Mapping[str, Any]) -> None:
        """Take in one line."""
        if "start" in event:
            self.settings = dict(event["start"])
            self.done.clear()
            self.unfinished.clear()
        elif "begin" in event:
            self.unfinished[event["begin"]] = _inside(event["files"])
        elif "done" in event:
            self.unfinished.pop(event["done"], None)
            self.done[event["done"]] = Entry(event["key"], _inside(event["files"]), list(event["rows"]))
        elif "drop" in event:
            self.unfinished.pop(event["drop"], None)
            self.done.pop(event["drop"], None)
        else:
            raise KeyError("start, begin, done or drop")


def read_events(lines: Iterable[bytes]) -> Events:
    """Return what the lines of a journal amount to; a torn last line is left out.

    Raises:
        ValueError: another line is no event.
    """
    events = Events()
    for line in lines:
        if not line.endswith(b"\n"):
            break
        try:
            events.add(dict(json.loads(line).items()))
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"no event: {line[:60]!r}") from error
    return events


class Journal:
    """The journal of a folder, open for one process at a time.

    Args:
        folder: where the outputs are; it must exist.

    Attributes:
        events: what the journal says.

    Raises:
        InputError: another process has it open, it cannot be written, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        try:
            check_regular(self.path)
            self._file = self.path.open("a+b", buffering=0)
        except OSError as error:
            raise unwritable(self.path, error) from error
        try:
            self._lock()
            self.events = self._read()
        except BaseException:
            self.close()
            raise

    def start(self, settings: Mapping[str, Any]) -> None:
        """Begin a run with other settings: all that is known is void."""
        self._append({"start": dict(settings)})

    def begin(self, name: str, files: Iterable[str]) -> None:
        """Note that files of an input are about to be written."""
        self._append({"begin": name, "files": list(files)})

    def finish(self, name: str, entry: Entry) -> None:
        """Note that an input is finished."""
        self._append({"done": name, "key": entry.key, "files": list(entry.files), "rows": entry.rows})

    def drop(self, name: str) -> None:
        """Note that an input's files are no longer there."""
        self._append({"drop": name})

    def close(self) -> None:
        """Let other processes have it."""
        self._file.close()

    def _append(self, event: dict[str, Any]) -> None:
        line = json.dumps(event).encode() + b"\n"
        append_whole(self._file, line, self.path)
        self.events.add(json.loads(line))

    def _read(self) -> Events:
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        try:
            events = read_events(content[:whole].splitlines(keepends=True))
        except ValueError as error:
            raise damaged(self.path) from error
        if whole < len(content):
            self._file.truncate(whole)
        return events

    def _lock(self) -> None:
        """Lock the file for this process; where the file system or the platform knows no locks, go on."""
        if not lock_file(self._file):
            raise InputError(
                f"output_dir '{self.path.parent}' is in use by another run: wait for its end or name another "
                "folder with --output_dir."
            )


def _inside(files: Iterable[str]) -> tuple[str, ...]:
    """Return file names; none may lead out of the journal's folder.

    Raises:
        ValueError: a name leads out of the folder.
    """
    names = tuple(files)
    for name in names:
        path = PurePosixPath(name)
        if "\0" in name:
            raise ValueError("a name holds the character 0")
        if path.is_absolute() or ".." in path.parts or os.path.isabs(name):  # noqa: PTH117 drive letters
            raise ValueError(f"'{name[:60]}' leads out of the folder.")
    return names


def damaged(path: Path) -> InputError:
    """The sentence for a journal that is none."""
    return InputError(f"'{path}' is damaged: move the folder away or name another one with --output_dir.")
