"""Commands that are killed at random moments and started again, until they end as one that never was."""

from __future__ import annotations

import argparse
import random
import signal
import tempfile
import time
from pathlib import Path

from commands import Command, run
from killed_commands import COMMANDS, Killed, write_inputs
from trials import run_kills

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STOPPED = {signal.SIGTERM: 143, signal.SIGINT: 130}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=COMMANDS)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--kills", type=int, default=3, help="of one trial, before it may end")
    parser.add_argument("--seed", type=int, default=0, help="of the first trial; each has the next one")
    parser.add_argument("--state", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder / "in", options.images)
        command = COMMANDS[options.what]
        command.prepare(folder / "in", folder / "whole")
        words = command.words(folder / "in", folder / "whole")
        started = time.monotonic()
        code, printed = run(words, folder / "log", module=command.module)
        if code:
            raise SystemExit(printed)
        length = time.monotonic() - started

        def trial(number: int, out: Path) -> str:
            command.prepare(folder / "in", out)
            rng = random.Random(options.seed + number)
            return killed(command, folder, out, rng, options.kills, length)

        what = f"kills of {options.what}"
        run_kills(options.trials, options.state, trial, command.read, folder / "whole", "**/.*", what)


def killed(what: Killed, folder: Path, out: Path, rng: random.Random, kills: int, length: float) -> str:
    """Kill a command so often, then let it end; return what is wrong, or nothing."""
    for _ in range(kills):
        command = Command(what.words(folder / "in", out), folder / "log", what.module)
        if runs_on(command, out, rng, length):
            number = rng.choice(SIGNALS)
            code = command.stop(number)
            said = command.printed()
            if code is None:
                return f"{number.name}: did not end"
            if code == STOPPED.get(number) and "Traceback" in said:
                return f"{number.name}: {said[-300:]}"
        if problem := what.fault(out):
            return problem
    code, said = run(what.words(folder / "in", out), folder / "log", module=what.module)
    if code == 1 and what.done is not None and what.done in said:  # killed when all was done
        return ""
    return f"the last start: exit code {code}, {said[-300:]}" if code else ""


def runs_on(command: Command, out: Path, rng: random.Random, length: float) -> bool:
    """Wait for a random moment, and then perhaps for one at which a file is being written."""
    ended = command.wait(rng.uniform(0.02, 0.8) * length) is not None
    limit = time.monotonic() + length
    if not ended and rng.random() < 0.5:
        while not ended and time.monotonic() < limit and not writes(out):
            ended = command.wait(0) is not None
    return not ended


def writes(out: Path) -> bool:
    """Whether there is a temporary file."""
    try:
        return any(out.rglob(".*.tmp-*"))
    except OSError:  # a folder that has gone since
        return False


if __name__ == "__main__":
    main()
