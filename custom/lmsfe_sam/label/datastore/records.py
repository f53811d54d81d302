"""What the server writes down beside the images: the record of a folder, and sessions.

MONAI Label writes ``datastore_v2.json`` in place: on a full disk half of it is left, and no start succeeds.
Here it is replaced in one step, the last one stays beside it, and a damaged one is repaired. A session is an
image that a client sends once and segments several times; MONAI Label's are kept under the name that they
came with, under a number that others can guess, and stop the server's start where one of them is damaged.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import time
import uuid
from pathlib import Path
from threading import RLock
from typing import Any

from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastoreModel
from monailabel.utils.sessions import SessionInfo, Sessions
from pydantic import ValidationError

from lmsfe_sam.files import atomic_write, unwritable
from lmsfe_sam.label.checks import FULL_DISK, FullDiskError, is_full_disk, is_plain, is_shallow

logger = logging.getLogger(__name__)

_SUFFIX = re.compile(r"(\.[A-Za-z0-9]{1,10}){0,2}")

MAX_SESSIONS = 64
"""Sessions at once; the one that was not used for longest goes first."""

MAX_BYTES = 2**33
"""Of all sessions together; the same rule holds."""

ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class RecordFile:
    """``datastore_v2.json``.

    Args:
        path: of the file; ``.bak`` is added for the one before it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.backup = path.with_name(path.name + ".bak")
        self._seen: tuple[int, int, int] | None = None

    def has_changed(self) -> bool:
        """Whether the file is another one than that which was read or written last."""
        return self._stamp() != self._seen

    def read(self, repair: bool = False) -> LocalDatastoreModel | None:
        """Return what the file holds, or None where there is none.

        Args:
            repair: put a damaged file aside, and return what can be read of it and of the one before it.

        Raises:
            ValueError: it is damaged, and is not to be repaired.
        """
        stamp = self._stamp()
        if stamp is None:
            return None
        text = self.path.read_bytes().decode("utf-8", "replace")
        try:
            model = parse(text)
        except ValueError:
            if not repair:
                raise
            aside = self.path.with_name(f"{self.path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
            self.path.replace(aside)
            logger.warning("The record of images was damaged: it is in '%s', and repaired.", aside.name)
            return self._repaired(text)
        self._seen = stamp
        return model

    def write(self, model: LocalDatastoreModel) -> None:
        """Replace the file, which is kept as the one before.

        Raises:
            InputError: the disk is full, or the folder cannot be written to; the file is as it was.
        """
        text = json.dumps(model.model_dump(exclude={"base_path"}), indent=2, default=str)
        with atomic_write(self.path) as temporary:
            with temporary.open("w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            self._keep()
        self._seen = self._stamp()

    def _keep(self) -> None:
        if not self.path.is_file():
            return
        spare = self.backup.with_name(f".{self.backup.name}")
        spare.unlink(missing_ok=True)
        try:
            spare.hardlink_to(self.path)
        except OSError:  # a file system without links: the backup is a comfort, not a need
            return
        spare.replace(self.backup)

    def _repaired(self, text: str) -> LocalDatastoreModel:
        model = LocalDatastoreModel(name="new-dataset", description="New Dataset", images_dir=".")
        try:
            model = parse(self.backup.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            logger.info("There is no record before it.")
        objects = {**model.objects, **whole_entries(text)}
        return model.model_copy(update={"objects": objects})

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            state = self.path.stat()
        except OSError:
            return None
        return state.st_mtime_ns, state.st_size, state.st_ino


def parse(text: str) -> LocalDatastoreModel:
    """Read a record, without entries whose names would lead out of the folder, or that are nested too deep.

    Raises:
        ValueError: it is not a record.
    """
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    model = LocalDatastoreModel.model_validate(content)
    return model.model_copy(
        update={"images_dir": ".", "labels_dir": "labels", "objects": _safe_entries(model.objects)}
    )


def whole_entries(text: str) -> dict[str, ImageLabelModel]:
    """Return the entries of a damaged record that are whole."""
    start = re.search(r'"objects"\s*:\s*\{', text)
    entries: dict[str, ImageLabelModel] = {}
    offset = start.end() if start else len(text)
    decoder = json.JSONDecoder()
    try:
        while match := re.compile(r'[\s,]*(?=")').match(text, offset):
            name, offset = decoder.raw_decode(text, match.end())
            colon = re.compile(r"\s*:\s*").match(text, offset)
            if colon is None:
                break
            entry, offset = decoder.raw_decode(text, colon.end())
            entries[name] = ImageLabelModel.model_validate(entry)
    except (ValueError, RecursionError, ValidationError):
        pass  # here it is damaged
    return _safe_entries(entries)


def _safe_entries(objects: dict[str, ImageLabelModel]) -> dict[str, ImageLabelModel]:
    safe = {}
    for name, entry in objects.items():
        if is_plain(name) and _is_entry(entry.image):
            labels = {tag: label for tag, label in entry.labels.items() if is_plain(tag) and _is_entry(label)}
            safe[name] = entry.model_copy(update={"labels": labels})
    return safe


def _is_entry(item: DataModel) -> bool:
    return _SUFFIX.fullmatch(item.ext) is not None and is_shallow(item.info)


class SafeSessions(Sessions):
    """MONAI Label's `Sessions` with ids that nobody can guess; damaged ones are removed."""

    def __init__(self, store_path: str, expiry: int = 3600) -> None:
        super().__init__(store_path, expiry)
        self._one_at_a_time = RLock()
        Path(self.store_path).mkdir(parents=True, exist_ok=True, mode=0o700)

    def get_session(
        self, session_id: str, update_ts: bool = True, fetch_cache: bool = True
    ) -> SessionInfo | None:
        """Return a session, None where there is none or it is damaged."""
        if not isinstance(session_id, str) or not ID.fullmatch(session_id):
            return None
        with self._one_at_a_time:
            info = (self.get(session_id) if fetch_cache else None) or self._read(session_id)
            if info is None or not Path(info.image).is_file():
                self.pop(session_id, None)
                return None
            if update_ts:
                info.last_access_ts = int(time.time())
            self[session_id] = info
            return info

    def add_session(
        self, data_file: str, expiry: int = 0, uncompress: bool = False, session_id: str | None = None
    ) -> tuple[str, SessionInfo]:
        """Store a copy of an image; return the session's id and its information.

        Raises:
            FullDiskError: there is no room for it.
        """
        with self._one_at_a_time:
            self._evict(Path(data_file).stat().st_size)
            number = str(uuid.uuid4())
            folder = Path(self.store_path) / number
            now = int(time.time())
            info = SessionInfo()
            info.name, info.path, info.meta = number, str(folder), {}
            info.image = str(folder / f"image{''.join(Path(data_file).suffixes[-2:])}")
            info.create_ts = info.last_access_ts = now
            info.expiry = min(expiry, self.expiry) if expiry > 0 else self.expiry
            try:
                folder.mkdir(parents=True, mode=0o700)
                shutil.copyfile(data_file, info.image)
                self._write_meta_info(number, info)
            except (OSError, ValueError) as error:
                shutil.rmtree(folder, ignore_errors=True)
                if is_full_disk(error):
                    raise FullDiskError(FULL_DISK) from error
                if isinstance(error, OSError):
                    raise unwritable(Path("session"), error) from error
                raise
            self[number] = info
            return number, info

    def remove_session(self, session_id: str) -> None:
        """Forget a session and its image."""
        if ID.fullmatch(session_id):
            with self._one_at_a_time:
                self.pop(session_id, None)
                shutil.rmtree(Path(self.store_path) / session_id, ignore_errors=True)

    def remove_expired(self) -> int:
        """Remove what is out of date, and what is damaged; return how many."""
        count = 0
        with self._one_at_a_time:
            for number in self._numbers():
                info = self.get(number) or self._read(number)
                now = int(time.time())
                if info is not None and info.last_access_ts > now:  # the clock was set back
                    info.last_access_ts = now
                    self[number] = info
                if info is None or info.last_access_ts + info.expiry < now:
                    self.remove_session(number)
                    count += 1
        return count

    def _evict(self, size: int) -> None:
        numbers = self._numbers()
        known = {number: self.get(number) or self._read(number) for number in numbers}
        by_use = sorted(numbers, key=lambda number: getattr(known[number], "last_access_ts", 0))
        sizes = {number: self._size(number) for number in numbers}
        while by_use and (len(by_use) >= MAX_SESSIONS or sum(sizes.values()) + size > MAX_BYTES):
            number = by_use.pop(0)
            sizes.pop(number)
            self.remove_session(number)

    def _size(self, number: str) -> int:
        return sum(
            path.stat().st_size for path in (Path(self.store_path) / number).glob("*") if path.is_file()
        )

    def _numbers(self) -> list[str]:
        return [path.name for path in Path(self.store_path).glob("*-*") if ID.fullmatch(path.name)]

    def _read(self, number: str) -> SessionInfo | None:
        folder = Path(self.store_path) / number
        try:
            content: Any = json.loads((folder / "meta.info").read_text(encoding="utf-8"))
            info = SessionInfo(content)
            times = (info.create_ts, info.last_access_ts, info.expiry)
            image = Path(os.path.realpath(info.image))
        except (OSError, ValueError, AttributeError, TypeError, RecursionError):
            return None
        valid = all(isinstance(value, int) and not isinstance(value, bool) for value in times)
        return info if valid and image.parent == Path(os.path.realpath(folder)) else None

    def _write_meta_info(self, session_id: str, session_info: SessionInfo) -> None:
        with atomic_write(Path(self.store_path) / session_id / "meta.info") as temporary:
            temporary.write_text(json.dumps(session_info.__dict__), encoding="utf-8")


def for_client(info: SessionInfo) -> dict[str, Any]:
    """Return what a client may know of a session: not its path."""
    return {**info.to_json(), "path": "", "image": Path(info.image).name}
