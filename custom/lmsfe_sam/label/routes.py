"""The endpoints of MONAI Label that take a client's word for too much, with checks before them.

Each has the address, the parameters and the answer of MONAI Label's own, which it calls. They run in
threads, so that the server goes on answering during an inference or a training run.
"""

from __future__ import annotations

import os
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Depends, File, Form, UploadFile
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.endpoints import activelearning, datastore, infer, scoring, train
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.utils.app import app_instance

from lmsfe_sam.errors import InputError
from lmsfe_sam.inference.reading import read_image
from lmsfe_sam.label.checks import (
    NotFoundError,
    check_inference,
    check_known,
    check_tag,
    read_parameters,
    uploaded,
)
from lmsfe_sam.label.records import check_label, check_raw_label

router = APIRouter()
one_at_a_time = Lock()

AFile = Annotated[UploadFile, File()]
MaybeFile = Annotated[UploadFile | None, File()]
USER = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
ANNOTATOR = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))
ADMIN = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))


@router.post("/infer/{model}", tags=["Infer"])
def run_inference(
    background_tasks: BackgroundTasks,
    model: str,
    image: str = "",
    session_id: str = "",
    params: str = Form("{}"),
    file: MaybeFile = None,
    label: MaybeFile = None,
    output: infer.ResultType | None = None,
    user: User = USER,
) -> Any:
    """Segment an image of the datastore, of a session, or an uploaded one."""
    app = app_instance()
    check_known("model", model, list(app.bundles))
    check_inference(read_parameters(params), Path(app.bundles[model]) / "models")
    if output == infer.ResultType.dicom_seg:
        raise InputError("output=dicom_seg is not supported: ask for output=image and convert the NIfTI.")
    if session_id:
        check_tag(session_id)
        if app.sessions() is None or app.sessions().get_session(session_id) is None:
            raise NotFoundError(
                f"there is no session '{session_id[:80]}': it may have expired, open a new one."
            )
    elif file is None:
        if not image:
            raise InputError("there is no image: name one of the datastore's with ?image=ID, or send a file.")
        _known_image(image)
    with one_at_a_time:
        if file is None or session_id:
            return infer.run_inference(
                background_tasks, model, image, session_id, params, None, label, output
            )
        with uploaded(file.file, file.filename) as path:
            read_image(path, 0)
        return infer.run_inference(background_tasks, model, "", "", params, file, label, output)


@router.put("/datastore/label", tags=["Datastore"])
def save_label(
    background_tasks: BackgroundTasks,
    image: str,
    label: AFile,
    params: str = Form("{}"),
    tag: str = "final",
    user: User = ANNOTATOR,
) -> Any:
    """Save a label that is an image of the right size; ``final`` ones are trained on."""
    read_parameters(params)
    check_tag(tag or "final")
    path = _known_image(image)
    with uploaded(label.file, label.filename) as copy:
        if not copy.endswith(".bin"):
            check_label(path, copy)
        elif isinstance(app_instance().datastore(), DICOMWebDatastore):  # which gives it a header
            check_raw_label(path, copy)
        else:
            raise InputError("a label without a header is for DICOMweb servers: send PNG, NIfTI or NRRD.")
    return datastore.save_label(background_tasks, image, params, tag, label, user.username)


@router.put("/datastore/", tags=["Datastore"], include_in_schema=False)
@router.put("/datastore/image", tags=["Datastore"])
def add_image(
    background_tasks: BackgroundTasks,
    file: AFile,
    image: str | None = None,
    params: str = Form("{}"),
    user: User = ANNOTATOR,
) -> Any:
    """Add an image to the datastore."""
    read_parameters(params)
    check_tag(image or os.path.basename(file.filename or "image.nii.gz"))  # noqa: PTH119
    with uploaded(file.file, file.filename) as copy:
        read_image(copy, 0)
    return datastore.add_image(background_tasks, image, params, file, user.username)


@router.post("/train/{model}", tags=["Train"])
def run_training(
    model: str,
    params: dict[str, Any] | None = None,
    run_sync: bool = False,
    enqueue: bool = False,
    user: User = ADMIN,
) -> Any:
    """Train on the labels saved so far."""
    check_known("model", model, list(app_instance().bundles))
    return train.run_model(model, {**(params or {}), "model": model}, run_sync, enqueue)


@router.post("/scoring/{method}", tags=["Scoring"])
def run_scoring(
    method: str, params: dict[str, Any] | None = None, run_sync: bool = False, user: User = ANNOTATOR
) -> Any:
    """Score the images that have no label."""
    check_known("scoring method", method, list(app_instance().info()["scoring"]))
    return scoring.run_method(method, {**(params or {}), "method": method}, run_sync)


@router.post("/activelearning/{strategy}", tags=["ActiveLearning"])
def next_sample(strategy: str, params: dict[str, Any] | None = None, user: User = USER) -> Any:
    """Name the image to label next."""
    check_known("strategy", strategy, list(app_instance().info()["strategies"]))
    return activelearning.sample(strategy, {**(params or {}), "strategy": strategy}, user.username)


def _known_image(image: str) -> str:
    store = app_instance().datastore()
    path = store.get_image_uri(image) if image in store.list_images() else ""
    if not path:
        check_known("image", image, store.list_images())
    return path
