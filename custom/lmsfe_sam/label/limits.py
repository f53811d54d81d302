"""Limits on a request's body, in bytes and in seconds.

Starlette's own limit on a body knows neither the time nor clients that see no answer while they still send.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

READ_ON = 8
"""Up to so many times the limit is read and thrown away, as clients that are still sending see no answer."""

SMALL = 2**20
"""Bytes of a body that is no upload: JSON, and forms without files."""

UPLOADS = {
    "POST": re.compile(r"/infer/[^/]+"),
    "PUT": re.compile(r"/datastore/(image|label)?|/session/|/model/[^/]+"),
}
"""Where files are sent; the info of images and labels is not among them."""


class LimitBody:
    """ASGI middleware that answers 413 to a body above a limit, and 408 to one that takes too long.

    None of it is kept. Uploads, which are multipart forms at the addresses of `UPLOADS`, may have ``limit``
    bytes, all other bodies `SMALL`.

    Args:
        app: what is called for all other requests.
        limit: bytes of an upload.
        patience: seconds that any body may take.
        pace: bytes a second that allow it to take longer.
    """

    def __init__(self, app: App, limit: int, patience: float = 15, pace: float = 10_000) -> None:
        self.app = app
        self.limit = limit
        self.patience = patience
        self.pace = pace

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it by its stated length, or as soon as it is too long."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        limit = self.limit if is_upload(scope, headers) else min(self.limit, SMALL)
        stated = headers.get(b"content-length", b"")
        watch = _Watch(receive, self)
        if stated.isdigit() and int(stated) > limit:
            if b"expect" not in headers:  # one who asks first has not sent anything yet
                await watch.throw_away()
            await _refuse(send, 413, too_long(limit, is_upload(scope, headers)))
            return
        watch.limit = limit
        await self._watch(scope, watch, send, is_upload(scope, headers))

    async def _watch(self, scope: Message, watch: _Watch, send: Send, upload: bool) -> None:
        started = False

        async def passed_on(message: Message) -> None:
            nonlocal started
            if started or not (watch.too_long or watch.too_slow):  # else the app's own words about a cut body
                started = True
                await send(message)

        try:
            await self.app(scope, watch.receive, passed_on)
        except Exception:
            if started or not (watch.too_long or watch.too_slow):
                raise
        if started:
            return
        if watch.too_slow:
            await _refuse(send, 408, "the request's body took too long to come: send it again, faster.")
        elif watch.too_long:
            await watch.throw_away()
            await _refuse(send, 413, too_long(watch.limit or 0, upload))


class _Watch:
    """Counts what comes of a body, and how long that takes."""

    def __init__(self, receive: Receive, rules: LimitBody) -> None:
        self._receive = receive
        self.rules = rules
        self.limit: int | None = None
        self.seen = 0
        self.over = False
        self.too_slow = False
        self.start = asyncio.get_running_loop().time()

    @property
    def too_long(self) -> bool:
        return self.limit is not None and self.seen > self.limit

    async def receive(self) -> Message:
        message = await self._timed()
        if self.too_long:
            raise _BodyError
        return message

    async def throw_away(self) -> None:
        try:
            while not self.over and self.seen <= READ_ON * self.rules.limit:
                await self._timed()
        except _BodyError:
            pass

    async def _timed(self) -> Message:
        if self.over:  # what comes now is only that the client has gone, whenever that may be
            return await self._receive()
        end = self.start + self.rules.patience + self.seen / self.rules.pace
        try:
            async with asyncio.timeout_at(end):
                message = await self._receive()
        except TimeoutError:
            self.too_slow = self.over = True
            raise _BodyError from None
        self.seen += len(message.get("body", b""))
        self.over = message["type"] == "http.disconnect" or not message.get("more_body")
        return message


def is_upload(scope: Message, headers: dict[bytes, bytes]) -> bool:
    """Whether a request sends a file."""
    place = UPLOADS.get(scope.get("method", ""))
    is_form = headers.get(b"content-type", b"").strip().lower().startswith(b"multipart/form-data")
    return is_form and place is not None and place.fullmatch(scope.get("path", "")) is not None


def too_long(limit: int, upload: bool) -> str:
    """The sentence for a body above its limit."""
    remedy = "send less, or start the server with a higher --max_body." if upload else "send less."
    return f"the request's body is larger than {limit / 2**20:g} MB: {remedy}"


async def _refuse(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _BodyError(Exception):
    """The body went past its limit, or stopped coming."""
