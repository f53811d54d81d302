"""What is finished in an output: parts of the table of objects, which are the record by which a job goes on.

A part is a Parquet file with the rows of some images, put into place in one step after their masks. An image
is finished once its rows are in a part. The journal of a folder (`lmsfe_sam.journal`) is not used here, as
object stores can add nothing to a file, and it is held in memory as a whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from lmsfe_sam.batch.storage import Store, unreadable
from lmsfe_sam.errors import InputError
from lmsfe_sam.inference.results import COLUMNS

SETTINGS, OBJECTS, FAILURES = "settings.json", "objects", "failures.parquet"

TYPES = {
    "object": pa.int32(),
    "area_px": pa.int64(),
    "area_mm2": pa.float64(),
    "x0": pa.int32(),
    "y0": pa.int32(),
    "x1": pa.int32(),
    "y1": pa.int32(),
    "predicted_iou": pa.float64(),
    "frame": pa.int32(),
}
"""Types of the columns of the table of objects; text where there is none."""

ROW = pa.struct([(name, TYPES.get(name, pa.string())) for name in COLUMNS if name != "image"])
"""The columns of one object."""

RESULT = pa.schema(
    [
        ("number", pa.int64()),
        ("image", pa.string()),
        ("key", pa.string()),
        ("mask", pa.string()),
        ("rows", pa.list_(ROW)),
        ("sentence", pa.string()),
        ("bytes_read", pa.int64()),
        ("bytes_written", pa.int64()),
    ]
)
"""What a worker says of each image: its rows, or a sentence that says why there are none."""

FAILURE = pa.schema([("image", pa.string()), ("sentence", pa.string())])


class Finished:
    """Which images are finished, in 16 bytes each.

    Args:
        images: their numbers (`image_number`), each once.
        keys: their keys (`lmsfe_sam.batch.sources.Source.key`) as numbers.
        incomplete: how many more have rows, but no mask any more.
    """

    def __init__(self, images: np.ndarray, keys: np.ndarray, incomplete: int = 0) -> None:
        order = np.argsort(images)
        self.images, self.keys = images[order], keys[order]
        self.incomplete = incomplete

    def __len__(self) -> int:
        return len(self.images)

    def key(self, image: int) -> int | None:
        """Return the key that an image was finished with, or None."""
        index = int(np.searchsorted(self.images, np.uint64(image)))
        if index == len(self.images) or int(self.images[index]) != image:
            return None
        return int(self.keys[index])


def image_number(image: str) -> int:
    """Return a number of 64 bits for an image's name: two of ten million share one with a chance of 3e-6."""
    return int.from_bytes(hashlib.blake2b(image.encode(), digest_size=8).digest(), "big")


class Record:
    """The parts of an output, read and written by one job at a time.

    Args:
        store: the output.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.parts: list[str] = []

    def open(self, settings: Mapping[str, Any]) -> None:
        """Make sure that the output belongs to jobs with these settings, or is new.

        Raises:
            InputError: it holds results of other settings, or files that no job wrote.
        """
        self.parts = [name for name in self.store.list(OBJECTS) if name.endswith(".parquet")]
        content = self.store.read(SETTINGS)
        if content is None:
            for folder in (OBJECTS, "masks", "overlays"):
                if found := self.store.list(folder):
                    raise InputError(
                        f"output '{self.store.url}' holds '{found[0]}', which no batch job wrote: move it "
                        "away, or name another output with --output."
                    )
            self.store.write(SETTINGS, json.dumps(settings, indent=2).encode() + b"\n")
            return
        try:
            before = dict(json.loads(content))
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f"'{self.store.url}/{SETTINGS}' is damaged: name another --output.") from error
        changed = sorted(key for key in {*before, *settings} if before.get(key) != settings.get(key))
        if changed:
            raise InputError(
                f"output '{self.store.url}' holds results made with other settings "
                f"({', '.join(changed)[:200]}): give the same ones, or name another output with --output."
            )

    def finished(self) -> Finished:
        """Return what is finished.

        Raises:
            InputError: a part cannot be read.
        """
        images, keys = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
        incomplete = 0
        for part in self.parts:
            table = self._read(part, ["image", "key", "mask"])
            first = np.unique(table["image"].to_numpy(), return_index=True)[1]
            table = table.take(first)
            if self.store.is_local:  # whose mask is gone is not finished
                masks = table["mask"].to_pylist()
                there = [mask is None or Path(self.store.path(mask)).is_file() for mask in masks]
                incomplete += there.count(False)
                table = table.filter(pa.array(there, pa.bool_()))
            names, words = table["image"].to_pylist(), table["key"].to_pylist()
            images.append(np.array([image_number(name) for name in names], np.uint64))
            keys.append(np.array([int(word, 16) for word in words], np.uint64))
        return Finished(np.concatenate(images), np.concatenate(keys), incomplete)

    def drop(self, images: Callable[[str], bool]) -> None:
        """Take the rows of images out, whose results are to be made again.

        Args:
            images: tells which, by their names.

        Raises:
            InputError: a part cannot be written.
        """
        for part in [*self.parts]:
            stale = [images(name) for name in self._read(part, ["image"])["image"].to_pylist()]
            if not any(stale):
                continue
            table = self._read(part)
            gone = pa.array(stale, pa.bool_())
            left = table.filter(pc.invert(gone))
            if len(left):
                self._write(left, part)
            else:
                self.store.remove(part)
                self.parts.remove(part)
            for mask in {*table.filter(gone)["mask"].drop_null().to_pylist()}:
                self.store.remove(mask)

    def add(self, results: Sequence[pa.Table]) -> int:
        """Write a part with the rows of finished images, and return how many rows there are.

        Args:
            results: of the columns `RESULT`, without failures.

        Raises:
            InputError: it cannot be written.
        """
        table = pa.concat_tables(results).combine_chunks()
        if not len(table):
            return 0
        rows = table["rows"].combine_chunks()
        owners = table.take(pc.list_parent_indices(rows))
        objects = pa.Table.from_struct_array(rows.flatten())
        columns = {"image": owners["image"], **{name: objects[name] for name in objects.column_names}}
        last = int(self.parts[-1].rpartition("-")[2].partition(".")[0]) if self.parts else -1
        part = f"{OBJECTS}/part-{last + 1:08d}.parquet"
        self._write(pa.table({**columns, "mask": owners["mask"], "key": owners["key"]}), part)
        self.parts.append(part)
        return len(objects)

    def _read(self, part: str, columns: list[str] | None = None) -> pa.Table:
        try:
            with self.store.fs.open(self.store.path(part), "rb") as file:
                return parquet.read_table(file, columns=columns)
        except Exception as error:  # each file system raises its own
            raise unreadable(f"{self.store.url}/{part}", error) from error

    def _write(self, table: pa.Table, part: str) -> None:
        with self.store.scratch() as folder:
            file = folder / Path(part).name
            parquet.write_table(table, file)
            self.store.publish(file, part)


class Failures:
    """Writes ``failures.parquet``, row by row on this machine and into place at the end.

    Args:
        store: the output.
        folder: on this machine, for as long as it is written.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.file = folder / FAILURES
        self.writer = parquet.ParquetWriter(self.file, FAILURE)
        self.count = 0

    def add(self, results: pa.Table) -> None:
        """Add the failures among results of the columns `RESULT`."""
        failed = results.filter(pc.is_valid(results["sentence"]))
        if len(failed):
            self.writer.write_table(failed.select(FAILURE.names).cast(FAILURE))
            self.count += len(failed)

    def publish(self) -> None:
        """Put the file into place.

        Raises:
            InputError: it cannot be written.
        """
        self.writer.close()
        self.store.publish(self.file, FAILURES)
