"""Stop a command with a sentence and nothing half written.

On SIGINT (Ctrl-C), SIGTERM, and SIGHUP, which a process gets when its terminal is closed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Windows has no SIGHUP."""


class Stopped(BaseException):
    """A signal asked this process to end.

    Not an `Exception`: nothing may take it for an error of an image and go on.

    Args:
        number: of the signal.
        done: a sentence that says what is done, and how to go on.
    """

    def __init__(self, number: int, done: str = "") -> None:
        self.number = number
        super().__init__(f"stopped by {signal.Signals(number).name}. {done}".strip())

    @property
    def exit_code(self) -> int:
        """What shells report of a process that a signal ended."""
        return 128 + self.number


def raise_stopped() -> None:
    """Raise `Stopped` on `SIGNALS` from now on; a second signal ends the process at once.

    Handlers that somebody else has set stay, and so do signals that the process was started to ignore, as by
    ``nohup``.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _raise)


def _raise(number: int, frame: FrameType | None) -> None:
    if multiprocessing.parent_process() is not None:  # a data loader's worker, whose end its parent decides
        if number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        return
    for each in SIGNALS:
        if signal.getsignal(each) is _raise:
            signal.signal(each, signal.SIG_DFL)
    raise Stopped(number)


@contextmanager
def held_signals() -> Iterator[None]:
    """Let a signal wait until the block is done, so that what belongs together is written together.

    Outside of the main thread, which alone handles signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler not in (signal.SIG_IGN, None):
            signal.signal(number, lambda number, frame: waiting.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler not in (signal.SIG_IGN, None):
                signal.signal(number, handler)
        if waiting:
            signal.raise_signal(waiting[0])
