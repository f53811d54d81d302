"""A job's workers on Ray Data: a pool of actors, each with the network, that the plan streams through."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import islice
from typing import Any

import pyarrow as pa

from lmsfe_sam.batch.plan import Plan, read_plan
from lmsfe_sam.batch.storage import Store
from lmsfe_sam.batch.worker import Job, Worker
from lmsfe_sam.errors import InputError
from lmsfe_sam.stopping import SIGNALS

logger = logging.getLogger(__name__)

OBJECT_STORE = 256 * 2**20
"""Bytes of Ray's shared memory where this process starts Ray; only pieces of the plan and rows are in it."""

WINDOW = 2**14
"""Images a worker that Ray is given of the plan at a time; for the next ones workers are started anew."""

AHEAD = 2**20
"""Bytes of results a worker, some thousand images', that may wait to be written until no more are made."""

CONNECT = 10.0
"""Seconds within which a running cluster answers."""

STOP = 30.0
"""Seconds for the work under way to be called off when a job ends early."""

_THREADS = ("StreamingExecutor", "iter_threaded")
"""Names of the threads by which Ray Data hands out results; its prefetchers sleep, and do no harm."""

STARTS = 3
"""How often Ray is started before the job gives up."""


def check_ray(store: Store) -> None:
    """Refuse workers where there can be none.

    Raises:
        InputError: Ray is not installed, nothing answers at RAY_ADDRESS, or the output is in this process's
            memory.
    """
    if find_spec("ray") is None:
        raise InputError('workers need Ray: run pip install -e ".[ray]", or leave out --workers.')
    if not store.is_shared:
        raise InputError(f"output '{store.url}' is in the memory of one process: leave out --workers.")
    address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not (host and port.isdecimal()):  # "auto", or none
        return
    try:
        socket.create_connection((host, int(port)), CONNECT).close()
    except (OSError, OverflowError) as error:  # Ray itself would wait for it, for many minutes
        raise InputError(
            f"RAY_ADDRESS '{address}' names no running cluster ({error}): start one, or unset it."
        ) from error


@contextmanager
def ray_cluster(job: Job, workers: int) -> Iterator[Any]:
    """Join the cluster that ``RAY_ADDRESS`` names, or start Ray on this machine, and yield its module.

    Nothing is reported to Ray's makers unless RAY_USAGE_STATS_ENABLED says so.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    own: dict[str, Any] = {}
    if "RAY_ADDRESS" not in os.environ:
        own = {
            "address": "local",  # else Ray joins whatever runs on this machine, another job's too
            "num_cpus": workers * job.threads + 1,  # one for the rest
            "object_store_memory": OBJECT_STORE,
            "include_dashboard": False,
        }
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        _start(ray, own)
        for number, handler in handlers.items():  # Ray sets its own
            signal.signal(number, handler)
        yield ray
    finally:
        # A thread that uses Ray after its shutdown ends this process without a word.
        _wait_for_threads(STOP)
        ray.shutdown()


def _wait_for_threads(seconds: float) -> None:
    """Wait until the threads by which Ray Data hands out results have ended, but no longer than that."""
    deadline = time.monotonic() + seconds
    for thread in threading.enumerate():
        if thread.name.startswith(_THREADS):
            thread.join(max(0.0, deadline - time.monotonic()))


def _start(ray: Any, own: dict[str, Any]) -> None:
    """Start or join Ray, which gives its own processes 15 seconds to start: on a busy machine, try again.

    Raises:
        InputError: it cannot be started or joined.
    """
    for attempt in range(1, STARTS + 1):
        try:
            ray.init(logging_level=logging.ERROR, log_to_driver=False, **own)
            return
        except Exception as error:  # Ray raises Exception itself
            ray.shutdown()
            reason = str(error).strip().splitlines()[0][:200].rstrip(".")
            if not own:
                raise InputError(
                    f"the cluster of RAY_ADDRESS cannot be joined ({reason}): see whether it runs, and set "
                    "RAY_AUTH_MODE=token if it asks for a token."
                ) from error
            if attempt == STARTS:
                raise InputError(
                    f"Ray does not start ({reason}): leave out --workers, or read its last session's logs."
                ) from error
            logger.warning("Ray did not start in time: trying again.")


def has_gpu(ray: Any) -> bool:
    """Whether the cluster has a GPU."""
    return ray.cluster_resources().get("GPU", 0) > 0


def on_ray(
    ray: Any, job: Job, store: Store, plan: Plan, workers: int, size: int, gpus: float
) -> Iterator[pa.Table]:
    """Yield the results of the images of a plan as they are finished.

    A worker that dies is replaced, and the piece that it worked on is done again. An image is in the memory
    of its worker alone; of the plan, no more than `WINDOW` allows is outside its files, and workers wait
    while results of `AHEAD` have not been taken.

    Args:
        ray: the module.
        job: of the workers.
        store: the output, which holds the plan.
        plan: what is to be done.
        workers: how many of them.
        size: images of a piece.
        gpus: of each worker; a fraction shares one.
    """
    from ray.data import ActorPoolStrategy, DataContext, ExecutionResources

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # not that each window has ended
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = False
    context.execution_options.resource_limits = ExecutionResources.for_limits(
        object_store_memory=workers * AHEAD
    )
    pieces = read_plan(store, plan, size)
    while window := [*islice(pieces, max(1, workers * WINDOW // size))]:
        results = ray.data.from_blocks(window).map_batches(
            Worker,
            fn_constructor_args=(job,),
            batch_format="pyarrow",
            batch_size=None,
            compute=ActorPoolStrategy(size=workers),
            num_cpus=job.threads,
            num_gpus=gpus,
        )
        yield from results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
