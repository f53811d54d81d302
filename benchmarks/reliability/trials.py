"""Trials that are noted as they end, so that a campaign can be stopped and gone on with."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def run_trials(count: int, state: Path | None, trial: Callable[[int], str], what: str) -> None:
    """Run the trials that are not noted yet, and print the figure; the process ends with 1 if one failed.

    Args:
        count: of all trials; each has its number for a seed.
        state: file of the trials that are done, one line of JSON each; None to note none.
        trial: runs one, and returns what went wrong, or "".
        what: the trials' name in the figure.
    """
    done: dict[int, str] = {}
    if state is not None and state.exists():
        lines = [line for line in state.read_text().splitlines(keepends=True) if line.endswith("\n")]
        done = {entry["trial"]: entry["failure"] for entry in map(json.loads, lines)}
    for number in range(count):
        if number in done:
            continue
        done[number] = trial(number)
        if state is not None:
            with state.open("a") as file:
                file.write(json.dumps({"trial": number, "failure": done[number]}) + "\n")
        if done[number]:
            print(f"trial {number}: {done[number]}", file=sys.stderr)
    failed = sum(1 for number in range(count) if done[number])
    print(f"{what}: {count - failed} of {count}")
    sys.exit(bool(failed))


def run_kills(
    count: int,
    state: Path | None,
    trial: Callable[[int, Path], str],
    results: Callable[[Path], Any],
    whole: Path,
    leftovers: str,
    what: str,
) -> None:
    """Run trials that kill something: each must end with the results of a run that was not killed.

    Args:
        count, state, what: as for `run_trials`.
        trial: runs one in an output folder of its own, and returns what went wrong, or "".
        results: reads the results in an output folder.
        whole: output folder of the run that was not killed; those of the trials are beside it.
        leftovers: pattern of temporary files, of which none may be left.
    """
    expected = results(whole)

    def one(number: int) -> str:
        output = whole.with_name(f"out{number}")
        problem = trial(number, output)
        if not problem and results(output) != expected:
            problem = "other results than those of a run that was not killed"
        if not problem and list(output.glob(leftovers)):
            problem = "temporary files are left"
        shutil.rmtree(output, ignore_errors=True)
        return problem

    run_trials(count, state, one, what)
