"""Files: written so that a reader never sees half of one, and the bundle that this package belongs to."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import IO, Any

from lmsfe_sam.errors import InputError
from lmsfe_sam.stopping import held_signals

_TEMPORARY = re.compile(r"(\..+\.tmp-)[a-z0-9_]{8}(\..*)?")
"""What `atomic_write` calls its files while they are written; group 1 begins with the target's name."""

LARGEST_TEXT = 2**26
"""Bytes of a text file that runs write for themselves."""

LARGEST_LIST = 2**29
"""Bytes of a list of images and outlines."""


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` with the same suffixes; rename it on success.

    Raises:
        InputError: the folder cannot be written to, or the disk is full.
    """
    target = Path(path)
    suffix = "".join(target.suffixes[-2:])
    name = ""
    try:
        check_regular(target)  # the rename would put a file into the place of a device or a pipe
        target.parent.mkdir(parents=True, exist_ok=True)
        with held_signals():  # else one could come before the name is known, and the file would stay
            handle, name = tempfile.mkstemp(prefix=temporary_prefix(target), suffix=suffix, dir=target.parent)
            os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        if name:
            Path(name).unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what `atomic_write` left in a folder and below when a run was killed; only while nobody writes.

    Links to other folders are not followed.

    Raises:
        InputError: a file cannot be removed.
    """
    for root, _, names in os.walk(folder):
        for name in filter(_TEMPORARY.fullmatch, names):
            _remove(Path(root, name))


def remove_leftovers_of(*targets: Path) -> None:
    """Remove what was left of these files or folders when a command that writes them was killed.

    Files of other names are left alone, as other commands may be writing them.

    Raises:
        InputError: a file cannot be removed.
    """
    prefixes: dict[Path, set[str]] = {}
    for target in targets:
        prefixes.setdefault(target.parent, set()).add(temporary_prefix(target))
    for folder, own in prefixes.items():
        try:
            paths = [*folder.iterdir()]
        except OSError:  # nothing is there, or writing will say what is wrong
            continue
        for path in paths:
            found = _TEMPORARY.fullmatch(path.name)
            if found and found[1] in own:
                _remove(path)


def temporary_prefix(target: Path) -> str:
    """Return how the name of a temporary file or folder begins that will become the target."""
    return f".{target.name[:40]}.tmp-"


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


def check_is_file(path: Path, name: str, wanted: str) -> None:
    """Refuse what is there and is no file; opening a pipe would wait for ever, a device may never end.

    Args:
        path: the file; one that is not there passes, as opening it says so.
        name: what the message calls it.
        wanted: what it should be.

    Raises:
        InputError: the path is a folder, a pipe or a device.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{name} cannot be read, as it is a folder, a pipe or a device: give {wanted}.")


def read_text(path: Path, encoding: str = "utf-8", most: int = LARGEST_TEXT) -> str:
    """Return the content of a text file of at most ``most`` bytes.

    Raises:
        OSError: it cannot be read, is a folder, a pipe or a device, or is larger.
        UnicodeDecodeError: it is no text.
    """
    check_regular(path)
    if path.stat().st_size > most:
        raise OSError(errno.EFBIG, f"it is larger than {most // 2**20} MiB", str(path))
    return path.read_text(encoding=encoding)


def check_regular(path: Path) -> None:
    """Refuse what is there and is no file, before it is opened; one that is not there passes.

    Raises:
        OSError: it is a folder, a pipe or a device, or a link to itself.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is a folder, a pipe or a device", str(path))


def append_whole(file: FileIO, content: bytes, path: Path) -> None:
    """Append to an unbuffered file in one step, all or nothing.

    Args:
        file: open for appending.
        content: what to append.
        path: of the file, for the message.

    Raises:
        InputError: there was no room for all of it, and there is none of it.
    """
    before = file.seek(0, os.SEEK_END)
    try:
        written = 0
        while written < len(content):
            written += file.write(content[written:])
    except OSError as error:
        file.truncate(before)
        raise unwritable(path, error) from error


def lock_file(file: IO[Any]) -> bool:
    """Lock an open file for this process until it is closed; False where another process has it.

    The lock is the system's own (POSIX) and ends with the process, however that ends. On a network folder its
    server keeps it, for all machines; it may take the server a minute or two to see that a machine has died.
    Where the file system or the platform knows no locks, the file counts as locked.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True


class LockedLog(logging.FileHandler):
    """The log of a run, by which its folder is the run's alone until the log is closed.

    Logs of earlier runs in this process are closed.

    Args:
        path: of the log, in the run's folder.
        what: the run is, in one word, for the message.

    Raises:
        InputError: another process writes into the folder, or the log cannot be written.
    """

    def __init__(self, path: Path, what: str) -> None:
        close_logs()
        try:
            check_regular(path)
            super().__init__(path, encoding="utf-8")
        except OSError as error:
            raise unwritable(path, error) from error
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        assert self.stream is not None
        if not lock_file(self.stream):
            self.close()
            raise InputError(
                f"output_dir '{path.parent}' is in use by another {what}: wait for its end or name another "
                "folder with --output_dir."
            )

    def empty(self) -> None:
        """Take out all lines; the file stays, as it carries the lock."""
        assert self.stream is not None
        self.stream.truncate(0)


def close_logs() -> None:
    """Stop writing the logs of this process's runs, and let others have their folders."""
    package = logging.getLogger(__package__)
    for handler in [handler for handler in package.handlers if isinstance(handler, LockedLog)]:
        package.removeHandler(handler)
        handler.close()


def named_path(text: str) -> Path:
    """Return the path that an argument names; a ``type`` for argparse.

    With ``Path`` as the type an empty argument would be the current folder.

    Raises:
        argparse.ArgumentTypeError: the text is empty.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError(f"'{text}' is no name: give a file or folder")
    return Path(text)


def ensure_folder(path: str | os.PathLike[str], key: str) -> Path:
    """Make the folder ``path`` and prove that it can be written to.

    Args:
        path: the folder.
        key: the config key that named it, for the message.

    Raises:
        InputError: it cannot be made or written to.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0" * 4096)
    except OSError as error:
        raise InputError(
            f"{key} '{folder}' cannot be written to ({error.strerror or error}): "
            f"give a writable folder with --{key}."
        ) from error
    return folder


def own_bundle() -> Path:
    """Return the bundle of this package: the one in its clone, or the packaged folder that it is in.

    Raises:
        InputError: there is no bundle beside the package.
    """
    package = Path(__file__).resolve().parent
    for bundle in (package.parents[1] / "bundle", package.parent):
        if (bundle / "configs" / "metadata.json").is_file():
            return bundle
    raise InputError(f"there is no bundle beside the package in '{package}': name its folder with --bundle.")


def unwritable(path: Path, error: OSError) -> InputError:
    """The sentence for a file that could not be written."""
    return InputError(
        f"'{path}' could not be written ({error.strerror or error}): "
        "free some space or name another place with --output_dir or --output."
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
