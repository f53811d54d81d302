"""The web application and how it is served: endpoints behind checks, errors as sentences, limits on time.

MONAI Label's own start cannot set uvicorn's limits. Those that uvicorn lacks, for headers and for
clients that do not read, are added to its protocol.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from uvicorn.protocols.http.h11_impl import H11Protocol

from lmsfe_sam.errors import find_input_error
from lmsfe_sam.label.checks import FULL_DISK, Fault, for_clients, is_full_disk, shorten
from lmsfe_sam.label.guard import App, CheckOrigin, CheckToken, LimitBody, Message, Receive, Send
from lmsfe_sam.label.routes import main as routes
from lmsfe_sam.label.routes import ohif as routes_ohif
from lmsfe_sam.label.routes import store as routes_store
from lmsfe_sam.label.state import State

logger = logging.getLogger(__name__)

EXTRAS = {"dataset": routes_store.archive, "logs": routes.logs}
"""Endpoints that are off by default, by the word that enables them."""

READING = 60.0
"""Seconds in which a client must read some of a pending response."""

CONNECTIONS = 500
"""Open at once; the ones above get status 503."""

FORMS: Any = {"max_files": 4, "max_fields": 16, "max_part_size": 2**20}
"""Of a form: files, other fields, and bytes of such a field."""


@dataclass(frozen=True)
class Rules:
    """Who may do how much.

    Attributes:
        hosts: names and addresses that a ``Host`` may be, in lower case, IPv6 in brackets.
        origins: of web pages that may use the server.
        token: needed where it is not empty.
        max_body: bytes of an upload.
        patience: seconds that headers, and a body without progress, may take.
        extras: keys of `EXTRAS`.
    """

    hosts: tuple[str, ...]
    origins: tuple[str, ...] = ()
    token: str = ""
    max_body: int = 2**29
    patience: float = 15
    extras: tuple[str, ...] = ()


def build(state: State, rules: Rules) -> App:
    """Return the ASGI application for an app of MONAI Label."""
    web = FastAPI(title="LMSFE-SAM", openapi_url=None, docs_url=None, redoc_url=None, form_limits=FORMS)
    web.state.label = state
    chosen = [routes.router, routes_store.router, routes_ohif.router]
    chosen += [EXTRAS[name] for name in rules.extras]
    if state.app.studies.startswith(("http://", "https://")):
        chosen.append(routes_ohif.proxy)
    for router in chosen:
        web.include_router(router)
    for kind in (HTTPException, RequestValidationError, MONAILabelException, Exception):
        web.add_exception_handler(kind, handle_error)
    app: App = LimitBody(Quiet(web), rules.max_body, rules.patience)
    app = CheckToken(app, rules.token)
    if rules.origins:
        app = CORSMiddleware(
            app,
            allow_origins=rules.origins,
            allow_methods=["GET", "HEAD", "POST", "PUT", "DELETE"],
            allow_headers=["authorization", "content-type"],
            allow_private_network=True,  # browsers check it before they let a public page in
            max_age=600,
        )
    return CheckOrigin(app, rules.hosts, rules.origins)


def serve(
    application: App, host: str, port: int, patience: float, certificate: str | None, key: str | None
) -> None:
    """Serve until interrupted, with limits on time and connections.

    Args:
        application: an ASGI application.
        host: address to listen on.
        port: to listen on.
        patience: seconds for headers, and between requests of one connection at most.
        certificate: path of a TLS certificate, and with it of its ``key``.
        key: path of the certificate's key.
    """
    uvicorn.run(
        application,
        host=host,
        port=port,
        http=patient_for(patience),
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=min(5, max(1, int(patience))),
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=2**15,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )


def handle_error(request: Request, error: Exception) -> JSONResponse:
    """Turn what was raised into a status and a sentence."""
    wrong = find_input_error(error)
    if is_full_disk(error):
        return _sentence(507, FULL_DISK)
    if wrong is not None:
        return _sentence(wrong.status if isinstance(wrong, Fault) else 400, for_clients(str(wrong)))
    if isinstance(error, RequestValidationError):
        return _sentence(422, _describe_invalid(error))
    if isinstance(error, HTTPException):
        return _sentence(error.status_code, _in_words(request, error), dict(error.headers or {}))
    if isinstance(error, MONAILabelException) and error.error == MONAILabelError.INVALID_INPUT:
        return _sentence(404, for_clients(error.msg))
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    where = f"{frame[0].filename.rsplit('/', 2)[-1]}:{frame[0].lineno}" if frame else "nowhere"
    route = getattr(request.scope.get("route"), "path", "an unknown address")
    # Neither the message, which may name a patient, nor a traceback, unless --verbose DEBUG is given.
    logger.error("%s %s failed: %s at %s", request.method, route, type(error).__name__, where)
    logger.debug("The traceback:", exc_info=error)
    return _sentence(
        500, f"the server failed with {type(error).__name__}: its log says where, and it goes on."
    )


class Quiet:
    """ASGI middleware that drops errors which were handled: Starlette raises them again, for the log."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except Exception as error:
            if not started or scope["type"] != "http":
                raise
            logger.debug("Answered already: %s", type(error).__name__)


def _describe_invalid(error: RequestValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(shorten(part, 40) for part in first["loc"] if part not in ("query", "path", "body"))
    text = str(first["msg"])
    return for_clients(f"{where or 'the body'} cannot be right: {text[:1].lower()}{text[1:]}.")


def _in_words(request: Request, error: HTTPException) -> str:
    path = shorten(request.url.path)
    if error.status_code == 404 and error.detail == "Not Found":
        return f"there is no address '{path}' on this server: docs/monai-label.md lists those that there are."
    if error.status_code == 405:
        return f"{shorten(request.method, 20)} is not for '{path}': see docs/monai-label.md for what is."
    detail = error.detail if isinstance(error.detail, str) else HTTPStatus(error.status_code).phrase
    if error.status_code == 400 and "parsing the body" in detail:
        detail = "the body is not a form or JSON that can be read: send it again."
    return for_clients(detail)


def _sentence(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    kept = {
        key: value for key, value in (headers or {}).items() if key.lower() in ("allow", "www-authenticate")
    }
    return JSONResponse({"detail": detail}, status_code=status, headers=kept)


class TimedProtocol(H11Protocol):
    """uvicorn's protocol for HTTP/1.1 that drops clients which never finish their headers or never read.

    Attributes:
        patience: seconds from a connection's start, or its last response, to the end of a request's headers.
    """

    patience = 15.0
    _headers: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # noqa: D102
        super().connection_made(transport)
        self._watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        _stop(self._headers)
        self._headers = None
        _stop(self._reading)
        self._reading = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:  # noqa: D102
        super().data_received(data)
        self._watch_headers()

    def on_response_complete(self) -> None:  # noqa: D102
        super().on_response_complete()
        self._watch_headers()

    def pause_writing(self) -> None:  # noqa: D102
        super().pause_writing()
        self._reading = self._reading or self.loop.call_later(READING, self.transport.abort)

    def resume_writing(self) -> None:  # noqa: D102
        _stop(self._reading)
        self._reading = None
        super().resume_writing()

    def _watch_headers(self) -> None:
        """Let the clock run whenever no request is being answered: data that trickles in does not stop it."""
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:
            _stop(self._headers)
            self._headers = None
        elif self._headers is None and not self.transport.is_closing():
            self._headers = self.loop.call_later(self.patience, self.transport.abort)


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def patient_for(seconds: float) -> type[TimedProtocol]:
    """Return the protocol with another time for headers: uvicorn wants a class."""
    return type("PatientProtocol", (TimedProtocol,), {"patience": seconds})
