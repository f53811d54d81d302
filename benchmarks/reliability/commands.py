"""Start ``python -m MODULE`` many times, in processes forked from one that has imported the libraries.

Importing takes most of a short command's time, and hundreds of commands are started. A forked process runs
the module as ``python -m`` does, with its own arguments, standard streams, signals and exit code.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import monai.bundle  # noqa: F401
import torch

import lmsfe_sam.batch.job
import lmsfe_sam.evaluation.iteration
import lmsfe_sam.inference.saving
import lmsfe_sam.inference.writers.exporting
import lmsfe_sam.label.checks
import lmsfe_sam.training.run_folder
import lmsfe_sam.training.settings  # noqa: F401

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"
MODULE = "monai.bundle"

torch.set_num_threads(1)  # threads do not survive a fork


class Command:
    """A running command.

    Args:
        words: after ``python -m MODULE``.
        output: file for what it prints.
        module: that is run.
        prepare: what the process does first, such as taking limits on; what it prints goes through another
            process then, whose files have no limits.
    """

    def __init__(
        self,
        words: Sequence[str],
        output: Path,
        module: str = MODULE,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self.output = output
        sys.stdout.flush()
        sys.stderr.flush()
        self.copier: subprocess.Popen[bytes] | None = None
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        if prepare is not None:
            self.copier = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file)
            assert self.copier.stdin is not None
            os.dup2(self.copier.stdin.fileno(), file)
            self.copier.stdin.close()
        self.pid = os.fork()
        if not self.pid:
            _become(words, file, module, prepare)
        os.close(file)

    def wait(self, seconds: float = 600.0) -> int | None:
        """Return the exit code, or minus the signal's number; None if it runs on after so long."""
        limit = time.monotonic() + seconds
        while True:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                if self.copier is not None:
                    self.copier.wait(60)
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > limit:
                return None
            time.sleep(0.005)

    def stop(self, number: int = signal.SIGKILL) -> int | None:
        """Send a signal, and wait for the end; what does not end within 60 seconds is killed, and None."""
        os.kill(self.pid, number)
        code = self.wait(60)
        if code is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        return code

    def printed(self) -> str:
        """What it has printed so far."""
        return self.output.read_text(errors="replace")


def run(
    words: Sequence[str],
    output: Path,
    seconds: float = 600.0,
    module: str = MODULE,
    prepare: Callable[[], None] | None = None,
) -> tuple[int | None, str]:
    """Run a command to its end; return the exit code (None: it did not end in time) and what it printed."""
    command = Command(words, output, module, prepare)
    code = command.wait(seconds)
    if code is None:
        command.stop()
    return code, command.printed()


def _become(words: Sequence[str], file: int, module: str, prepare: Callable[[], None] | None) -> None:
    code = 1
    try:
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.chdir(BUNDLE)
        sys.path[0] = str(BUNDLE)
        sys.argv = ["-m", *words]
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if prepare is not None:
            prepare()
        code = _exit_code(module)
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _exit_code(module: str) -> int:
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return _of(end)
    except BaseException as error:
        try:
            sys.excepthook(type(error), error, error.__traceback__)
        except SystemExit as end:
            return _of(end)
        return 1
    return 0


def _of(end: SystemExit) -> int:
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1
