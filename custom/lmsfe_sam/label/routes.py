"""Endpoints: the app's description, inference, the next image to label, and the server's own page.

These and the other ``routes`` modules are all that the server answers: MONAI Label's own web application,
with what it takes a client's word for, is not in use. Addresses, parameters and answers are MONAI Label's.
The endpoints run in threads, so that the server goes on answering during an inference or a training run.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, File, Form, UploadFile
from monailabel.endpoints.infer import ResultType, send_response

from lmsfe_sam.errors import InputError
from lmsfe_sam.label.app import FILE
from lmsfe_sam.label.checks import check_inference, check_known, check_tag, read_parameters
from lmsfe_sam.label.faults import NotFoundError, shown
from lmsfe_sam.label.state import Shared, State
from lmsfe_sam.label.uploads import check_image, uploaded

router = APIRouter()

MaybeFile = Annotated[UploadFile | None, File()]
Params = Annotated[str, Form()]


@router.get("/")
def own_page(state: Shared) -> dict[str, str]:
    """Say what this is."""
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
        raise InputError("output=dicom_seg is not supported: ask for output=image and convert the NIfTI.")
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
    return send_response(app.datastore(), result, output, background_tasks)


def session_image(state: State, session_id: str) -> str:
    """Return the path of a session's image.

    Raises:
        InputError: the session's name is none, or there is no such session.
    """
    check_tag(session_id)
    sessions = state.app.sessions()
    info = None if sessions is None else sessions.get_session(session_id)
    if info is None:
        raise NotFoundError(
            f"there is no session '{shown(session_id)}': it may have expired, open a new one."
        )
    return str(info.image)


@router.post("/activelearning/{strategy}")
def next_sample(state: Shared, strategy: str, params: dict[str, Any] | None = None) -> Any:
    """Name the image to label next."""
    app, given = state.app, params or {}
    check_known("strategy", strategy, list(app.info()["strategies"]))
    client = given.get("client_id")
    if client is not None and not isinstance(client, str | int):
        raise InputError("client_id is no text: give one, or leave it out.")
    result = app.next_sample({"strategy": strategy})
    if not result:
        return {}
    store, name = app.datastore(), result["id"]
    info = store.get_image_info(name)
    served = info["strategy"] if isinstance(info.get("strategy"), dict) else {}
    entry = {"ts": int(time.time()), "client_id": shown(client or "annotator")}
    store.update_image_info(name, {"strategy": {**served, strategy: entry}})
    return {**store.get_image_info(name), **result}
