"""Errors that users can mend: one sentence, no traceback on the command line."""

from __future__ import annotations

import sys
from types import TracebackType

from lmsfe_sam.stopping import Stopped, raise_stopped


class InputError(ValueError):
    """Bad input. The message is one sentence that names the input and the remedy."""


def find_input_error(error: BaseException | None) -> InputError | None:
    """Return the `InputError` in a chain of causes, or None.

    MONAI's config parser wraps what a component raises in a `RuntimeError`, so the sentence meant
    for the user is seldom the outermost one.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, InputError):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def plain_errors() -> None:
    """Print an uncaught `InputError` as its sentence alone, from now on in this process.

    The exit code stays Python's own for an uncaught exception, 1. SIGINT and SIGTERM, too, end the process
    with a sentence, exit code 130 or 143. Other errors keep their traceback. The bundle's configs call this
    in their ``initialize`` section.
    """
    raise_stopped()
    if sys.excepthook is not _print_plainly:
        sys.excepthook = _print_plainly


def _print_plainly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, Stopped):
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    cause = find_input_error(error)
    if cause is None:
        sys.__excepthook__(kind, error, trace)
    else:
        print(f"error: {cause}", file=sys.stderr)
