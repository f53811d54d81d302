"""Endpoints for OHIF: its own files, and what it may read from the DICOMweb server.

MONAI Label's own proxy forwards every header and path, and holds a whole response in memory.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import monailabel.endpoints
import requests
from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from monailabel.config import settings
from monailabel.utils.others.generic import get_mime_type

from lmsfe_sam.errors import InputError
from lmsfe_sam.label.checks import NotFoundError, UpstreamError, shorten
from lmsfe_sam.label.state import Shared

router = APIRouter(prefix="/ohif")
proxy = APIRouter(prefix="/proxy/dicom")

OHIF = Path(os.path.realpath(monailabel.endpoints.__path__[0])) / "static" / "ohif"

OHIF_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "worker-src 'self' blob:; connect-src 'self' blob: data:; frame-ancestors 'self'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'"
)
"""OHIF runs, and loads nothing from anywhere else."""

PASSED = ("accept", "accept-language", "if-none-match", "range")
RETURNED = ("content-type", "etag", "content-range")
CHUNK = 2**16
_PART = re.compile(r"[A-Za-z0-9._~,=:+-]+")


@router.get("/{path:path}")
def get_ohif(path: str) -> Response:
    """Send a file of OHIF, or its page for any other address, as OHIF routes in the browser."""
    headers = {"content-security-policy": OHIF_POLICY}
    wanted = Path(os.path.realpath(OHIF / path)) if path.isprintable() and len(path) < 1000 else OHIF
    if OHIF in wanted.parents and wanted.is_file() and wanted.name != "index.html":
        return FileResponse(wanted, media_type=get_mime_type(str(wanted)), headers=headers)
    if wanted.suffix and OHIF in wanted.parents and not re.fullmatch(r"\.[0-9]+", wanted.suffix):
        raise NotFoundError(f"OHIF has no file '{shorten(path)}'.")
    if wanted != OHIF and OHIF not in wanted.parents:
        raise NotFoundError(f"OHIF has no file '{shorten(path)}'.")
    return HTMLResponse(local_page((OHIF / "index.html").read_text(encoding="utf-8")), headers=headers)


def local_page(page: str) -> str:
    """Return a page without its links to other hosts."""
    return re.sub(r"<(link|script)\b[^>]*(href|src)=[\"'](https?:)?//[^>]*>(</script>)?", "", page)


@proxy.get("/{path:path}")
def read_dicom(request: Request, state: Shared, path: str) -> Any:
    """Forward a read request, and stream the response."""
    operation, _, rest = path.partition("/")
    if operation not in ("wado", "qido"):
        operation, rest = "", path
    user, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
    wado = operation == "wado" or (operation == "qido" and rest.endswith("metadata"))
    prefix = (
        settings.MONAI_LABEL_WADO_PREFIX if wado else settings.MONAI_LABEL_QIDO_PREFIX if operation else ""
    )
    address = "/".join(part for part in (state.app.studies, prefix, below(rest)) if part)
    try:
        response = requests.get(
            address,
            params=request.url.query,
            headers={key: request.headers[key] for key in PASSED if key in request.headers},
            auth=(user, password) if user and password else None,
            timeout=(settings.MONAI_LABEL_DICOMWEB_READ_TIMEOUT, settings.MONAI_LABEL_DICOMWEB_PROXY_TIMEOUT),
            allow_redirects=False,
            stream=True,
        )
    except requests.RequestException as error:
        raise UpstreamError("the DICOMweb server does not respond: is it running?") from error
    headers = {key: response.headers[key] for key in RETURNED if key in response.headers}
    return StreamingResponse(response.iter_content(CHUNK), status_code=response.status_code, headers=headers)


def below(path: str) -> str:
    """Return a path that stays below the DICOMweb address, quoted.

    Raises:
        InputError: the path leads elsewhere.
    """
    parts = [part for part in unquote(path).split("/") if part]
    plain = all(_PART.fullmatch(part) and part not in (".", "..") for part in parts)
    if not plain or posixpath.normpath("/".join(parts) or ".").startswith(".."):
        raise InputError("the address is not one of DICOMweb's: give one below studies, series or instances.")
    return quote("/".join(parts), safe="/~,=:+")
