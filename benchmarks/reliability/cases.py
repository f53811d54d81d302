"""What a bad input is: a command line that is wrong in one way, or is run where something is wrong."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass, field

from commands import MODULE

INFERENCE = ["run", "--config_file", "configs/inference.json", "--device", "cpu"]
TRAINING = ["run", "training", "--config_file", "configs/train.json", "--device", "cpu"]
EVALUATION = ["run", "evaluating", "--config_file", "['configs/train.json','configs/evaluate.json']"]
EVALUATION += ["--device", "cpu"]
BATCH = "lmsfe_sam.batch"


@dataclass(frozen=True)
class Case:
    """One command line.

    Args:
        words: after ``python -m MODULE``; `OUT` in them is a folder of the case's own, not there yet.
        module: that is run.
        may_work: whether a result is right, too, since the place is odd and the input is not.
        largest_file: bytes of a file, beyond which nothing is written, as on a full disk.
        umask: of the process, if another than its parent's.
        environment: variables that are set before Python starts.
    """

    words: list[str]
    module: str = MODULE
    may_work: bool = False
    largest_file: int | None = None
    umask: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def prepare(self) -> None:
        """Take on the case's limits."""
        if self.largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.largest_file, resource.RLIM_INFINITY))
        if self.umask is not None:
            os.umask(self.umask)


OUT = "<OUT>"
"""Stands for the output folder of a case."""


def infer(*words: object, **how: object) -> Case:
    """A case of inference, with an output folder of its own unless the words name one."""
    return _case(INFERENCE, words, how)


def train(*words: object, **how: object) -> Case:
    """A case of training on the fewest phantoms, unless the words name a data set."""
    small = [] if "--dataset_dir" in words else ["--phantoms", "8"]
    return _case([*TRAINING, *small, *SMALL], words, how)


def evaluate(*words: object, **how: object) -> Case:
    """A case of evaluation, by controls alone unless the words name a checkpoint."""
    alone = [] if {"--checkpoint", "--prompt_modes"} & set(words) else ["--prompt_modes", "control_box"]
    return _case([*EVALUATION, *alone, "--bootstrap", "10"], words, how)


def batch(*words: object, **how: object) -> Case:
    """A case of batch inference."""
    where = [] if "--output" in words else ["--output", OUT]
    return Case([*map(str, words), *where], BATCH, **how)  # type: ignore[arg-type]


def tool(module: str, *words: object, **how: object) -> Case:
    """A case of another of the package's commands."""
    return Case([*map(str, words)], f"lmsfe_sam.{module}", **how)  # type: ignore[arg-type]


SMALL = ["--epochs", "1", "--image_size", "64", "--batch_size", "2", "--prompts_per_image", "1"]
SMALL += ["--correction_steps", "0"]


def _case(start: list[str], words: tuple[object, ...], how: Mapping[str, object]) -> Case:
    named = {"--output_dir", "--resume"} & set(words)
    where = [] if named else ["--output_dir", OUT]
    return Case([*start, *map(str, words), *where], **how)  # type: ignore[arg-type]
