"""What segments images: the pipeline of the inference config, image after image, each with its result."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from lmsfe_sam.batch.record import RESULT, TYPES
from lmsfe_sam.batch.storage import Store, filesystem, temporary_folder, unreadable
from lmsfe_sam.errors import find_input_error
from lmsfe_sam.inference.results import COLUMNS
from lmsfe_sam.inference.transforms import OBJECTS
from lmsfe_sam.prompts.prompts_file import read_objects

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often an image may end the process that works on it."""


@dataclass(frozen=True)
class Job:
    """What every worker must know.

    Attributes:
        name: a word that no other job has.
        output: path or URL of the folder of the results.
        config_files: of inference.
        options: keys of the config with other values.
        overlays: whether overlays are written.
        threads: of torch.
    """

    name: str
    output: str
    config_files: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    overlays: bool = False
    threads: int = 1


def read_config(job: Job) -> Any:
    """Return the inference config of a job as a `ConfigParser`, with nothing in it built yet."""
    from monai.bundle import ConfigParser

    parser = ConfigParser(ConfigParser.load_config_files(list(job.config_files)))
    parser["bundle_root"] = str(Path(job.config_files[0]).resolve().parents[1])
    outputs = ["mask", "overlay"] if job.overlays else ["mask"]
    for key, value in {
        "outputs": outputs,
        **job.options,
        "dataset_dir": None,
        "input": None,
        "handlers": [],
    }.items():
        parser[key] = value
    return parser


class Pipeline:
    """Loads and segments single images as ``inference.json`` says.

    Args:
        job: of which they are.

    Attributes:
        load: reads an image's file and attaches its prompts.
        writers: of the files of each image.
    """

    def __init__(self, job: Job) -> None:
        logging.getLogger("ignite").setLevel(logging.WARNING)
        parser = read_config(job)
        self.load = parser.get_parsed_content("preprocessing")
        self.evaluator = parser.get_parsed_content("evaluator")
        self.evaluator.logger.setLevel(logging.WARNING)
        self.writers = parser.get_parsed_content("writers")

    def segment(self, loaded: Mapping[str, Any]) -> dict[str, Any]:
        """Return what was loaded of an image together with what was found in it."""
        from monai.data import list_data_collate

        self.evaluator.data_loader = [list_data_collate([loaded])]
        self.evaluator.run()
        return {**self.evaluator.state.batch[0], **self.evaluator.state.output[0]}


class Worker:
    """Reads, segments and writes the images of a job; the next image is read while one is segmented.

    Args:
        job: of which they are.
    """

    def __init__(self, job: Job) -> None:
        import torch

        torch.set_num_threads(job.threads)
        self.job = job
        self.store = Store(job.output, job.name)
        self.pipeline = Pipeline(job)
        self.attempts = Attempts(temporary_folder(job.name) / "attempts")

    def __call__(self, plan: pa.Table) -> pa.Table:
        """Return a result (`RESULT`) for each image of a piece of the plan (`lmsfe_sam.batch.plan.PLAN`).

        Raises:
            InputError: a result cannot be written.
        """
        return as_table(self.results(plan.to_pylist()))

    def results(self, items: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the result of each image."""
        if any(self.attempts.count(item["number"]) for item in items):  # one by one, to find the culprit
            for item in items:
                yield self.finish(item, *self.begin(item))
            return
        with ThreadPoolExecutor(1) as reader:
            begun = reader.submit(self.begin, items[0])
            for index, item in enumerate(items):
                loaded = begun.result()
                if index + 1 < len(items):
                    begun = reader.submit(self.begin, items[index + 1])
                yield self.finish(item, *loaded)

    def begin(self, item: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, str, int]:
        """Read an image; return what was loaded or a sentence, and the size of its file."""
        if self.attempts.count(item["number"]) >= ATTEMPTS:
            return None, _sentence(item, f"ended the process {ATTEMPTS} times that worked on it"), 0
        self.attempts.add(item["number"])
        with self.store.scratch() as folder:
            path = None
            try:
                path = fetch(item["url"], folder)
                loaded = self.pipeline.load(self.record(item, path))
                return loaded, "", path.stat().st_size
            except Exception as error:
                return None, _explain(item, error).replace(str(path), item["url"]), 0

    def record(self, item: Mapping[str, Any], path: Path) -> dict[str, Any]:
        """Return the record of an image for the pipeline."""
        record = {
            "image": str(path),
            "name": item["image"],
            "stem": item["name"],
            "prompts": read_objects(json.loads(item["objects"]), "its prompts") if item["objects"] else [],
        }
        return record if item["slice"] is None else {**record, "slice": item["slice"]}

    def finish(
        self, item: Mapping[str, Any], loaded: Mapping[str, Any] | None, sentence: str, size: int
    ) -> dict[str, Any]:
        """Segment an image and write its files; return its result.

        Raises:
            InputError: one of them cannot be written.
        """
        result = {"number": item["number"], "image": item["image"], "key": item["key"]}
        found = None
        if loaded is not None:
            try:
                found = self.pipeline.segment(loaded)
            except Exception as error:
                sentence = _explain(item, error)
        if found is None:
            self.attempts.end(item["number"])
            return {**result, "sentence": sentence, "bytes_read": size, "bytes_written": 0}
        files, written = self.write(found)
        self.attempts.end(item["number"])
        rows = [
            {name: value if name in TYPES else _text(value) for name, value in row.items()}
            for row in found[OBJECTS]
        ]
        return {
            **result,
            "mask": files[-1] if files else None,
            "rows": [{name: row[name] for name in COLUMNS if name in row} for row in rows],
            "bytes_read": size,
            "bytes_written": written,
        }

    def write(self, item: Mapping[str, Any]) -> tuple[list[str], int]:
        """Write the files of an image, the mask last; return their names and their size in bytes."""
        names: list[str] = []
        written = 0
        with self.store.scratch() as folder:
            for number, writer in enumerate(self.pipeline.writers):
                name = writer.name(item)
                if name is None:
                    continue
                file = folder / str(number) / PurePosixPath(name).name
                file.parent.mkdir()
                writer.write(file, item)
                written += file.stat().st_size
                self.store.publish(file, name)
                names.append(name)
        return names, written


def as_table(results: Iterable[dict[str, Any]]) -> pa.Table:
    """Return results as a table of the columns `RESULT`."""
    return pa.Table.from_pylist([*results], RESULT)


class Attempts:
    """Counts how often work on an image was begun and not ended: a process that crashes leaves a mark.

    Args:
        folder: of the marks, on this machine.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def count(self, number: int) -> int:
        """Return how often work on an image was begun since it last ended."""
        try:
            return (self.folder / str(number)).stat().st_size
        except FileNotFoundError:
            return 0

    def add(self, number: int) -> None:
        """Note that work on an image begins."""
        with (self.folder / str(number)).open("ab") as file:
            file.write(b".")

    def end(self, number: int) -> None:
        """Note that it has ended."""
        (self.folder / str(number)).unlink(missing_ok=True)


def fetch(url: str, folder: Path) -> Path:
    """Return the path of an image on this machine, where it is downloaded to if need be.

    Raises:
        InputError: it cannot be read.
    """
    if "://" not in url:
        return Path(url)
    system, path = filesystem(url)
    target = folder / PurePosixPath(path.partition("?")[0]).name
    try:
        system.get_file(path, str(target))
    except Exception as error:  # each file system raises its own
        raise unreadable(url, error) from error
    return target


def _explain(item: Mapping[str, Any], error: Exception) -> str:
    cause = find_input_error(error)
    if cause is not None:
        return _named(item, str(cause))
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
    return _sentence(item, f"cannot be segmented ({type(error).__name__}: {reason})")


def _sentence(item: Mapping[str, Any], what: str) -> str:
    return f"'{item['url']}' {what}: look at the file and its prompts."


def _named(item: Mapping[str, Any], sentence: str) -> str:
    """Return a sentence that names the image, as those of its prompts may not."""
    return sentence if PurePosixPath(item["url"]).name in sentence else f"'{item['url']}': {sentence}"


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
