"""Endpoints: training, scoring and batch inference; each runs once at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter
from monailabel.interfaces.tasks.batch_infer import BatchInferImageType

from lmsfe_sam.errors import InputError
from lmsfe_sam.label.checks import check_inference, check_known, chosen_device, whole_number
from lmsfe_sam.label.state import Shared
from lmsfe_sam.label.training import DEFAULTS
from lmsfe_sam.options import LabelTrainingOptions, check_options

router = APIRouter()

JsonObject = dict[str, Any]


@router.get("/train/")
def training_status(state: Shared, all: bool = False, check_if_running: bool = False) -> Any:
    """Say how training stands."""
    return state.training.status(all, check_if_running)


@router.post("/train/{model}")
def run_training(
    state: Shared,
    model: str,
    params: JsonObject | None = None,
    run_sync: bool = False,
    enqueue: bool = False,
) -> Any:
    """Train on the labels saved so far."""
    app, given = state.app, params or {}
    check_known("model", model, list(app.bundles))
    options = {key: given[key] for key in DEFAULTS if given.get(key) is not None}
    check_options(LabelTrainingOptions, {**DEFAULTS, **options})
    request = {**options, **chosen_device(given), "model": model}
    request["bundle_path"] = app.bundle_path(model)
    return state.training.start(request, app.train, run_sync, enqueue)


@router.delete("/train/")
def stop_training(state: Shared) -> Any:
    """Stop the training that runs in a process of its own."""
    return state.training.stop()


@router.get("/scoring/")
def scoring_status(state: Shared, all: bool = False, check_if_running: bool = False) -> Any:
    """Say how scoring stands."""
    return state.scoring.status(all, check_if_running)


@router.post("/scoring/{method}")
def run_scoring(state: Shared, method: str, params: JsonObject | None = None, run_sync: bool = False) -> Any:
    """Score the images that have no label."""
    app, given = state.app, params or {}
    check_known("scoring method", method, list(app.info()["scoring"]))
    request = {**whole_number(given, "max_samples"), **chosen_device(given), "method": method}
    return state.scoring.start(request, app.scoring, run_sync)


@router.delete("/scoring/")
def stop_scoring(state: Shared) -> Any:
    """Stop the scoring that runs in a process of its own."""
    return state.scoring.stop()


@router.get("/batch/infer")
def batch_status(state: Shared, all: bool = False, check_if_running: bool = False) -> Any:
    """Say how batch inference stands."""
    return state.batch.status(all, check_if_running)


@router.post("/batch/infer/{model}")
def run_batch(
    state: Shared,
    model: str,
    params: JsonObject | None = None,
    images: BatchInferImageType = BatchInferImageType.IMAGES_ALL,
    run_sync: bool = False,
) -> Any:
    """Save a mask of every image, under the tag ``original`` if no other is given."""
    app, given = state.app, dict(params or {})
    check_known("model", model, list(app.bundles))
    named = given.pop("images", None)
    if isinstance(named, list):
        for name in named:
            app.path_of(name)
    elif named not in (None, *(kind.value for kind in BatchInferImageType)):
        raise InputError("images is neither all, labeled, unlabeled nor a list of names: give one of these.")
    request = {**check_inference(given, Path(app.bundles[model]) / "models"), "model": model}
    request.update(whole_number(given, "max_batch_size"))
    request["label_tag"] = given.get("label_tag") or "original"
    request["images"] = named or images.value
    request["max_workers"] = 1
    return state.batch.start(request, app.batch_infer, run_sync)


@router.delete("/batch/infer")
def stop_batch(state: Shared) -> Any:
    """Stop the batch inference that runs in a process of its own."""
    return state.batch.stop()
