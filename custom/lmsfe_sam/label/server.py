"""MONAI Label's web application with this bundle's checks in front, and errors that are sentences."""

from __future__ import annotations

import logging
import os
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from monailabel.app import app as monai_label
from monailabel.interfaces.exception import (
    ImageNotFoundException,
    LabelNotFoundException,
    MONAILabelError,
    MONAILabelException,
)

from lmsfe_sam.errors import find_input_error
from lmsfe_sam.label.checks import NotFoundError, for_clients
from lmsfe_sam.label.limits import LimitBody
from lmsfe_sam.label.routes import router

logger = logging.getLogger(__name__)

MAX_BODY = "LMSFE_SAM_MAX_BODY"
"""Environment variable: the largest body of a request, in MB."""


def answer(request: Request, error: Exception) -> JSONResponse:
    """Turn what an endpoint raised into a status and a sentence."""
    wrong = find_input_error(error)
    if wrong is not None:
        return _sentence(404 if isinstance(wrong, NotFoundError) else 400, for_clients(str(wrong)))
    if isinstance(error, MONAILabelException):
        missing = isinstance(error, ImageNotFoundException | LabelNotFoundException)
        unknown = missing or error.error in (MONAILabelError.INVALID_INPUT, MONAILabelError.APP_INIT_ERROR)
        return _sentence(404 if unknown else 500, error.msg)
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _sentence(
        500, f"the server failed with {type(error).__name__}: its log tells more, and it goes on."
    )


def _sentence(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status_code=status)


def build() -> Any:
    """Return the ASGI application: MONAI Label's, with the checked endpoints before its own."""
    monai_label.router.routes[:0] = router.routes
    for kind in (ValueError, MONAILabelException, Exception):
        monai_label.add_exception_handler(kind, answer)
    return LimitBody(monai_label, int(float(os.environ.get(MAX_BODY, "512")) * 2**20))


application = build()
