"""Trials that are noted as they end, so that a campaign can be stopped and gone on with."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path


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
