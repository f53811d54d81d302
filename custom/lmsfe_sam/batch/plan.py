"""What is left to do: the images of the input that are not finished, in Parquet files that workers read."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from lmsfe_sam.batch.record import Record, image_number
from lmsfe_sam.batch.sources import Source
from lmsfe_sam.batch.storage import Store
from lmsfe_sam.errors import InputError

FOLDER = "plan"

PLAN = pa.schema(
    [
        ("number", pa.int64()),
        ("image", pa.string()),
        ("url", pa.string()),
        ("name", pa.string()),
        ("slice", pa.int64()),
        ("objects", pa.string()),
        ("key", pa.string()),
    ]
)

FILE_ROWS = 8192


@dataclass(frozen=True)
class Plan:
    """What a job has to do.

    Attributes:
        total: images of the input.
        left: of them to be done; their numbers in the plan are 0 to left - 1.
        files: of the plan, in the output.
    """

    total: int
    left: int
    files: tuple[str, ...]


def make_plan(sources: Callable[[], Iterable[Source]], record: Record) -> Plan:
    """Write the plan, and take the rows of images that have changed out of the record.

    Args:
        sources: gives the images, each time anew.
        record: of what is finished.

    Raises:
        InputError: as `lmsfe_sam.batch.sources.read_sources`; or images by one name, or with results by one.
    """
    store = record.store
    clear_plan(store)
    finished = record.finished()
    writer = _Writer(store)
    images, results, left = array("Q"), array("Q"), array("Q")
    changed = finished.incomplete
    for source in sources():
        number = image_number(source.image)
        images.append(number)
        results.append(image_number(source.name.casefold()))
        before = finished.key(number)
        if before != int(source.key, 16):
            changed += before is not None
            left.append(number)
            writer.add(source)
    writer.flush()
    for numbers, what in ((images, "is there twice"), (results, "has results by the name of another's")):
        index = _second(numbers)
        if index is not None:
            image = next(islice(sources(), index, None)).image
            raise InputError(
                f"image '{image}' {what}: put all of its objects into one row, or rows that follow each "
                "other, and give different images different names."
            )
    if changed:
        redone = np.sort(np.array(left, np.uint64))
        record.drop(lambda image: _contains(redone, image_number(image)))
    return Plan(len(images), writer.count, tuple(writer.files))


def read_plan(store: Store, plan: Plan, size: int) -> Iterator[pa.Table]:
    """Yield the plan in pieces of ``size`` images."""
    for name in plan.files:
        with store.fs.open(store.path(name), "rb") as file:
            for batch in parquet.ParquetFile(file).iter_batches(batch_size=size):
                yield pa.Table.from_batches([batch])


def clear_plan(store: Store) -> None:
    """Remove the plan of an earlier job."""
    for name in store.list(FOLDER):
        store.remove(name)


def _second(numbers: array[int]) -> int | None:
    """Return the index of the first number that has been there before, or None."""
    _, first = np.unique(np.array(numbers, np.uint64), return_index=True)
    again = np.ones(len(numbers), bool)
    again[first] = False
    return int(again.argmax()) if again.any() else None


def _contains(numbers: np.ndarray, number: int) -> bool:
    """Whether a sorted array holds a number."""
    index = int(np.searchsorted(numbers, np.uint64(number)))
    return index < len(numbers) and int(numbers[index]) == number


class _Writer:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.rows: list[dict[str, object]] = []
        self.files: list[str] = []
        self.count = 0

    def add(self, source: Source) -> None:
        row = {name: getattr(source, name) for name in PLAN.names if name != "number"}
        self.rows.append({**row, "number": self.count})
        self.count += 1
        if len(self.rows) == FILE_ROWS:
            self.flush()

    def flush(self) -> None:
        if not self.rows:
            return
        name = f"{FOLDER}/{len(self.files):06d}.parquet"
        with self.store.scratch() as folder:
            file = folder / Path(name).name
            parquet.write_table(pa.Table.from_pylist(self.rows, PLAN), file)
            self.store.publish(file, name)
        self.files.append(name)
        self.rows.clear()
