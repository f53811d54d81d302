"""Files and folders on any file system that fsspec knows (s3://, gs://, ...), written whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from lmsfe_sam.errors import InputError
from lmsfe_sam.files import check_regular, ensure_folder, unwritable

SCRATCH = ".scratch"
"""Folder of an output where its files are made before they are renamed into place."""

ATOMIC_UPLOADS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "adl", "oss", "oci", "memory"})
"""Protocols whose uploads are seen whole or not at all; on others a file is uploaded and then renamed."""

UPLOADS = 4
"""How often an upload is tried before the job gives up."""


def filesystem(url: str) -> tuple[Any, str]:
    """Return the file system of a path or URL, and the path on it.

    Raises:
        InputError: an unknown protocol, or one whose package is missing.
    """
    if "://" not in url:
        return LocalFileSystem(), os.path.abspath(url)  # noqa: PTH100 pathlib would follow links
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ValueError as error:
        raise InputError(f"'{url}' is of no known protocol: give a path or an s3:// or gs:// URL.") from error
    except ImportError as error:
        raise InputError(f"'{url}' needs another package: {str(error).rstrip('.')}.") from error
    return system, path.rstrip("/") or path


def unreadable(url: str, error: Exception) -> InputError:
    """The sentence for a file or folder that could not be read."""
    reason = (getattr(error, "strerror", None) or str(error).strip() or type(error).__name__).splitlines()[-1]
    return InputError(f"'{url}' cannot be read ({reason[:160].rstrip('.')}): check the name and your access.")


class Store:
    """A folder that results are written to.

    Args:
        url: of the folder.
        job: a word that no other job has, for names of temporary files.

    Attributes:
        is_local: whether it is a folder of this machine.

    Raises:
        InputError: see `filesystem`.
    """

    def __init__(self, url: str, job: str) -> None:
        self.url = url.rstrip("/") or url
        self.job = job
        self.fs, self.root = filesystem(url)
        self.is_local = isinstance(self.fs, LocalFileSystem)
        self.is_shared = not isinstance(self.fs, MemoryFileSystem)

    def path(self, name: str) -> str:
        """Return a file's path on the file system."""
        return f"{self.root}/{name}"

    def prepare(self) -> None:
        """Make the folder, and remove what killed jobs left; only while nobody else writes there.

        Raises:
            InputError: it cannot be written to.
        """
        if self.is_local:
            ensure_folder(self.root, "output")
            shutil.rmtree(self.path(SCRATCH), ignore_errors=True)

    def clean(self) -> None:
        """Remove this job's temporary files on this machine."""
        shutil.rmtree(temporary_folder(self.job), ignore_errors=True)
        if self.is_local:
            shutil.rmtree(self.path(SCRATCH), ignore_errors=True)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield an empty folder on this machine, from which `publish` can rename; removed at the end."""
        parent = Path(self.path(SCRATCH), self.job) if self.is_local else temporary_folder(self.job)
        try:
            parent.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(dir=parent))
        except OSError as error:
            raise unwritable(parent, error) from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, file: Path, name: str) -> None:
        """Put a finished file of a scratch folder into place, in one step.

        Raises:
            InputError: it cannot be written.
        """
        if self.is_local:
            target = Path(self.path(name))
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
            except OSError as error:
                raise unwritable(target, error) from error
            return
        for attempt in range(1, UPLOADS + 1):
            try:
                self._upload(file, self.path(name))
                return
            except Exception as error:  # each file system raises its own
                if attempt == UPLOADS:
                    raise _cannot_write(self.url, name, error) from error
                time.sleep(2**attempt / 4)

    def _upload(self, file: Path, path: str) -> None:
        protocol = self.fs.protocol if isinstance(self.fs.protocol, str) else self.fs.protocol[0]
        if protocol in ATOMIC_UPLOADS:
            self.fs.put_file(str(file), path)
            return
        folder, _, last = path.rpartition("/")
        self.fs.makedirs(folder, exist_ok=True)
        unfinished = f"{folder}/.{last}.{self.job}"
        self.fs.put_file(str(file), unfinished)
        self.fs.mv(unfinished, path)

    def read(self, name: str) -> bytes | None:
        """Return a small file's content, or None where there is no such file.

        Raises:
            InputError: it cannot be read.
        """
        try:
            if self.is_local:
                check_regular(Path(self.path(name)))
            content: bytes = self.fs.cat_file(self.path(name))
            return content
        except FileNotFoundError:
            return None
        except Exception as error:
            raise unreadable(f"{self.url}/{name}", error) from error

    def write(self, name: str, content: bytes) -> None:
        """Write a small file in one step.

        Raises:
            InputError: it cannot be written.
        """
        with self.scratch() as folder:
            file = folder / PurePosixPath(name).name
            file.write_bytes(content)
            self.publish(file, name)

    def list(self, folder: str) -> list[str]:
        """Return the names of the files in a folder of this one, sorted; none where there is no such folder.

        Raises:
            InputError: it cannot be read.
        """
        try:
            self.fs.invalidate_cache()
            found = self.fs.ls(self.path(folder), detail=False)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise unreadable(f"{self.url}/{folder}", error) from error
        return sorted(f"{folder}/{PurePosixPath(path).name}" for path in found)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        try:
            self.fs.rm_file(self.path(name))
        except FileNotFoundError:
            return
        except Exception as error:
            raise _cannot_write(self.url, name, error) from error


def temporary_folder(job: str) -> Path:
    """Return the folder on this machine for temporary files of a job."""
    return Path(tempfile.gettempdir(), f"lmsfe_sam-batch-{job}")


def _cannot_write(url: str, name: str, error: Exception) -> InputError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[-1][:160].rstrip(".")
    return InputError(f"'{url}/{name}' could not be written ({reason}): name another --output.")
