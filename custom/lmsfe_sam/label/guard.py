"""ASGI middleware: who may talk to the server, and how large and how slow a body may be.

No web page of another origin, no foreign name, nobody without its token. Starlette's `TrustedHostMiddleware`
is not used: it looks at the first of several ``Host`` headers, knows neither ``Origin`` nor
``Sec-Fetch-Site``, and answers 400 in plain text where this server promises 403 in a sentence. Its limit on a
body knows neither the time nor clients that read no response while they still send. `CORSMiddleware`, for the
origins that are named, is Starlette's.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

from lmsfe_sam.label.checks import shorten

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?)(?::([0-9]{1,5}))?")
_PORTS = {"http": "80", "https": "443"}

HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
"""Of every response: browsers guess no types, allow no frames, send no referrer and cache nothing."""

NOTHING = b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
"""The content policy of all responses that have none of their own: nothing in them is run or loaded."""

READ_ON = 8
"""Up to this many times the limit is read and discarded, as clients that still send read no response."""

SMALL = 2**20
"""Bytes of a body that is not an upload: JSON, and forms without files."""

UPLOADS = {
    "POST": re.compile(r"/infer/[^/]+"),
    "PUT": re.compile(r"/datastore/(image|label)?|/session/|/model/[^/]+"),
}
"""Where files are sent; the info of images and labels is not among them."""


def same_address(one: str, other: str) -> bool:
    """Whether two hosts, as they stand in a URL, are one name or one address."""
    if one == other:
        return True
    try:
        addresses = [ipaddress.ip_address(host.strip("[]")) for host in (one, other)]
    except ValueError:
        return False
    plain = [getattr(address, "ipv4_mapped", None) or address for address in addresses]
    return plain[0] == plain[1]


class CheckOrigin:
    """ASGI middleware: 403 for a foreign ``Host``, ``Origin`` or ``Sec-Fetch-Site``, whatever the method.

    A ``Host`` may be one of ``hosts``, with any port, or the address at which the connection came in. An
    ``Origin`` may be the server's own, by its ``Host``, or one of ``origins``. Programs that are not browsers
    send neither ``Origin`` nor ``Sec-Fetch-Site``.

    Args:
        app: what is called for the requests that may pass.
        hosts: names and addresses, in lower case, IPv6 in brackets.
        origins: such as ``http://localhost:3000``.
    """

    def __init__(self, app: App, hosts: Iterable[str], origins: Iterable[str] = ()) -> None:
        self.app = app
        self.hosts = tuple(hosts)
        self.origins = frozenset(origins)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        wrong = self.rejection(scope)
        if wrong:
            await refuse(scope, send, 403, wrong)
        elif scope["type"] == "http":
            await self.app(scope, receive, with_headers(send))
        else:
            await self.app(scope, receive, send)

    def rejection(self, scope: Message) -> str:
        """Return the sentence for a request that may not pass, or nothing."""
        hosts, origins = values(scope, b"host"), values(scope, b"origin")
        if len(hosts) != 1 or not self._is_own(hosts[0].lower(), scope):
            return (
                f"the host '{shorten(' '.join(hosts), 60)}' is not this server's: open it by its own "
                "address, or start it with --allow_host NAME."
            )
        named = len(origins) == 1 and origins[0] in self.origins
        if origins and not named and not (len(origins) == 1 and self._is_same(origins[0], hosts[0], scope)):
            return (
                f"web pages of '{shorten(' '.join(origins), 60)}' have no access: open this server's own, "
                "or start it with --allow_origin."
            )
        sites = {site.strip().lower() for site in values(scope, b"sec-fetch-site")}
        if sites - {"same-origin", "none"} and not named:
            return (
                "another web page sent this request: open the address yourself, or start with --allow_origin."
            )
        return ""

    def _is_own(self, host: str, scope: Message) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1]
        server = scope.get("server") or ("", None)
        here = f"[{server[0]}]" if ":" in str(server[0]) else str(server[0])
        return any(same_address(name, known) for known in self.hosts) or (
            name not in ("0.0.0.0", "[::]") and _is_address(name) and same_address(name, here)
        )

    def _is_same(self, origin: str, host: str, scope: Message) -> bool:
        scheme = str(scope["scheme"]).replace("ws", "http")
        port = f":{_PORTS[scheme]}"
        return origin.lower().removesuffix(port) == f"{scheme}://{host.lower().removesuffix(port)}"


class CheckToken:
    """ASGI middleware: 401 without the token, in ``Authorization: Bearer T`` or as the query's ``token=T``.

    The query's token is taken out of the request, so that nothing behind this can write it down.

    Args:
        app: what is called for the requests that may pass.
        token: none is needed where it is empty.
    """

    def __init__(self, app: App, token: str) -> None:
        self.app = app
        self.token = token.encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on or refuse it."""
        if scope["type"] not in ("http", "websocket") or not self.token:
            await self.app(scope, receive, send)
            return
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        given = [value.encode("utf-8", "surrogateescape") for key, value in query if key == "token"]
        for header in values(scope, b"authorization"):
            scheme, _, value = header.partition(" ")
            if scheme.lower() == "bearer":
                given.append(value.strip().encode("latin-1"))
        if len(given) == 1 and hmac.compare_digest(given[0], self.token):
            rest = urlencode([pair for pair in query if pair[0] != "token"]).encode()
            await self.app({**scope, "query_string": rest}, receive, send)
            return
        detail = "this server needs its token: send the header Authorization: Bearer TOKEN, or ?token=TOKEN."
        await refuse(scope, send, 401, detail, [(b"www-authenticate", b"Bearer")])


def values(scope: Message, name: bytes) -> list[str]:
    """Return all values of a header."""
    return [value.decode("latin-1").strip() for key, value in scope["headers"] if key.lower() == name]


def with_headers(send: Send) -> Send:
    """Return a ``send`` that adds `HEADERS`, and a content policy where a response has none."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            there = list(message.get("headers", []))
            names = {key.lower() for key, _ in there}
            added = [*HEADERS, (b"content-security-policy", NOTHING)]
            message = {**message, "headers": there + [pair for pair in added if pair[0] not in names]}
        await send(message)

    return sending


async def refuse(
    scope: Message, send: Send, status: int, detail: str, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Answer a request with a status and a sentence; close a WebSocket before it opens."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
        return
    body = json.dumps({"detail": detail}).encode()
    stated = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    sending = with_headers(send)
    await sending({"type": "http.response.start", "status": status, "headers": [*stated, *headers]})
    await sending({"type": "http.response.body", "body": body})


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


class LimitBody:
    """ASGI middleware that answers 413 to a body above a limit, and 408 to one that takes too long.

    Nothing of the body is stored. Uploads, which are multipart forms at the addresses of `UPLOADS`, may have
    ``limit`` bytes, all other bodies `SMALL`.

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
            if b"expect" not in headers:  # a client that asks first has not sent anything yet
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
    pattern = UPLOADS.get(scope.get("method", ""))
    is_form = headers.get(b"content-type", b"").strip().lower().startswith(b"multipart/form-data")
    return is_form and pattern is not None and pattern.fullmatch(scope.get("path", "")) is not None


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
