"""OHIF's way to the DICOMweb server: what it reads there, and nothing beside it.

MONAI Label's own passes on every header, every path and every answer of any size.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any
from urllib.parse import quote, unquote

import requests
from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from monailabel.config import settings

from lmsfe_sam.errors import InputError
from lmsfe_sam.label.faults import UpstreamError
from lmsfe_sam.label.state import Shared

router = APIRouter(prefix="/proxy/dicom")

PASSED = ("accept", "accept-language", "if-none-match", "range")
RETURNED = ("content-type", "etag", "content-range")
CHUNK = 2**16
_PART = re.compile(r"[A-Za-z0-9._~,=:+-]+")


@router.get("/{path:path}")
def read(request: Request, state: Shared, path: str) -> Any:
    """Pass a reading request on, and its answer back as it comes."""
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
        answer = requests.get(
            address,
            params=request.url.query,
            headers={key: request.headers[key] for key in PASSED if key in request.headers},
            auth=(user, password) if user and password else None,
            timeout=(settings.MONAI_LABEL_DICOMWEB_READ_TIMEOUT, settings.MONAI_LABEL_DICOMWEB_PROXY_TIMEOUT),
            allow_redirects=False,
            stream=True,
        )
    except requests.RequestException as error:
        raise UpstreamError("the DICOMweb server does not answer: is it running?") from error
    headers = {key: answer.headers[key] for key in RETURNED if key in answer.headers}
    return StreamingResponse(answer.iter_content(CHUNK), status_code=answer.status_code, headers=headers)


def below(path: str) -> str:
    """Return a path that stays below the DICOMweb address, quoted.

    Raises:
        InputError: it does not.
    """
    parts = [part for part in unquote(path).split("/") if part]
    plain = all(_PART.fullmatch(part) and part not in (".", "..") for part in parts)
    if not plain or posixpath.normpath("/".join(parts) or ".").startswith(".."):
        raise InputError("the address is none of DICOMweb's: give one below studies, series or instances.")
    return quote("/".join(parts), safe="/~,=:+")
