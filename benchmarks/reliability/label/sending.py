"""A request to the annotation server, what came back, and the words that requests are sent in."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from requests.exceptions import ChunkedEncodingError

from label_attacks import raw
from label_server import Server

TOKEN = "a-token-of-letters-and-digits-2"
OPEN, GUARDED, WEB = "open", "guarded", "web"
"""Servers: without a token, with one, and before a DICOMweb server that does what it should not."""


@dataclass(frozen=True)
class Reply:
    """What came back: the status (0: the connection was closed), and the body."""

    status: int
    body: bytes


@dataclass(frozen=True)
class Request:
    """One request, or several at once.

    Attributes:
        what: for people.
        send: sends it, and returns all that came.
        server: `OPEN`, `GUARDED` or `WEB`.
        may_work: whether a result is right, too.
    """

    what: str
    send: Callable[[Server], list[Reply]]
    server: str = OPEN
    may_work: bool = False


def request(
    what: str, method: str, path: str, server: str = OPEN, may_work: bool = False, **options: Any
) -> Request:
    """A request by an ordinary client."""

    def send(to: Server) -> list[Reply]:
        try:
            answer = to.call(method, path, allow_redirects=False, **options)
        except ChunkedEncodingError:  # what a server behind this one sent was cut short
            return [Reply(0, b"")]
        return [Reply(answer.status_code, answer.content)]

    return Request(f"{method} {path[:70]}: {what}", send, server, may_work)


def words(what: str, text: str, body: bytes = b"", server: str = OPEN, may_work: bool = False) -> Request:
    """A request word for word; ``{host}`` stands for the server's own."""

    def send(to: Server) -> list[Reply]:
        head = text.replace("{host}", urlsplit(to.url).netloc)
        status, answer = raw(to, head, body)
        return [Reply(status, answer.partition(b"\r\n\r\n")[2])]

    return Request(f"word for word: {what}", send, server, may_work)


def body(what: str, path: str, text: str, may_work: bool = False) -> Request:
    """A POST of JSON, or of what is none."""
    data, headers = text.encode("latin-1"), {"Content-Type": "application/json"}
    return request(what, "POST", path, may_work=may_work, data=data, headers=headers)


def detail(reply: Reply) -> str | None:
    """Return a refusal's sentence, or None where there is none."""
    try:
        return str(json.loads(reply.body)["detail"])
    except (ValueError, KeyError, TypeError):
        return None
