"""Errors that users can fix: one sentence, no traceback on the command line."""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import re
import reprlib
import select
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from lmsfe_sam.stopping import Stopped, raise_stopped

MAX_SENTENCE = 500
"""Characters of a sentence; what a user gave may be millions of them long."""

MAX_DETAILS = 50

UNREAD_OUTPUT = 141
"""Exit code of a process whose output is read no more: what shells report of one that SIGPIPE ended."""


class InputError(ValueError):
    """Bad input. The message is one sentence that names the input and the remedy.

    Whatever input it echoes, it has one line of at most `MAX_SENTENCE` characters.

    Args:
        sentence: a longer one loses its middle, so that its beginning and the remedy stay.
        details: one sentence each, where several inputs are bad; each becomes a line of its own.
    """

    def __init__(self, sentence: str, details: Sequence[str] = ()) -> None:
        lines = [sentence, *details[:MAX_DETAILS]]
        if len(details) > MAX_DETAILS:
            lines.append(f"and {len(details) - MAX_DETAILS} more.")
        super().__init__("\n".join(map(_shorten, lines)))


def short_repr(value: Any) -> str:
    """Return ``repr(value)``, shortened: lists to some of their items, texts to their ends.

    It is made for whatever a user may give: endless nesting and numbers of thousands of digits included.
    """
    short = reprlib.Repr()
    short.maxlist = short.maxtuple = short.maxdict = short.maxset = 6
    short.maxlevel, short.maxstring, short.maxother, short.maxlong = 4, 100, 100, 60
    try:
        text = short.repr(value)
    except Exception:
        text = f"a {type(value).__name__} that cannot be printed"
    return text if len(text) <= 200 else f"{text[:140]}...{text[-50:]}"


def _shorten(sentence: str) -> str:
    text = "".join(c if c.isprintable() else " " for c in _ends(sentence))
    return _ends(text)


def _ends(text: str) -> str:
    if len(text) <= MAX_SENTENCE:
        return text
    tail = MAX_SENTENCE * 2 // 5
    return f"{text[: MAX_SENTENCE - tail - 5]} ... {text[-tail:]}"


_NO_SHARED_MEMORY = re.compile(
    r"out of shared memory|insufficient shared memory|Unexpected bus error|signal: Bus error"
    r"|(open|resize|allocate).*(shared memory|/torch_|/dev/shm)"
)
"""How torch says that ``/dev/shm`` is full."""

_PERMISSION = "may not be read or written by this user: change its permissions, or give another path"

_OF_THE_PATH = {
    errno.ENAMETOOLONG: "is longer than this system allows: give a shorter one",
    errno.ELOOP: "is a link that leads back to itself: give another path",
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
}
"""What is wrong with a path, whoever meets it first."""


def find_input_error(error: BaseException | None) -> InputError | None:
    """Return the `InputError` in a chain of causes, or None.

    A full ``/dev/shm`` is made one, and so is a path that is too long for the system, goes in a circle or may
    not be read.

    MONAI's config parser wraps what a component raises in a `RuntimeError`, so the sentence meant
    for the user is seldom the outermost one.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, InputError):
            return error
        if isinstance(error, (RuntimeError, OSError)) and _NO_SHARED_MEMORY.search(str(error)):
            return InputError(
                "the shared memory /dev/shm is too small for the processes that load images: "
                "give --num_workers 0 or a smaller --batch_size, or enlarge it (docker run --shm-size 2g)."
            )
        if isinstance(error, OSError) and error.filename is not None and error.errno in _OF_THE_PATH:
            return InputError(f"the path '{error.filename}' {_OF_THE_PATH[error.errno]}.")
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def plain_errors() -> None:
    """Print an uncaught `InputError` as its sentence alone, from now on in this process.

    The exit code stays Python's own for an uncaught exception, 1. SIGINT, SIGTERM and SIGHUP, too, end the
    process with a sentence, exit code 130, 143 or 129; where the reader of its output ends first, as ``head``
    does, with nothing, exit code 141. Other errors keep their traceback. The bundle's configs call this in
    their ``initialize`` section.
    """
    raise_stopped()
    if sys.excepthook is not _print_plainly:
        sys.excepthook = _print_plainly
        atexit.register(_drop_unread_output)


def plain_command() -> None:
    """Call `plain_errors` where this process was started as ``python -m`` and a module of this package.

    The package calls it when it is imported: a signal that comes before the command's own modules are loaded
    ends with a sentence, too. Programs that import the package keep their own handlers.
    """
    if sys.argv[:1] != ["-m"] or "-m" not in sys.orig_argv:  # Python's name for the module that it looks for
        return
    module = sys.orig_argv[sys.orig_argv.index("-m") + 1 :][:1]
    if module and module[0].split(".")[0] == __package__:
        plain_errors()


def _print_plainly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, Stopped):
        with contextlib.suppress(OSError):  # after SIGHUP there may be no terminal
            print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    if isinstance(error, BrokenPipeError) and _drop_unread_output():
        sys.exit(UNREAD_OUTPUT)
    cause = find_input_error(error)
    if cause is None:
        sys.__excepthook__(kind, error, trace)
    else:
        print(f"error: {cause}", file=sys.stderr)


def _drop_unread_output() -> bool:
    """Return whether nobody reads the standard output any more; what is left of it is dropped."""
    try:
        output = sys.stdout.fileno()
        poll = select.poll()
    except (AttributeError, OSError, ValueError):  # no output, a closed one, or Windows
        return False
    poll.register(output, 0)  # errors are always told
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    with Path(os.devnull).open("wb") as nowhere:  # so that Python's own last flush does not complain
        os.dup2(nowhere.fileno(), output)
    return True
