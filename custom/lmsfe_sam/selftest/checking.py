"""Segment phantoms with a bundle's weights, and compare with the results that are expected of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmsfe_sam.errors import InputError
from lmsfe_sam.model.checkpoints import network_from_checkpoint, read_sidecar
from lmsfe_sam.model.weights.checks import sha256
from lmsfe_sam.selftest.installation import find_unusable, other_versions, read_json, tested_versions

WEIGHTS, EXPECTED = "models/model.pt", "models/selftest.json"

PHANTOMS = (3, 12, 21)
"""Numbers of the phantoms; see `lmsfe_sam.data.phantoms.rendering.render_phantom`."""

TOLERANCES = {"dice": 0.01, "predicted_iou": 0.01, "mean_logit": 0.1}
"""Largest differences from the expected results. Other processors and builds of torch differ by far less."""


class Case(NamedTuple):
    """Result of one prompt on one phantom.

    Attributes:
        phantom: its number.
        prompt: "box", "click" or "none".
        dice: with the exact mask.
        predicted_iou: by the network.
        mean_logit: of the low-res logits.
    """

    phantom: int
    prompt: str
    dice: float
    predicted_iou: float
    mean_logit: float


def find_problems(bundle: Path, device: str = "cpu") -> list[str]:
    """Return a sentence for each thing that is wrong with an installation.

    Args:
        bundle: a folder with ``configs`` and ``models``.
        device: where the network runs.
    """
    tested = tested_versions(bundle)
    unusable = find_unusable(tested)
    if unusable:
        return unusable
    try:
        expected = _read_expected(bundle)
        wrong = _check_weights(bundle, expected)
        cases = segment_phantoms(bundle / WEIGHTS, device)
    except InputError as error:
        return [str(error)]
    except Exception as error:  # of torch or a module of this package, which may be of another version
        wrong.append(f"no phantom could be segmented ({type(error).__name__}: {str(error)[:150]}).")
    else:
        wrong += compare(cases, [Case(**case) for case in expected["cases"]])
    others = other_versions(tested)
    if wrong and others:
        wrong.append(
            f"this installation has other versions than the tested ones, which may be the reason: {others}."
        )
    return wrong


def segment_phantoms(weights: Path, device: str = "cpu") -> list[Case]:
    """Segment each phantom with each kind of prompt.

    Args:
        weights: a checkpoint.
        device: where the network runs.

    Raises:
        InputError: the weights or the device cannot be used.
    """
    from lmsfe_sam.data.phantoms.rendering import render_phantom
    from lmsfe_sam.distributed import check_device
    from lmsfe_sam.predict.predictor import Predictor
    from lmsfe_sam.prompts.simulate import first_click, tight_box

    check_device(device)
    predictor = Predictor(network_from_checkpoint(weights).to(device))
    cases = []
    for number in PHANTOMS:
        picture, lesion = render_phantom(number)
        truth = np.asarray(lesion) > 0
        predictor.set_image(picture)
        prompts: dict[str, dict[str, Any]] = {
            "box": {"box": tight_box(truth)},
            "click": {"points": [first_click(truth)], "labels": [1]},
            "none": {},
        }
        for name, prompt in prompts.items():
            masks, iou, logits = predictor.predict(**prompt)
            dice = 2 * np.sum(masks[0] & truth) / max(1, np.sum(masks[0]) + np.sum(truth))
            cases.append(Case(number, name, *(round(float(x), 5) for x in (dice, iou[0], logits.mean()))))
    return cases


def compare(cases: Sequence[Case], expected: Sequence[Case]) -> list[str]:
    """Return a sentence for each result that differs from the expected one by more than `TOLERANCES`."""
    if not all(np.isfinite([case.mean_logit for case in cases])):
        return ["the network's output contains NaN or infinity: try another device or torch build."]
    if all(case.dice == 0 for case in cases):
        return ["all masks are empty or beside the lesion: weights, torch or device do not work."]
    if [case[:2] for case in cases] != [case[:2] for case in expected]:
        return [f"{EXPECTED} has other cases than this version: run python -m lmsfe_sam.selftest --update."]
    problems = []
    for case, reference in zip(cases, expected, strict=True):
        for name, tolerance in TOLERANCES.items():
            own, other = getattr(case, name), getattr(reference, name)
            if abs(own - other) > tolerance:
                prompt = {"box": "a box", "click": "one click", "none": "no prompt"}[case.prompt]
                problems.append(
                    f"{name.replace('_', ' ')} of phantom {case.phantom} with {prompt} is {own:.3f} "
                    f"instead of {other:.3f}."
                )
    return problems


def _read_expected(bundle: Path) -> dict[str, Any]:
    expected = read_json(bundle / EXPECTED, ", or run with --update to write it")
    try:
        cases = [Case(**case) for case in expected["cases"]]
        if not np.isfinite([float(figure) for case in cases for figure in case[2:]]).all():
            raise ValueError("a figure is no number")
        str(expected["weights_sha256"])
        dict(expected.get("description", {}))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"'{bundle / EXPECTED}' is incomplete: run with --update to write it.") from error
    return expected


def _check_weights(bundle: Path, expected: dict[str, Any]) -> list[str]:
    weights = bundle / WEIGHTS
    if not weights.is_file():
        raise InputError(f"'{weights}' does not exist: download the bundle again, or name one with --bundle.")
    problems = []
    if sha256(weights) != expected["weights_sha256"]:
        problems.append(
            f"'{weights}' is damaged, or other weights than the expected results were made with: download "
            "it again, or run with --update if you replaced it."
        )
    stated, own = expected.get("description", {}), read_sidecar(weights)
    changed = [key for key in stated if own.get(key) != stated[key]]
    if changed:
        problems.append(
            f"'{weights.with_suffix('.json')}' is not what the expected results were made with, or missing "
            f"({', '.join(changed)}): restore it, or run with --update if you replaced the weights."
        )
    return problems
