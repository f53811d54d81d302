"""Endpoints: the app's description, inference, sessions, what runs once at a time, weights and the log.

These, `routes_store` and `routes_ohif` are all that the server offers: MONAI Label's own web application,
which trusts what a client sends, is not in use. Addresses, parameters and responses are MONAI Label's.
The endpoints run in threads, so that the server goes on answering during an inference or a training run.
"""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, File, Form, Query, UploadFile
from fastapi.responses import FileResponse, PlainTextResponse, Response
from monailabel.endpoints.infer import ResultType, send_response
from monailabel.interfaces.tasks.batch_infer import BatchInferImageType
from monailabel.utils.others.generic import get_mime_type

from lmsfe_sam.errors import InputError
from lmsfe_sam.inference.writers.label_maps import DICOM_SUFFIX
from lmsfe_sam.label.app import FILE
from lmsfe_sam.label.checks import (
    NotFoundError,
    check_inference,
    check_known,
    check_tag,
    chosen_device,
    read_parameters,
    shorten,
    whole_number,
)
from lmsfe_sam.label.datastore.headers import check_image, uploaded
from lmsfe_sam.label.datastore.records import SafeSessions, for_client
from lmsfe_sam.label.request import EXTENSION
from lmsfe_sam.label.state import Shared, State
from lmsfe_sam.label.training import DEFAULTS, LabelTrainingOptions, replace_weights, weights_info
from lmsfe_sam.options import check_options

router = APIRouter()
logs = APIRouter(prefix="/logs")

MaybeFile = Annotated[UploadFile | None, File()]
Params = Annotated[str, Form()]
JsonObject = dict[str, Any]


@router.get("/")
def own_page(state: Shared) -> dict[str, str]:
    """Name the server."""
    return {"name": state.app.name, "version": state.app.version, "description": state.app.description}


@router.get("/info/")
def app_info(state: Shared) -> Any:
    """Describe models, strategies and the datastore."""
    return state.app.info()


@router.post("/infer/{model}")
def run_inference(
    background_tasks: BackgroundTasks,
    state: Shared,
    model: str,
    image: str = "",
    session_id: str = "",
    params: Params = "{}",
    file: MaybeFile = None,
    label: MaybeFile = None,
    output: ResultType | None = None,
) -> Any:
    """Segment an image of the datastore, of a session, or an uploaded one.

    ``label`` is for scribbles, which these models do not know.
    """
    app = state.app
    check_known("model", model, list(app.bundles))
    parameters = read_parameters(params)
    request = {**check_inference(parameters, Path(app.bundles[model]) / "models"), "model": model}
    if output == ResultType.dicom_seg:
        request[EXTENSION] = DICOM_SUFFIX
    if session_id:
        result = app.infer({**request, FILE: session_image(state, session_id)})
    elif file is not None:
        with uploaded(file.file, file.filename) as path:
            with app.inferring:  # one image is decoded at a time, however many are sent
                check_image(path, app.max_pixels)
            result = app.infer({**request, FILE: path})
    elif image:
        saving: dict[str, Any] = {
            key: parameters[key] for key in ("save_label", "label_tag") if key in parameters
        }
        result = app.infer({**request, **saving, "image": image})
    else:
        raise InputError("there is no image: name one of the datastore's with ?image=ID, or send a file.")
    if output == ResultType.dicom_seg:
        result["dicom_seg"] = result["file"]
    return send_response(app.datastore(), result, output, background_tasks)


@router.post("/activelearning/{strategy}")
def next_sample(state: Shared, strategy: str, params: dict[str, Any] | None = None) -> Any:
    """Name the image to label next."""
    app, given = state.app, params or {}
    check_known("strategy", strategy, list(app.info()["strategies"]))
    client = given.get("client_id")
    if client is not None and not isinstance(client, str | int):
        raise InputError("client_id is not text: give a text, or leave it out.")
    result = app.next_sample({"strategy": strategy})
    if not result:
        return {}
    store, name = app.datastore(), result["id"]
    info = store.get_image_info(name)
    served = info["strategy"] if isinstance(info.get("strategy"), dict) else {}
    entry = {"ts": int(time.time()), "client_id": shorten(client or "annotator")}
    store.update_image_info(name, {"strategy": {**served, strategy: entry}})
    return {**store.get_image_info(name), **result}


@router.get("/session/{session_id}")
def get_session(state: Shared, session_id: str, update_ts: bool = False, image: bool = False) -> Any:
    """Describe a session, or send its image."""
    path = session_image(state, session_id)
    if image:
        return FileResponse(path, media_type=get_mime_type(path), filename=Path(path).name)
    return for_client(known_sessions(state).get_session(session_id, update_ts=update_ts))


@router.put("/session/")
def create_session(
    state: Shared, files: Annotated[list[UploadFile], File()], uncompress: bool = False, expiry: int = 0
) -> Any:
    """Store an image for a while."""
    if uncompress:
        raise InputError("archives are not unpacked: send the image itself, without uncompress.")
    if len(files) != 1:
        raise InputError("a session is of one image: send one file.")
    with uploaded(files[0].file, files[0].filename) as copy:
        with state.app.inferring:
            check_image(copy, state.app.max_pixels)
        number, info = known_sessions(state).add_session(copy, expiry)
    return {"session_id": number, "session_info": for_client(info)}


@router.delete("/session/{session_id}")
def remove_session(state: Shared, session_id: str) -> Any:
    """Remove a session."""
    session_image(state, session_id)
    info = known_sessions(state).get_session(session_id)
    known_sessions(state).remove_session(session_id)
    return for_client(info)


def known_sessions(state: State) -> SafeSessions:
    """Return the sessions.

    Raises:
        NotFoundError: the server was started without them.
    """
    sessions = state.app.sessions()
    if sessions is None:
        raise NotFoundError("this server keeps no sessions: start it without MONAI_LABEL_SESSIONS=false.")
    return sessions


def session_image(state: State, session_id: str) -> str:
    """Return the path of a session's image.

    Raises:
        InputError: the session's name is invalid, or there is no such session.
    """
    check_tag(session_id)
    sessions = state.app.sessions()
    info = None if sessions is None else sessions.get_session(session_id)
    if info is None:
        raise NotFoundError(
            f"there is no session '{shorten(session_id)}': it may have expired, open a new one."
        )
    return str(info.image)


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


@router.get("/model/info/{model}")
def model_info(state: Shared, model: str) -> Any:
    """Return checksum and time of the weights that are served."""
    return weights_info(served(state, model))


@router.get("/model/{model}")
def get_model(state: Shared, model: str) -> Any:
    """Send the weights that are served."""
    return FileResponse(served(state, model), media_type="application/octet-stream", filename=f"{model}.pt")


@router.put("/model/{model}")
def set_model(state: Shared, model: str, file: Annotated[UploadFile, File()]) -> Any:
    """Serve other weights, if they fit and work."""
    target = served(state, model)
    with uploaded(file.file, file.filename) as copy:
        return replace_weights(Path(copy), target)


def served(state: State, model: str) -> Path:
    """Return the path of a model's weights.

    Raises:
        NotFoundError: there is no such model.
    """
    check_tag(model)
    check_known("model", model, list(state.app.bundles))
    return Path(state.app.bundles[model]) / "models" / "model.pt"


@logs.get("/")
def get_log(state: Shared, lines: Annotated[int, Query(ge=1, le=5000)] = 300) -> Response:
    """Send the log's last lines, as text."""
    if not Path(state.log).is_file():
        raise NotFoundError("there is no log yet.")
    with Path(state.log).open(encoding="utf-8", errors="replace") as stream:
        return PlainTextResponse("".join(deque(stream, lines)))
