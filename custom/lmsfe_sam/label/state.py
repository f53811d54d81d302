"""What the endpoints share: the app, and training, scoring and batch inference, which run once at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Annotated, Any, cast

import psutil
import torch
from fastapi import Depends, Request
from monailabel.utils.async_tasks.utils import run_background_task, stop_background_task, tasks

from lmsfe_sam.label.checks import BusyError, NotFoundError, for_clients

if TYPE_CHECKING:
    from lmsfe_sam.label.app import UltrasoundApp

logger = logging.getLogger(__name__)

MAX_WAITING = 4
"""Trainings that may wait for the one that runs."""

WORDS = {"train": "training", "scoring": "scoring", "batch_infer": "batch inference"}


class Work:
    """Starts one kind of work, unless some of it runs already.

    MONAI Label counts what it has started as a process, and so lets two that come at the same time run.

    Args:
        kind: a key of `WORDS`, which is MONAI Label's name for it.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._deciding = Lock()
        self._here = 0

    def start(
        self,
        request: dict[str, Any],
        here: Callable[[dict[str, Any]], Any],
        run_sync: bool = False,
        enqueue: bool = False,
    ) -> Any:
        """Do the work now and return what comes of it, or start a process and return how that stands.

        Args:
            request: checked parameters.
            here: does the work in this process.
            run_sync: wait for it.
            enqueue: wait for a process that runs, rather than be refused.

        Raises:
            BusyError: the work is already running.
        """
        with self._deciding:
            waiting = [task for task in tasks(self.kind) if task["status"] in ("SUBMITTED", "RUNNING")]
            queue = enqueue and not run_sync and len(waiting) <= MAX_WAITING
            if self._here or (waiting and not queue):
                word = WORDS[self.kind]
                raise BusyError(f"a {word} runs already: wait for it, or stop it, and try again.")
            if not run_sync:
                logger.info("A %s starts in a process of its own.", WORDS[self.kind])
                return task_info(run_background_task(request, self.kind))
            self._here += 1
        try:
            return here(request)
        finally:
            with self._deciding:
                self._here -= 1

    def status(self, every: bool = False, running: bool = False) -> Any:
        """Say how the processes stand.

        Raises:
            NotFoundError: no process has been started.
        """
        known = list(tasks(self.kind))
        if running:
            known = [task for task in known if task["status"] in ("SUBMITTED", "RUNNING")]
        if not known:
            raise NotFoundError(f"no {WORDS[self.kind]} {'runs' if running else 'was started'}: start one.")
        return (
            [task_info(task) for task in known]
            if every and not running
            else task_info(known[0 if running else -1])
        )

    def stop(self) -> Any:
        """Stop the process that runs; return how it stands, None where there is none."""
        try:
            task = stop_background_task(self.kind)
        except (psutil.Error, StopIteration, IndexError):  # it ended by itself
            task = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None if task is None else task_info(task)


@dataclass
class State:
    """Held by the web application, passed to each endpoint.

    Attributes:
        app: MONAI Label's.
        training, scoring, batch: the kinds of work that run once at a time.
        log: path of the server's log, empty where it is not to be shown.
    """

    app: UltrasoundApp
    log: str = ""
    training: Work = field(default_factory=lambda: Work("train"))
    scoring: Work = field(default_factory=lambda: Work("scoring"))
    batch: Work = field(default_factory=lambda: Work("batch_infer"))


def state_of(request: Request) -> State:
    """Return the state of the application that a request was sent to."""
    return cast(State, request.app.state.label)


Shared = Annotated[State, Depends(state_of)]


def task_info(task: dict[str, Any]) -> dict[str, Any]:
    """Return what a client may know of a process: its last lines without tracebacks and folders."""
    lines = [str(line).strip() for line in list(task.get("details", ())) if not _is_trace(str(line))]
    request = {key: task["request"][key] for key in ("model", "method") if key in task["request"]}
    rest = {key: value for key, value in task.items() if key not in ("details", "request")}
    return {**rest, "request": request, "details": [for_clients(line) for line in lines] or ["no output yet"]}


def _is_trace(line: str) -> bool:
    return not line.strip() or line.startswith((" ", "Traceback", "\t"))
