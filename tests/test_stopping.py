"""Signals: the first ends a command with a sentence, a second at once; a block is always finished."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from lmsfe_sam.errors import _print_plainly
from lmsfe_sam.files import atomic_write
from lmsfe_sam.stopping import SIGNALS, Stopped, held_signals, raise_stopped

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_waits_for_the_end_of_a_block_and_has_its_code(number: signal.Signals) -> None:
    raise_stopped()
    written = []
    with pytest.raises(Stopped) as stopped, held_signals():
        os.kill(os.getpid(), number)
        written.append("whole")
    assert written == ["whole"] and stopped.value.exit_code == CODES[number]
    assert str(stopped.value) == f"stopped by {number.name}."


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_a_temporary_file_is_made_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    make = tempfile.mkstemp

    def interrupted(**options: Any) -> tuple[int, str]:
        made = make(**options)
        os.kill(os.getpid(), number)
        return made

    raise_stopped()
    monkeypatch.setattr(tempfile, "mkstemp", interrupted)
    with pytest.raises(Stopped), atomic_write(tmp_path / "a.pt"):
        pytest.fail("the block was begun")
    assert not [*tmp_path.iterdir()]


def test_a_second_signal_within_a_block_waits_too(tmp_path: Path) -> None:
    raise_stopped()
    with pytest.raises(Stopped), held_signals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        (tmp_path / "file").write_text("whole")
    assert (tmp_path / "file").read_text() == "whole"
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL  # the next one ends the process


TWICE = """
import os, signal
from lmsfe_sam.stopping import Stopped, raise_stopped
raise_stopped()
try:
    os.kill(os.getpid(), signal.{name})
except Stopped:
    print("cleaning up", flush=True)
    os.kill(os.getpid(), signal.{name})
    print("done")
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_second_signal_ends_at_once(name: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", TWICE.format(name=name)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == -getattr(signal, name), ended.stderr
    assert ended.stdout == "cleaning up\n"


def test_a_signal_that_was_ignored_at_the_start_stays_so() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    raise_stopped()
    with held_signals():
        os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_without_a_terminal_the_exit_code_is_still_right(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, text: str) -> Any:
            raise OSError(5, "Input/output error")

        flush = write

    trace: TracebackType | None = None
    monkeypatch.setattr(sys, "stderr", Gone())
    with pytest.raises(SystemExit) as end:
        _print_plainly(Stopped, Stopped(signal.SIGHUP), trace)
    assert end.value.code == 129
