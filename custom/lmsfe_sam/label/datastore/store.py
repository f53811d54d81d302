"""MONAI Label's folder of images and labels, made safe for simultaneous changes and crashes.

What is known of the folder is never changed in place: a change is made on a copy, written, and only then put
in the old one's place, so that a request that reads meanwhile sees one or the other.
"""

from __future__ import annotations

import copy
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from threading import RLock
from typing import Any

from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore, LocalDatastoreModel
from monailabel.interfaces.datastore import DefaultLabelTag

from lmsfe_sam.errors import InputError
from lmsfe_sam.files import unwritable
from lmsfe_sam.label.checks import NotFoundError, TakenError, TooLargeError, check_tag, is_plain, shorten
from lmsfe_sam.label.datastore.records import RecordFile

logger = logging.getLogger(__name__)

FINAL = DefaultLabelTag.FINAL.value

MAX_KEYS = 200
"""Different things that may be stored about one image."""


class Change:
    """A change in the making.

    Attributes:
        objects: a copy of all entries by name; an entry is replaced, not changed.
        after: what is done on files once the change is written.
    """

    def __init__(self, objects: dict[str, ImageLabelModel]) -> None:
        self.objects = objects
        self.after: list[Callable[[], Any]] = []


class SafeStore(LocalDatastore):
    """MONAI Label's `LocalDatastore` with whole files, one writer at a time, and no way out of its folder.

    It takes the place of everything in there that writes.
    """

    _datastore: LocalDatastoreModel

    def __init__(self, datastore_path: str, *args: Any, **options: Any) -> None:
        self._record = RecordFile(Path(datastore_path) / "datastore_v2.json")
        self._one_writer = RLock()
        self._one_process = FileLock(Path(datastore_path) / ".lock")
        self._root = os.path.realpath(datastore_path)
        for folder in ("labels", "labels/final", "labels/original"):
            if (Path(self._root) / folder).is_symlink():
                raise InputError(f"'{folder}' of the studies is a link: replace it by a folder.")
        super().__init__(datastore_path, *args, **options)
        if getattr(self, "_handler", None) is not None:  # another process replaces the record: a move
            self._handler.on_moved = self._on_any_event

    # What is there

    def get_image_uri(self, image_id: str) -> str:
        """Return an image's path, empty where there is none or it is not a file of this folder."""
        entry = self._datastore.objects.get(image_id)
        return self._own_file(self._image_file(image_id, entry)) if entry else ""

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """Return a label's path, empty where there is none or it is not a file of this folder."""
        label = self._datastore.label(label_id, label_tag)
        return self._own_file(self._label_file(label_id, label_tag, label)) if label else ""

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """Return a copy of what is known of an image, with its path."""
        entry = self._datastore.objects.get(image_id)
        if entry is None:
            return {}
        info = copy.deepcopy(entry.image.info)
        if "strategy" in info:  # MONAI Label's strategies read it, and clients may have written anything
            info["strategy"] = _served(info["strategy"])
        return {**info, "path": self.get_image_uri(image_id)}

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """Return a copy of what is known of a label."""
        label = self._datastore.label(label_id, label_tag)
        return copy.deepcopy(label.info) if label else {}

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Return the paths of images with a final label, and of these."""
        pairs = []
        for name in self._datastore.filter_by_tag(FINAL):
            image, label = self.get_image_uri(name), self.get_label_uri(name, FINAL)
            if image and label:
                pairs.append({"image": image, "label": label})
        if full_path:
            return pairs
        return [{key: os.path.relpath(path, self._root) for key, path in pair.items()} for pair in pairs]

    def get_dataset_archive(self, limit_cases: int | None = None) -> str:
        """Not in use: the files are in the folder."""
        raise NotFoundError("this server makes no archive: the images and labels are files of its folder.")

    # What changes

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Copy an image into the folder under a name that is free; return the name.

        Raises:
            TakenError: the name is taken.
            InputError: the disk is full; nothing has changed.
        """
        stem, suffix = self._to_id(Path(image_filename).name)
        name = image_id or stem
        check_tag(name)
        with self._changing() as change:
            target = Path(self._root) / f"{name}{suffix}"
            known = change.objects.get(name)
            if os.path.lexists(target) or (known and os.path.lexists(self._image_file(name, known))):
                raise TakenError(
                    f"there is an image '{shorten(name)}' already: choose another name, or delete it."
                )
            info = {**(image_info or {}), "ts": int(time.time()), "name": target.name}
            change.objects[name] = ImageLabelModel(image=DataModel(info=info, ext=suffix))
            self._bring(change, Path(image_filename), target)
        return name

    def remove_image(self, image_id: str) -> None:
        """Delete an image and its labels.

        Raises:
            NotFoundError: there is no such image.
        """
        with self._changing() as change:
            entry = self._entry(change, image_id)
            del change.objects[image_id]
            files = [self._label_file(image_id, tag, label) for tag, label in entry.labels.items()]
            change.after += [_removing(path) for path in (*files, self._image_file(image_id, entry))]

    def save_label(
        self,
        image_id: str,
        label_filename: str,
        label_tag: str,
        label_info: dict[str, Any],
        label_id: str = "",
    ) -> str:
        """Copy a label into the folder, in the place of an earlier one; return the image's name.

        Raises:
            NotFoundError: there is no such image.
            InputError: the disk is full; nothing has changed.
        """
        check_tag(label_tag)
        _, suffix = self._to_id(Path(label_filename).name)
        with self._changing() as change:
            entry = self._entry(change, image_id)
            before = entry.labels.get(label_tag)
            label = DataModel(info={**(label_info or {}), "ts": int(time.time())}, ext=suffix)
            target = self._label_file(image_id, label_tag, label)
            label.info["name"] = target.name
            self._own_folder(target.parent)
            change.objects[image_id] = entry.model_copy(update={"labels": {**entry.labels, label_tag: label}})
            self._bring(change, Path(label_filename), target)
            if before is not None and before.ext != suffix:
                change.after.append(_removing(self._label_file(image_id, label_tag, before)))
        return image_id

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Delete a label.

        Raises:
            NotFoundError: there is no such label.
        """
        with self._changing() as change:
            entry = self._entry(change, label_id)
            label = entry.labels.get(label_tag)
            if label is None:
                raise NotFoundError(f"there is no label '{shorten(label_tag)}' of '{shorten(label_id)}'.")
            labels = {tag: other for tag, other in entry.labels.items() if tag != label_tag}
            change.objects[label_id] = entry.model_copy(update={"labels": labels})
            change.after.append(_removing(self._label_file(label_id, label_tag, label)))

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Add to what is known of an image.

        Raises:
            NotFoundError: there is no such image.
            InputError: too much is stored, or the disk is full; nothing has changed.
        """
        with self._changing() as change:
            entry = self._entry(change, image_id)
            image = entry.image.model_copy(update={"info": _added(entry.image.info, info)})
            change.objects[image_id] = entry.model_copy(update={"image": image})

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Add to what is known of a label; raises as `update_image_info`."""
        with self._changing() as change:
            entry = self._entry(change, label_id)
            label = entry.labels.get(label_tag)
            if label is None:
                raise NotFoundError(f"there is no label '{shorten(label_tag)}' of '{shorten(label_id)}'.")
            label = label.model_copy(update={"info": _added(label.info, info)})
            change.objects[label_id] = entry.model_copy(update={"labels": {**entry.labels, label_tag: label}})

    # How

    @contextmanager
    def _changing(self) -> Iterator[Change]:
        """Let one caller at a time, of one process, change the entries; on an error nothing has changed."""
        with self._one_writer, self._one_process:
            self._init_from_datastore_file()
            change = Change(dict(self._datastore.objects))
            files: list[Path] = []
            self._waiting = files
            try:
                yield change
                changed = self._datastore.model_copy(update={"objects": change.objects})
                self._record.write(changed)
                self._datastore = changed
                for step in change.after:
                    step()
            finally:
                for path in files:
                    path.unlink(missing_ok=True)

    def _bring(self, change: Change, source: Path, target: Path) -> None:
        """Copy a file beside its target now, and put it there once the change is written."""
        try:
            handle, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=target.parent)
            self._waiting.append(Path(name))
            with os.fdopen(handle, "wb") as copied, source.open("rb") as original:
                shutil.copyfileobj(original, copied, 1 << 20)
                copied.flush()
                os.fsync(copied.fileno())
            Path(name).chmod(0o644)
        except OSError as error:
            raise unwritable(Path(target.name), error) from error
        change.after.append(lambda: Path(name).replace(target))

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        """Read the record if another process has changed it; at the start, repair it if it is damaged."""
        with self._one_writer, self._one_process:
            if not self._record.has_changed():
                return
            try:
                model = self._record.read(repair=throw_exception)
            except (OSError, ValueError):
                logger.warning("The record of images cannot be read: the last state is used.")
                return
            if model is not None:
                self._datastore = model.model_copy(update={"base_path": self._datastore_path})

    def _update_datastore_file(self, lock: bool = True) -> None:
        with self._one_writer, self._one_process:
            self._record.write(self._datastore)

    def _reconcile_datastore(self) -> None:
        """Bring the entries in line with the files."""
        with self._one_writer, self._one_process:
            self._init_from_datastore_file()
            entries = self._from_files(self._datastore.objects)
            if entries == self._datastore.objects and self._record.path.exists():
                return
            self._datastore = self._datastore.model_copy(update={"objects": entries})
            try:
                self._record.write(self._datastore)
            except (OSError, ValueError):
                logger.warning("The record of images cannot be written: is the disk full?")

    def _from_files(self, known: dict[str, ImageLabelModel]) -> dict[str, ImageLabelModel]:
        now = int(time.time())
        entries = {
            name: entry for name, entry in known.items() if os.path.lexists(self._image_file(name, entry))
        }
        odd = 0
        for file in self._list_files(self._root, self._extensions):
            name, suffix = self._to_id(file)
            odd += not is_plain(name)
            if is_plain(name) and name not in entries:
                info = {"ts": now, "name": file}
                entries[name] = ImageLabelModel(image=DataModel(info=info, ext=suffix))
        if odd:
            logger.warning("%d image(s) have names with characters that are not served: rename them.", odd)
        folder = Path(self._root) / "labels"
        tags = sorted(path.name for path in folder.iterdir() if is_plain(path.name) and path.is_dir())
        there = {tag: list(self._list_files(folder / tag, self._extensions)) for tag in tags}
        for name, entry in entries.items():
            labels = {
                tag: label
                for tag, label in entry.labels.items()
                if os.path.lexists(self._label_file(name, tag, label))
            }
            entries[name] = entry.model_copy(update={"labels": labels})
        for tag, files in there.items():
            for file in files:
                name, suffix = self._to_id(file)
                if name in entries and tag not in entries[name].labels:
                    entries[name].labels[tag] = DataModel(info={"ts": now, "name": file}, ext=suffix)
        return entries

    def _list_files(self, path: str | Path, patterns: Any) -> dict[str, str]:
        """Only files of this folder: no hidden ones, no folders, no links that lead out."""
        names = super()._list_files(path, patterns)
        return {
            name: name
            for name in names
            if not name.startswith(".") and self._own_file(Path(path) / name, Path(name).suffix)
        }

    def _to_id(self, file: str) -> tuple[str, str]:
        suffixes = [pattern.removeprefix("*") for pattern in self._extensions]
        fitting = [suffix for suffix in (*suffixes, ".nii.gz") if file.lower().endswith(suffix.lower())]
        suffix = max(fitting, key=len, default=Path(file).suffix)
        return (file[: -len(suffix)], file[-len(suffix) :]) if suffix else (file, "")

    def _image_file(self, name: str, entry: ImageLabelModel) -> Path:
        return Path(self._root) / f"{name}{entry.image.ext}"

    def _label_file(self, name: str, tag: str, label: DataModel) -> Path:
        folder = tag.value if isinstance(tag, Enum) else tag  # MONAI Label's own tags are of an enumeration
        return Path(self._root) / "labels" / folder / f"{name}{label.ext}"

    def _own_file(self, path: Path, suffix: str = "") -> str:
        """Return the path of a regular file in this folder, links resolved; empty for anything else."""
        real = os.path.realpath(path)
        inside = os.path.commonpath([real, self._root]) == self._root
        hidden = any(part.startswith(".") for part in Path(os.path.relpath(real, self._root)).parts)
        if not inside or hidden or not real.endswith(suffix or path.suffix):
            return ""
        try:
            return real if stat.S_ISREG(os.stat(real).st_mode) else ""  # noqa: PTH116
        except OSError:
            return ""

    def _own_folder(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if os.path.realpath(folder) != str(folder):
            raise NotFoundError(
                f"the folder of labels '{shorten(folder.name)}' is a link: replace it by a folder."
            )

    def _entry(self, change: Change, name: str) -> ImageLabelModel:
        entry = change.objects.get(name)
        if entry is None:
            raise NotFoundError(
                f"there is no image '{shorten(name)}': there are {len(change.objects)} others."
            )
        return entry

    def _on_any_event(self, event: Any) -> None:
        try:
            self.refresh()
        except Exception as error:  # the thread that watches the folder must go on
            logger.warning("The folder of images could not be read again (%s).", type(error).__name__)

    def _on_modify_event(self, event: Any) -> None:
        if event.src_path == self._datastore_config_path:
            self._init_from_datastore_file()


def _added(info: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    together = {**info, **more}
    if len(together) > max(MAX_KEYS, len(info)):
        raise TooLargeError(f"more than {MAX_KEYS} things would be stored about this: leave some out.")
    return together


def _served(strategies: Any) -> dict[str, Any]:
    known = strategies.items() if isinstance(strategies, dict) else ()
    return {
        name: entry
        for name, entry in known
        if isinstance(entry, dict) and isinstance(entry.get("ts"), int) and abs(entry["ts"]) < 2**53
    }


def _removing(path: Path) -> Callable[[], Any]:
    def remove() -> None:
        path.unlink(missing_ok=True)

    return remove
