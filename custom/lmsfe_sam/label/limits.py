"""A limit on the size of a request's body, which MONAI Label itself does not have."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

READ_ON = 8
"""Up to so many times the limit is read and thrown away, as clients that are still sending see no answer."""


class LimitBody:
    """ASGI middleware that answers 413 to a body above a limit, without keeping any of it.

    Args:
        app: what is called for all other requests.
        limit: bytes.
    """

    def __init__(self, app: App, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it by its stated length, or as soon as it is too long."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        stated = headers.get(b"content-length", b"")
        if stated.isdigit() and int(stated) > self.limit:
            if b"expect" not in headers:  # one who asks first has not sent anything yet
                await self._throw_away(receive, 0)
            await self._refuse(send)
            return
        await self._watch(scope, receive, send)

    async def _watch(self, scope: Message, receive: Receive, send: Send) -> None:
        seen, started = 0, False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.limit:
                raise _TooLongError
            return message

        async def passed_on(message: Message) -> None:
            nonlocal started
            if seen <= self.limit or started:  # else the app's own words about a body cut short
                started = True
                await send(message)

        try:
            await self.app(scope, counted, passed_on)
        except Exception:
            if started or seen <= self.limit:
                raise
        if seen > self.limit and not started:
            await self._throw_away(receive, seen)
            await self._refuse(send)

    async def _throw_away(self, receive: Receive, seen: int) -> None:
        while seen <= READ_ON * self.limit:
            message = await receive()
            seen += len(message.get("body", b""))
            if message["type"] == "http.disconnect" or not message.get("more_body"):
                return

    async def _refuse(self, send: Send) -> None:
        megabytes = self.limit / 2**20
        detail = (
            f"the request's body is larger than {megabytes:g} MB: "
            "send less, or start the server with a higher --max_body."
        )
        body = json.dumps({"detail": detail}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class _TooLongError(Exception):
    """The body went past the limit."""
