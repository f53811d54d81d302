"""Sessions: images that a client sends once and segments several times.

MONAI Label's keep an image under the name that it came with, under a number that others can guess, and stop
the server's start where one of them is torn.
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

from monailabel.utils.sessions import SessionInfo, Sessions

from lmsfe_sam.files import atomic_write, unwritable
from lmsfe_sam.label.faults import FULL_DISK, FullDiskError, is_full_disk

logger = logging.getLogger(__name__)

MOST = 64
"""Sessions at once; the one that was not used for longest goes first."""

MOST_BYTES = 2**33
"""Of all sessions together; the same rule holds."""

ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class SafeSessions(Sessions):
    """MONAI Label's `Sessions` with numbers that nobody guesses, and junk among them swept away."""

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
        """Keep a copy of an image; return the session's number and what is known of it.

        Raises:
            FullDiskError: there is no room for it.
        """
        with self._one_at_a_time:
            self._make_room(Path(data_file).stat().st_size)
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
                if info is None or info.last_access_ts + info.expiry < time.time():
                    self.remove_session(number)
                    count += 1
        return count

    def _make_room(self, size: int) -> None:
        numbers = self._numbers()
        known = {number: self.get(number) or self._read(number) for number in numbers}
        by_use = sorted(numbers, key=lambda number: getattr(known[number], "last_access_ts", 0))
        sizes = {number: self._size(number) for number in numbers}
        while by_use and (len(by_use) >= MOST or sum(sizes.values()) + size > MOST_BYTES):
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
        whole = all(isinstance(value, int) and not isinstance(value, bool) for value in times)
        return info if whole and image.parent == Path(os.path.realpath(folder)) else None

    def _write_meta_info(self, session_id: str, session_info: SessionInfo) -> None:
        with atomic_write(Path(self.store_path) / session_id / "meta.info") as temporary:
            temporary.write_text(json.dumps(session_info.__dict__), encoding="utf-8")


def for_client(info: SessionInfo) -> dict[str, Any]:
    """Return what a client may know of a session: not where it is kept."""
    return {**info.to_json(), "path": "", "image": Path(info.image).name}
