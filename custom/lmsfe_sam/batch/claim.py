"""One writer an output: a lock on a local file, or on an object store a file that is kept fresh."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmsfe_sam.batch.storage import Store
from lmsfe_sam.errors import InputError
from lmsfe_sam.files import lock_file

LOCK, WRITER = ".lock", "writer.json"

REFRESH = 15.0
"""Seconds after which the writer of an output says again that it is there."""

STALE = 4 * REFRESH
"""Seconds after which a writer that has said nothing is taken to be gone."""


class Claim:
    """The right to write to an output.

    Args:
        store: the output.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def check(self) -> None:
        """Make sure that no other job has taken the output over, as it may while this one is suspended.

        Raises:
            InputError: another job has taken it over.
        """
        if not self.store.is_local:
            writer = _read(self.store)
            if writer is None or writer.get("job") != self.store.job:
                raise InputError(f"output '{self.store.url}' was taken over by another job: leave it to it.")


@contextmanager
def claim(store: Store) -> Iterator[Claim]:
    """Claim an output for this process, as long as the block runs.

    Raises:
        InputError: another job writes there.
    """
    with _locked(store) if store.is_local else _marked(store):
        yield Claim(store)


@contextmanager
def _locked(store: Store) -> Iterator[None]:
    path = Path(store.path(LOCK))
    with path.open("a+b") as file:
        if not lock_file(file):
            raise _in_use(store)
        yield


@contextmanager
def _marked(store: Store) -> Iterator[None]:
    writer = _read(store)
    if writer is not None and not _is_gone(writer):
        raise _in_use(store)
    if writer is not None:
        store.remove(WRITER)
    try:
        store.fs.pipe_file(store.path(WRITER), _content(store), mode="create")
    except FileExistsError as error:
        raise _in_use(store) from error
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1][:160].rstrip(".")
        raise InputError(f"output '{store.url}' cannot be written to ({reason}): name another.") from error
    ended = threading.Event()
    thread = threading.Thread(target=_refresh, args=(store, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if (_read(store) or {}).get("job") == store.job:
            store.remove(WRITER)


def _refresh(store: Store, ended: threading.Event) -> None:
    while not ended.wait(REFRESH):
        if (_read(store) or {}).get("job") != store.job:
            return
        store.write(WRITER, _content(store))


def _content(store: Store) -> bytes:
    writer = {"job": store.job, "host": socket.gethostname(), "process": os.getpid(), "time": time.time()}
    return json.dumps(writer).encode()


def _read(store: Store) -> dict[str, Any] | None:
    content = store.read(WRITER)
    if content is None:
        return None
    try:
        return dict(json.loads(content))
    except (ValueError, TypeError):
        return {}


def _is_gone(writer: dict[str, Any]) -> bool:
    """Whether a writer's process has ended, as far as can be known from here."""
    try:
        if writer["host"] == socket.gethostname():
            process = int(writer["process"])
            if process == os.getpid():  # in a container that was started again
                return True
            os.kill(process, 0)
        return time.time() - float(writer["time"]) > STALE
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    except (KeyError, TypeError, ValueError):
        return True


def _in_use(store: Store) -> InputError:
    return InputError(
        f"output '{store.url}' is in use by another job: wait for its end (after a crash on another machine "
        f"{STALE:.0f} seconds), or name another one with --output."
    )
