"""Commands whose output is read no further, as by ``head``: they end without a word."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

LONG = "print('word ' * 100_000)"
SHORT = "print('word')"
OTHER = "raise BrokenPipeError(32, 'of a socket')"


@pytest.mark.parametrize(("code", "exit_code"), [(LONG, 141), (SHORT, 0)])
def test_nobody_reads(code: str, exit_code: int) -> None:
    process = start(code)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    error = process.stderr.read()
    assert (process.wait(60), error) == (exit_code, "")


def test_what_is_read_is_whole() -> None:
    printed, error = start(LONG).communicate(timeout=60)
    assert printed == "word " * 100_000 + "\n" and error == ""


def test_another_pipe_that_breaks_keeps_its_traceback() -> None:
    process = start(OTHER)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1 and "of a socket" in error


def start(code: str) -> subprocess.Popen[str]:
    program = (
        f"import time; from lmsfe_sam.errors import plain_errors; plain_errors(); time.sleep(.5); {code}"
    )
    pipe = subprocess.PIPE
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    words = [sys.executable, "-c", program]
    return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env=environment)
