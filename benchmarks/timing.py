"""Timing of alternatives side by side, interleaved: a busy moment of the machine meets all of them."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch


@dataclass
class Samples:
    """Seconds of one alternative: by the wall clock, and of processor time over all threads."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def arguments(description: str, repeats: int) -> argparse.Namespace:
    """Parse the options that every benchmark has, and set the number of threads."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--repeats", type=int, default=repeats, help=f"rounds (default {repeats})")
    parser.add_argument("--threads", type=int, default=2, help="torch's threads (default 2)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"torch {torch.__version__}, {options.threads} threads, {os.cpu_count()} {platform.machine()} cores, "
        f"load {load} at the start, {options.repeats} rounds"
    )
    return options


def interleave(tasks: dict[str, Callable[[], object]], repeats: int, warm_up: int = 1) -> dict[str, Samples]:
    """Run the tasks in turn, ``repeats`` rounds behind ``warm_up`` unmeasured ones."""
    samples = {name: Samples() for name in tasks}
    with torch.no_grad():
        for turn in range(warm_up + repeats):
            for name, task in tasks.items():
                wall, cpu = time.perf_counter(), time.process_time()
                task()
                if turn >= warm_up:
                    samples[name].cpu.append(time.process_time() - cpu)
                    samples[name].wall.append(time.perf_counter() - wall)
    return samples


def print_times(title: str, samples: dict[str, Samples], parts: dict[str, int] | None = None) -> None:
    """Print milliseconds of each alternative, and its ratio to the first.

    Args:
        title: what is timed.
        samples: of `interleave`.
        parts: how many results one call makes, where that differs; times are given for one of them.
    """
    parts = parts or {}
    width = max(len(name) for name in samples)
    print(f"\n{title} [ms]")
    print(f"{'':<{width}}  {'median':>9} {'min':>9} {'max':>9} {'cpu':>9}  ratio of medians, minima, cpu")
    first: list[float] = []
    for name, sample in samples.items():
        n = parts.get(name, 1)
        wall = sorted(value / n for value in sample.wall)
        figures = [statistics.median(wall), wall[0], statistics.median(sample.cpu) / n]
        first = first or figures
        ratios = " ".join(f"{a / b:>8.2f}" for a, b in zip(figures, first, strict=True))
        row = " ".join(f"{1000 * value:>9.2f}" for value in (figures[0], wall[0], wall[-1], figures[2]))
        print(f"{name:<{width}}  {row}  {ratios}")


def print_target(name: str, samples: dict[str, Samples], ours: str, peer: str, at_most: float) -> None:
    """Print whether ``ours`` keeps to ``at_most`` times ``peer``, by medians and by minima."""
    median = statistics.median(samples[ours].wall) / statistics.median(samples[peer].wall)
    least = min(samples[ours].wall) / min(samples[peer].wall)
    verdict = (
        "met"
        if max(median, least) <= at_most
        else "met by one of them"
        if min(median, least) <= at_most
        else "missed"
    )
    print(f"target {name}: at most {at_most:.2f}; medians {median:.2f}, minima {least:.2f}: {verdict}")
