"""A job's workers on Ray Data: a pool of actors, each with the network, that the plan streams through."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
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

STARTS = 3
"""How often Ray is started before the job gives up."""


def check_ray(store: Store) -> None:
    """Refuse workers where there can be none.

    Raises:
        InputError: Ray is not installed, or the output is in this process's memory.
    """
    if find_spec("ray") is None:
        raise InputError('workers need Ray: run pip install -e ".[ray]", or leave out --workers.')
    if not store.is_shared:
        raise InputError(f"output '{store.url}' is in the memory of one process: leave out --workers.")


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
        ray.shutdown()


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
            if attempt == STARTS or not own:
                reason = str(error).strip().splitlines()[0][:200]
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

    A worker that dies is replaced, and the piece that it worked on is done again. No more pieces are under
    way than the workers need, and an image is in the memory of its worker alone.

    Args:
        ray: the module.
        job: of the workers.
        store: the output, which holds the plan.
        plan: what is to be done.
        workers: how many of them.
        size: images of a piece.
        gpus: of each worker; a fraction shares one.
    """
    from ray.data import ActorPoolStrategy, DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = False
    # Blocks are the pieces: Ray spills those to disk that its shared memory has no room for.
    pieces = ray.data.from_arrow([*read_plan(store, plan, size)])
    results = pieces.map_batches(
        Worker,
        fn_constructor_args=(job,),
        batch_format="pyarrow",
        batch_size=None,
        compute=ActorPoolStrategy(size=workers),
        num_cpus=job.threads,
        num_gpus=gpus,
    )
    yield from results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
