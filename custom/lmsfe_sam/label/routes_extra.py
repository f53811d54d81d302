"""Endpoints: sessions, weights, the log, and OHIF's own files."""

from __future__ import annotations

import os
import re
from collections import deque
from pathlib import Path
from typing import Annotated, Any

import monailabel.endpoints
from fastapi import APIRouter, File, Query, UploadFile
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from monailabel.utils.others.generic import get_mime_type

from lmsfe_sam.errors import InputError
from lmsfe_sam.label.checks import check_known, check_tag
from lmsfe_sam.label.faults import NotFoundError, shown
from lmsfe_sam.label.routes import session_image
from lmsfe_sam.label.sessions import SafeSessions, for_client
from lmsfe_sam.label.state import Shared, State
from lmsfe_sam.label.uploads import check_image, uploaded
from lmsfe_sam.label.weights import replace_weights, weights_info

sessions = APIRouter(prefix="/session")
weights = APIRouter(prefix="/model")
logs = APIRouter(prefix="/logs")
viewer = APIRouter(prefix="/ohif")

OHIF = Path(os.path.realpath(monailabel.endpoints.__path__[0])) / "static" / "ohif"

OHIF_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "worker-src 'self' blob:; connect-src 'self' blob: data:; frame-ancestors 'self'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'"
)
"""OHIF runs, and loads nothing from anywhere else."""


@sessions.get("/{session_id}")
def get_session(state: Shared, session_id: str, update_ts: bool = False, image: bool = False) -> Any:
    """Tell what is known of a session, or send its image."""
    path = session_image(state, session_id)
    if image:
        return FileResponse(path, media_type=get_mime_type(path), filename=Path(path).name)
    return for_client(known_sessions(state).get_session(session_id, update_ts=update_ts))


@sessions.put("/")
def create_session(
    state: Shared, files: Annotated[list[UploadFile], File()], uncompress: bool = False, expiry: int = 0
) -> Any:
    """Keep an image for a while."""
    if uncompress:
        raise InputError("archives are not unpacked: send the image itself, without uncompress.")
    if len(files) != 1:
        raise InputError("a session is of one image: send one file.")
    with uploaded(files[0].file, files[0].filename) as copy:
        with state.app.inferring:
            check_image(copy, state.app.max_pixels)
        number, info = known_sessions(state).add_session(copy, expiry)
    return {"session_id": number, "session_info": for_client(info)}


@sessions.delete("/{session_id}")
def remove_session(state: Shared, session_id: str) -> Any:
    """Forget a session."""
    session_image(state, session_id)
    info = known_sessions(state).get_session(session_id)
    known_sessions(state).remove_session(session_id)
    return for_client(info)


def known_sessions(state: State) -> SafeSessions:
    """Return the sessions.

    Raises:
        NotFoundError: the server was started without them.
    """
    kept = state.app.sessions()
    if kept is None:
        raise NotFoundError("this server keeps no sessions: start it without MONAI_LABEL_SESSIONS=false.")
    return kept


@weights.get("/info/{model}")
def model_info(state: Shared, model: str) -> Any:
    """Tell checksum and time of the weights that are served."""
    return weights_info(served(state, model))


@weights.get("/{model}")
def get_model(state: Shared, model: str) -> Any:
    """Send the weights that are served."""
    return FileResponse(served(state, model), media_type="application/octet-stream", filename=f"{model}.pt")


@weights.put("/{model}")
def set_model(state: Shared, model: str, file: Annotated[UploadFile, File()]) -> Any:
    """Serve other weights, if they fit and work."""
    place = served(state, model)
    with uploaded(file.file, file.filename) as copy:
        return replace_weights(Path(copy), place)


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


@viewer.get("/{path:path}")
def get_ohif(path: str) -> Response:
    """Send a file of OHIF; its page for all addresses that are none, as OHIF makes them up itself."""
    headers = {"content-security-policy": OHIF_POLICY}
    wanted = Path(os.path.realpath(OHIF / path)) if path.isprintable() and len(path) < 1000 else OHIF
    if OHIF in wanted.parents and wanted.is_file() and wanted.name != "index.html":
        return FileResponse(wanted, media_type=get_mime_type(str(wanted)), headers=headers)
    if wanted.suffix and OHIF in wanted.parents and not re.fullmatch(r"\.[0-9]+", wanted.suffix):
        raise NotFoundError(f"OHIF has no file '{shown(path)}'.")
    if wanted != OHIF and OHIF not in wanted.parents:
        raise NotFoundError(f"OHIF has no file '{shown(path)}'.")
    return HTMLResponse(local_page((OHIF / "index.html").read_text(encoding="utf-8")), headers=headers)


def local_page(page: str) -> str:
    """Return a page without its links to other hosts."""
    return re.sub(r"<(link|script)\b[^>]*(href|src)=[\"'](https?:)?//[^>]*>(</script>)?", "", page)
