"""A whole job: from the input and what is finished to the parts, with one process that writes them."""

from __future__ import annotations

import json
import logging
import math
import time
import uuid
from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lmsfe_sam.batch.claim import Claim, claim
from lmsfe_sam.batch.cluster import check_ray, has_gpu, on_ray, ray_cluster
from lmsfe_sam.batch.plan import Plan, clear_plan, make_plan, read_plan
from lmsfe_sam.batch.progress import Summary, progress_bar
from lmsfe_sam.batch.record import FAILURES, Failures, Record
from lmsfe_sam.batch.sources import read_sources
from lmsfe_sam.batch.storage import Store
from lmsfe_sam.batch.worker import Job, Worker, as_table, read_config
from lmsfe_sam.distributed import check_device
from lmsfe_sam.errors import InputError
from lmsfe_sam.files import own_bundle
from lmsfe_sam.inference.results import mask_settings
from lmsfe_sam.options import InferenceOptions, check_options
from lmsfe_sam.prompts.prompts_file import read_prompts
from lmsfe_sam.stopping import Stopped, held_signals

logger = logging.getLogger(__name__)

CONFIG_SUFFIXES = (".json", ".yaml", ".yml")

SUMMARY = "summary.json"

PART_SECONDS = 30.0
"""A part is written after this time, even if it is not full."""


@dataclass(frozen=True)
class BatchOptions:
    """Options of a job.

    Attributes:
        input: a folder, a manifest (Parquet, CSV, JSONL) or an image; a path or a URL.
        output: folder of the results; a path or a URL.
        prompts: a prompts file, or None.
        workers: processes on Ray; None for this process alone, without Ray.
        threads: of a worker.
        gpus: of a worker, on a cluster that has some; a fraction shares one.
        piece: images that a worker is given at a time.
        part: images of a part, the most that are done again after a kill.
        overlays: whether overlays are written.
        max_failures: more images that fail end the job; None for any number.
        config_files: of inference; empty for this package's own.
        inference: keys of the config with other values (`lmsfe_sam.options.InferenceOptions`).
    """

    input: str
    output: str
    prompts: str | None = None
    workers: int | None = None
    threads: int = 1
    gpus: float = 1.0
    piece: int = 16
    part: int = 1024
    overlays: bool = False
    max_failures: int | None = None
    config_files: tuple[str, ...] = ()
    inference: Mapping[str, Any] = field(default_factory=dict)


def run_batch(options: BatchOptions) -> Summary:
    """Segment what is missing of the input in the output.

    Raises:
        InputError: an option, the input, the output or the checkpoint cannot be used; or more images
            failed than ``max_failures``.
        Stopped: a signal asked the job to end; the message says what is finished.
    """
    for key in ("input", "output", "prompts"):
        if getattr(options, key) is not None and not getattr(options, key).strip():
            raise InputError(f"{key} '{getattr(options, key)}' is no name: give a file, folder or URL.")
    name = uuid.uuid4().hex[:12]
    store = Store(options.output, name)
    if options.workers is not None:
        check_ray(store)
    for file in options.config_files:
        if not Path(file).is_file() or Path(file).suffix not in CONFIG_SUFFIXES:
            raise InputError(f"config_file '{file}' is no config: give a .json or .yaml file.")
    if not math.isfinite(options.gpus) or options.gpus < 0:
        raise InputError(f"gpus is {options.gpus}: give a number of at least 0.")
    files = options.config_files or (str(own_bundle() / "configs" / "inference.json"),)
    job = Job(name, store.url if "://" in store.url else store.root, files, dict(options.inference))
    job = replace(job, overlays=options.overlays, threads=options.threads)
    settings = _check(job, options)
    prompts = {} if options.prompts is None else read_prompts(options.prompts)
    sources = partial(read_sources, options.input, prompts, store.root)
    next(sources())  # an input that is none is refused before the output is touched
    store.prepare()
    with claim(store) as own, ExitStack() as stack:
        stack.callback(store.clean)
        record = Record(store)
        record.open(settings)
        plan = make_plan(sources, record)
        stack.callback(clear_plan, store)
        _announce(plan, store)
        failures = Failures(store, stack.enter_context(store.scratch()))
        writing = _Writing(record, own, failures, options, plan)
        with closing(_work(job, store, plan, options)) as work:
            return writing.run(work)


def _check(job: Job, options: BatchOptions) -> dict[str, Any]:
    """Check the options of inference, and return all that masks depend on."""
    for key, minimum in (("workers", 1), ("threads", 1), ("piece", 1), ("part", 1), ("max_failures", 0)):
        value = getattr(options, key)
        if value is not None and value < minimum:
            raise InputError(f"{key} is {value}: give a whole number of at least {minimum} with --{key}.")
    config = read_config(job)
    given = config.get_parsed_content("options")
    check_options(InferenceOptions, given)
    if options.workers is None and "device" in job.options:
        check_device(job.options["device"])
    config.get_parsed_content("image_size")  # which reads the description of the checkpoint
    return mask_settings(given)


def _announce(plan: Plan, store: Store) -> None:
    done = plan.total - plan.left
    if not plan.left:
        logger.info(
            "All %d images are finished in '%s' already: nothing is left to do.", plan.total, store.url
        )
    elif done:
        logger.info(
            "%d of %d images are finished in '%s' already: segmenting %d.",
            *(done, plan.total, store.url, plan.left),
        )
    else:
        logger.info("Segmenting %d images into '%s'.", plan.left, store.url)


def _work(job: Job, store: Store, plan: Plan, options: BatchOptions) -> Generator[pa.Table]:
    """Yield the results of the images of the plan."""
    if not plan.left:
        return
    if options.workers is None:
        worker = Worker(job)
        for piece in read_plan(store, plan, options.piece):
            for item in worker.results(piece.to_pylist()):
                yield as_table([item])
        return
    with ray_cluster(job, options.workers) as ray:
        gpus = options.gpus if has_gpu(ray) and str(job.options.get("device", "cuda")) != "cpu" else 0
        job = replace(job, options={"device": "cuda" if gpus else "cpu", **job.options})
        size = min(options.piece, -(-plan.left // options.workers))  # a small job's images for all workers
        yield from on_ray(ray, job, store, plan, options.workers, size, gpus)


class _Writing:
    """Collects results and writes parts."""

    def __init__(
        self, record: Record, own: Claim, failures: Failures, options: BatchOptions, plan: Plan
    ) -> None:
        self.record = record
        self.own = own
        self.failures = failures
        self.options = options
        self.summary = Summary(plan.total, plan.total - plan.left)
        self.seen = np.zeros(plan.left, bool)
        self.waiting: list[pa.Table] = []
        self.count = 0
        self.written = time.monotonic()
        self.bar = progress_bar(plan.total, plan.total - plan.left)

    def run(self, work: Iterable[pa.Table]) -> Summary:
        try:
            for results in work:
                self.add(results)
        except Stopped as stopped:
            self.end()
            sentence = f"{self.summary.sentence(self.record.store.url)} The same command does the rest."
            raise Stopped(stopped.number, sentence) from None
        except BaseException:
            self.end()
            raise
        self.end()
        missing = int((~self.seen).sum())
        if missing:
            raise InputError(f"{missing} images came back without a result: the same command does them.")
        self.record.store.write(SUMMARY, json.dumps(self.summary.as_dict(), indent=2).encode() + b"\n")
        logger.info("%s", self.summary.sentence(self.record.store.url))
        return self.summary

    def add(self, results: pa.Table) -> None:
        numbers = results["number"].to_numpy()
        results = results.filter(pa.array(~self.seen[numbers]))  # a piece that was done twice counts once
        self.seen[numbers] = True
        self.summary.add(results)
        self.failures.add(results)
        self.waiting.append(results.filter(pc.is_null(results["sentence"])))
        self.count += len(self.waiting[-1])
        self.bar.set_postfix(failures=self.summary.failures, refresh=False)
        self.bar.update(len(results))
        if self.count >= self.options.part or time.monotonic() - self.written > PART_SECONDS:
            self.write()
        limit = self.options.max_failures
        if limit is not None and self.failures.count > limit:
            raise InputError(
                f"{self.failures.count} images failed, more than max_failures {limit}: read {FAILURES} in "
                f"'{self.record.store.url}'; the same command tries what is not finished."
            )

    def write(self) -> None:
        if self.count:
            self.own.check()
            with held_signals():
                self.summary.objects += self.record.add(self.waiting)
                self.waiting, self.count = [], 0
        self.written = time.monotonic()

    def end(self) -> None:
        self.bar.close()
        self.write()
        self.failures.publish()
