"""What can be wrong with a request, each with its HTTP status, and how a client is told: in one sentence."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import ClassVar

from lmsfe_sam.errors import InputError

LONGEST = 300
"""Characters of a sentence; what a client sent is never repeated at length."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""No space, no quota left, or a file larger than this process may write."""


class Fault(InputError):
    """A request that cannot be met, with its status."""

    status: ClassVar[int] = 400


class NotFoundError(Fault):
    """A name that the server does not know."""

    status = 404


class TakenError(Fault):
    """A name that is in use."""

    status = 409


class TooLargeError(Fault):
    """More than a limit allows."""

    status = 413


class BusyError(Fault):
    """Something that runs once at a time runs already."""

    status = 429


class UpstreamError(Fault):
    """The DICOMweb server behind this one did not do as it should."""

    status = 502


class FullDiskError(Fault):
    """There is no room to write."""

    status = 507


FULL_DISK = "the server's disk is full, and nothing was changed: free some space and send it again."


def is_full_disk(error: BaseException | None) -> bool:
    """Whether one of an error's causes is a disk, a quota or a file that cannot grow."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def shown(value: object, most: int = 80) -> str:
    """Return what a client sent, short and on one line, to be repeated in a sentence."""
    text = str(value)[: most + 1]
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= most else text[: most - 3] + "..."


def for_clients(sentence: str) -> str:
    """Leave out the server's folders, and turn the command line's options into the request's parameters.

    What is left has at most `LONGEST` characters.
    """
    sentence = re.sub(r"(['\"])/[^'\"]*/([^/'\"]+)\1", r"\1\2\1", sentence)
    sentence = re.sub(r"(?<![\w.:/'\"])/(?:[^\s/'\"]+/)+([^\s/'\"]*)", r"\1", sentence)
    sentence = re.sub(r"--(slice|device)\b", r"\1", sentence)
    return sentence if len(sentence) <= LONGEST else sentence[: LONGEST - 3] + "..."


def base_name(name: str | None, default: str = "upload") -> str:
    """Return the last part of a file's name as a client gave it, whatever its slashes look like."""
    return shown(Path((name or default).replace("\\", "/").rstrip("/") or default).name or default)
