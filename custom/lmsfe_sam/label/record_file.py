"""The file in which a folder of studies keeps what is known of its images and labels.

MONAI Label writes ``datastore_v2.json`` in place: on a full disk half of it is left, and no start succeeds.
Here it is replaced in one step, the last one stays beside it, and one that is torn is mended.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from pathlib import Path
from typing import Any

from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastoreModel
from pydantic import ValidationError

from lmsfe_sam.files import atomic_write
from lmsfe_sam.label.checks import is_plain

logger = logging.getLogger(__name__)

_SUFFIX = re.compile(r"(\.[A-Za-z0-9]{1,10}){0,2}")


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

    def read(self, mend: bool = False) -> LocalDatastoreModel | None:
        """Return what the file holds, or None where there is none.

        Args:
            mend: put a damaged file aside, and return what it and the one before it still tell.

        Raises:
            ValueError: it is damaged, and not to be mended.
        """
        stamp = self._stamp()
        if stamp is None:
            return None
        text = self.path.read_bytes().decode("utf-8", "replace")
        try:
            model = parse(text)
        except ValueError:
            if not mend:
                raise
            aside = self.path.with_name(f"{self.path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
            self.path.replace(aside)
            logger.warning("The record of images was damaged: it is in '%s', and mended.", aside.name)
            return self._mended(text)
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

    def _mended(self, text: str) -> LocalDatastoreModel:
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
    """Read a record, without entries whose names would lead out of the folder.

    Raises:
        ValueError: it is none.
    """
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    model = LocalDatastoreModel.model_validate(content)
    return model.model_copy(
        update={"images_dir": ".", "labels_dir": "labels", "objects": _harmless(model.objects)}
    )


def whole_entries(text: str) -> dict[str, ImageLabelModel]:
    """Return the entries of a torn record that are whole."""
    start = re.search(r'"objects"\s*:\s*\{', text)
    found: dict[str, ImageLabelModel] = {}
    place = start.end() if start else len(text)
    decoder = json.JSONDecoder()
    try:
        while match := re.compile(r'[\s,]*(?=")').match(text, place):
            name, place = decoder.raw_decode(text, match.end())
            colon = re.compile(r"\s*:\s*").match(text, place)
            if colon is None:
                break
            entry, place = decoder.raw_decode(text, colon.end())
            found[name] = ImageLabelModel.model_validate(entry)
    except (ValueError, RecursionError, ValidationError):
        pass  # here it was torn
    return _harmless(found)


def _harmless(objects: dict[str, ImageLabelModel]) -> dict[str, ImageLabelModel]:
    kept = {}
    for name, entry in objects.items():
        if is_plain(name) and _SUFFIX.fullmatch(entry.image.ext):
            labels = {tag: label for tag, label in entry.labels.items() if _is_label(tag, label)}
            kept[name] = entry.model_copy(update={"labels": labels})
    return kept


def _is_label(tag: Any, label: DataModel) -> bool:
    return is_plain(tag) and _SUFFIX.fullmatch(label.ext) is not None
