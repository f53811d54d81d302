"""Runs of ``configs/inference.json`` in this process, and the picture that they segment."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigWorkflow

from lmsfe_sam.errors import InputError, find_input_error

HEIGHT, WIDTH = 128, 192
BOX = (30, 42, 180, 100)
INSIDE = np.zeros((HEIGHT, WIDTH), bool)
INSIDE[42:100, 30:180] = True
NOISE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH), np.uint8)
AFFINE = np.array([[0.2, 0.05, -0.1, 12.0], [-0.04, 0.3, 0.2, -7.0], [0.01, -0.06, 1.5, 33.0], [0, 0, 0, 1]])
Run = Callable[..., ConfigWorkflow]


def inference_workflow(bundle_root: Path, tmp_path: Path) -> Run:
    """Return a function that makes the workflow of ``configs/inference.json``, initialised."""

    def make(**keys: Any) -> ConfigWorkflow:
        made = ConfigWorkflow(
            config_file=str(bundle_root / "configs" / "inference.json"),
            workflow_type="infer",
            logging_file=False,
            **{"output_dir": str(tmp_path / "out"), "device": "cpu", **keys},
        )
        made.initialize()
        return made

    return make


def finish(workflow: ConfigWorkflow) -> ConfigWorkflow:
    workflow.run()
    workflow.finalize()
    return workflow


def write_prompts(folder: Path, **objects: list[dict]) -> str:
    path = folder.parent / "prompts.json"
    path.write_text(json.dumps({name: {"objects": items} for name, items in objects.items()}))
    return str(path)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "objects.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_sentence(error: BaseException, words: str) -> None:
    import re

    sentence = find_input_error(error)
    assert isinstance(sentence, InputError)
    assert re.search(words, str(sentence)), str(sentence)
