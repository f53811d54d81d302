"""Requests that HTTP does not allow, or only just: the wire, slow clients, who may come in, many at once."""

from __future__ import annotations

import socket
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

from label.sending import GUARDED, TOKEN, WEB, Reply, Request, request, words
from label_attacks import as_png, connected, picture
from label_server import AUTOMATIC, INTERACTIVE, Server

TAKEN = ("an expectation", "a charset", "UTF-16", "gzip", "length and chunks")
ONLY_JUST = ("a star", "a foreign address", "dots", "a fragment", "HTTP/2.0", "HTTP/9.9")
"""What may be answered."""

LINES = "\nHost: {host}\nConnection: close"
FORM = "Content-Type: multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.png"\r\n\r\n'


def wire_requests() -> Iterator[Request]:
    """Requests that are not what HTTP allows, or only just."""
    post = f"POST /activelearning/random HTTP/1.1{LINES}\nContent-Type: application/json"
    put = f"PUT /datastore/image?image=wire HTTP/1.1{LINES}\n{FORM}"
    chunked = "\nTransfer-Encoding: chunked"
    for what, text, data in (
        ("lengths that differ", post + "\nContent-Length: 2\nContent-Length: 3", b"{}x"),
        ("length and chunks", post + "\nContent-Length: 2" + chunked, b"2\r\n{}\r\n0\r\n\r\n"),
        ("a negative length", post + "\nContent-Length: -2", b"{}"),
        ("a length of words", post + "\nContent-Length: two", b"{}"),
        ("a length with a plus", post + "\nContent-Length: +2", b"{}"),
        ("a length of 2**70", post + f"\nContent-Length: {2**70}", b"{}"),
        ("a length in two", post + "\nContent-Length: 1, 1", b"{}"),
        ("a chunk of 2**60", put + chunked, b"fffffffffffffff\r\n" + PART),
        ("a chunk of -1", put + chunked, b"-1\r\n"),
        ("a chunk of words", put + chunked, b"xyz\r\n"),
        ("a chunk extension of 40 kB", put + chunked, b"1;" + b"a" * 40000 + b"\r\nx\r\n0\r\n\r\n"),
        ("chunks and no end", put + chunked, b"5\r\n--b\r\n\r\n0\r\n"),
        ("a cipher of transfer", put + "\nTransfer-Encoding: gzip", b"x"),
        ("identity", put + "\nTransfer-Encoding: identity", b"x"),
        ("chunked twice", put + "\nTransfer-Encoding: chunked, chunked", b"0\r\n\r\n"),
        ("a form that ends early", put + "\nContent-Length: 90", PART[:90]),
        ("a form without an end", put + f"\nContent-Length: {len(PART) + 4}", PART + b"\x89PNG"),
        (
            "a part without a name",
            put + "\nContent-Length: 50",
            b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
        ),
        (
            "a part of a long header",
            put + "\nContent-Length: 60020",
            b"--b\r\nContent-Disposition: " + b"a" * 59994,
        ),
        ("an empty boundary", put.replace("boundary=b", "boundary=") + "\nContent-Length: 5", b"--\r\n-"),
        (
            "a boundary of 5 kB",
            put.replace("boundary=b", "boundary=" + "b" * 5000) + "\nContent-Length: 5",
            b"--b\r\n",
        ),
        ("gzip", put + "\nContent-Encoding: gzip\nContent-Length: 9", zlib.compress(PART)[:9]),
        ("a charset", post + "; charset=utf-7\nContent-Length: 5", b"+AHs-"),
        ("UTF-16", post + "\nContent-Length: 6", "{}".encode("utf-16")),
        ("an expectation", post + "\nExpect: 200-maybe\nContent-Length: 2", b"{}"),
    ):
        yield words(what, text, data, may_work=what in TAKEN)
    for what, first in (
        ("HTTP/0.9", "GET /info/"),
        ("HTTP/2.0", "GET /info/ HTTP/2.0"),
        ("HTTP/9.9", "GET /info/ HTTP/9.9"),
        ("no method", "/info/ HTTP/1.1"),
        ("a method of 9 kB", "A" * 9000 + " /info/ HTTP/1.1"),
        ("a method in signs", "G\u00c4T /info/ HTTP/1.1"),
        ("a tunnel", "CONNECT 127.0.0.1:22 HTTP/1.1"),
        ("a foreign address", "GET http://evil.example/info/ HTTP/1.1"),
        ("a star", "OPTIONS * HTTP/1.1"),
        ("a star for GET", "GET * HTTP/1.1"),
        ("two spaces", "GET  /info/  HTTP/1.1"),
        ("a tab", "GET\t/info/\tHTTP/1.1"),
        ("an address of 31 kB", f"GET /{'a' * 31000} HTTP/1.1"),
        ("an address of 60 kB", f"GET /{'a' * 60000} HTTP/1.1"),
        ("no slash", "GET info HTTP/1.1"),
        ("half an escape", "GET /infer/%2 HTTP/1.1"),
        ("an escape of nothing", "GET /datastore/image?image=%zz HTTP/1.1"),
        ("a fragment", "GET /info/#x HTTP/1.1"),
        ("backslashes", "GET \\info\\ HTTP/1.1"),
        ("dots", "GET /ohif/../../../../etc/passwd HTTP/1.1"),
        ("semicolons", "GET /info/;a=b HTTP/1.1"),
        ("a query of 20 kB", f"GET /datastore/image?{'a=b&' * 5000} HTTP/1.1"),
        ("half a surrogate", "GET /datastore/image?image=%ED%A0%80 HTTP/1.1"),
        ("PRI", "PRI * HTTP/2.0"),
        ("TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    ):
        yield words(what, first + LINES, may_work=what in ONLY_JUST)
    for what, lines in (
        ("a folded header", "X-A: b\n c"),
        ("a header without a colon", "X-A b"),
        ("a space before the colon", "X-A : b"),
        ("a NUL", "X-A: \x00"),
        ("a name in signs", "X-\u00c4: b"),
        ("500 headers", "\n".join(f"X-{number}: b" for number in range(500))),
        ("5000 headers", "\n".join(f"X-{number}: b" for number in range(5000))),
        ("a range", "Range: bytes=-99999999999999999999"),
        ("cookies", "Cookie: " + "a=b; " * 4000),
        ("an upgrade", "Upgrade: h2c\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"),
        (
            "forwarded",
            "X-Forwarded-For: 127.0.0.1\nX-Forwarded-Host: evil.example\nForwarded: host=evil.example",
        ),
        ("another address", "X-Original-URL: /logs/\nX-Rewrite-URL: /logs/\nX-HTTP-Method-Override: DELETE"),
    ):
        first = f"GET /datastore/image?image=us_0 HTTP/1.1{LINES}\n"
        yield words(what, first + lines, may_work=True)
    for host in (
        "evil.example",
        "127.0.0.1.evil",
        "127.0.0.1:999999",
        "[::1",
        "::1",
        "127.0.0.1:",
        "%31",
        "a@127.0.0.1",
    ):
        yield words(
            f"host {host}",
            f"DELETE /datastore/image?id=us_0 HTTP/1.1\nHost: {host}\nConnection: close",
            may_work=False,
        )
    for origin in (
        "null",
        "file://",
        "http://[",
        "http://127.0.0.1\u00e9",
        "127.0.0.1",
        "http://localhost.",
        "//{host}",
    ):
        first = f"DELETE /datastore/image?id=us_0 HTTP/1.1{LINES}\nOrigin: {origin}"
        yield words(f"origin {origin}", first)
    for method in ("PATCH", "TRACE", "LINK", "PROPFIND", "COPY", "DELETE", "PUT"):
        for path in ("/info/", "/", "/ohif/index.html", "/logs/"):
            yield request("method", method, path)


SLOW = 3.0
"""The ``--timeout`` of the servers, in seconds."""


def slow_requests() -> Iterator[Request]:
    """Bodies and headers that come drop by drop, and answers that nobody reads."""
    heads = {
        "a body of JSON": "POST /train/x HTTP/1.1\nContent-Type: application/json\nContent-Length: 500",
        "a form": f"PUT /datastore/image?image=slow HTTP/1.1\n{FORM}\nContent-Length: 5000",
        "chunks": f"PUT /session/ HTTP/1.1\n{FORM}\nTransfer-Encoding: chunked",
        "weights": f"PUT /model/{AUTOMATIC} HTTP/1.1\n{FORM}\nContent-Length: 500000000",
        "a label": f"PUT /datastore/label?image=us_0 HTTP/1.1\n{FORM}\nContent-Length: 50000",
    }
    for what, head in heads.items():
        for drop in (b"", b"1\r\n-\r\n" if what == "chunks" else b"-"):
            yield Request(f"slow: {what}, {'drops' if drop else 'nothing'}", dripping(head, drop))
    yield Request("slow: headers", dripping("GET /info/ HTTP/1.1\nX-A: b", b"", end=b"\r\nX-B: "))
    yield Request("hung up in an upload", hung_up)
    yield Request("many that say nothing", silent)
    yield Request("requests in a row, unread", pipelined, may_work=True)


def dripping(head: str, drop: bytes, end: bytes = b"\r\n\r\n") -> Callable[[Server], list[Reply]]:
    """Send headers, then a little at a time, until the server has had enough."""

    def send(to: Server) -> list[Reply]:
        with connected(to, 1) as line:
            start = f"{head}\nHost: {urlsplit(to.url).netloc}".replace("\n", "\r\n").encode()
            line.sendall(start + end)
            began, answer = time.monotonic(), b""
            while time.monotonic() - began < 5 * SLOW + 10:
                try:
                    chunk = line.recv(65536)
                    if not chunk:
                        break
                    answer += chunk
                except TimeoutError:
                    if drop:
                        line.sendall(drop)
                except ConnectionError:
                    break
            else:
                return [Reply(599, b"still open")]
        status = int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0
        return [Reply(status, answer.partition(b"\r\n\r\n")[2])]

    return send


def hung_up(to: Server) -> list[Reply]:
    """Leave in the middle of uploads."""
    for number in range(20):
        with connected(to) as line:
            head = f"PUT /datastore/image?image=left_{number} HTTP/1.1\r\n{FORM}\r\n"
            head += f"Host: {urlsplit(to.url).netloc}\r\n"
            line.sendall(head.encode() + b"Content-Length: 900000\r\n\r\n" + PART + bytes(1000 * number))
    return [Reply(0, b"")]


def silent(to: Server) -> list[Reply]:
    """Open 200 connections, and say nothing."""
    lines = [socket.create_connection((urlsplit(to.url).hostname, urlsplit(to.url).port)) for _ in range(200)]
    answer = to.call("GET", "/info/x")
    for line in lines:
        line.close()
    return [Reply(answer.status_code, answer.content)]


def pipelined(to: Server) -> list[Reply]:
    """Send 300 requests for a file at once, read a little, and leave."""
    with connected(to, 20) as line:
        one = f"GET /datastore/image?image=us_0 HTTP/1.1\r\nHost: {urlsplit(to.url).netloc}\r\n\r\n"
        line.sendall(one.encode() * 300)
        answer = line.recv(1000)
    return [Reply(int(answer.split(b" ", 2)[1]), b"")]


def token_requests() -> Iterator[Request]:
    """Who has no token writes and reads nothing."""
    wrong: list[tuple[dict[str, str], str]] = [
        ({}, ""),
        ({"Authorization": f"Bearer {TOKEN} "[:-2]}, ""),
        ({"Authorization": f"Bearer {TOKEN.upper()}"}, ""),
        ({"Authorization": f"Bearer  {TOKEN}\u00e9"}, ""),
        ({"Authorization": f"Bearer {TOKEN},{TOKEN}"}, ""),
        ({"Authorization": f"Token {TOKEN}"}, ""),
        ({"Authorization": TOKEN}, ""),
        ({"Authorization": "Bearer " + "x" * 20000}, ""),
        ({"Authorization": f"Bearer {TOKEN}"}, f"token={TOKEN}"),
        ({"X-Token": TOKEN, "Proxy-Authorization": f"Bearer {TOKEN}"}, ""),
        ({}, f"Token={TOKEN}"),
        ({}, f"token[]={TOKEN}"),
        ({}, f"token={TOKEN}%00"),
        ({}, f"token=%0a{TOKEN}"),
        ({}, f"token={TOKEN[1:]}"),
        ({}, f"a;token={TOKEN}"),
        ({}, f"token={'%' * 500}"),
    ]
    good = {"file": ("x.png", as_png(picture(0)))}
    for number, (headers, query) in enumerate(wrong):
        safe = {key: value.encode("latin-1") for key, value in headers.items()}
        sent = {"files": good, "headers": safe, "server": GUARDED}
        yield request(f"token {number}", "PUT", f"/datastore/image?image=new&{query}", **sent)
        yield request(
            f"token {number}", "DELETE", f"/datastore/image?id=us_0&{query}", headers=safe, server=GUARDED
        )
        yield request(f"token {number}", "GET", f"/info/?{query}", headers=safe, server=GUARDED)
    right = {"Authorization": f"Bearer {TOKEN}"}
    for headers in (
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        both = {**right, **headers}
        yield request(str(headers), "DELETE", "/datastore/image?id=us_0", headers=both, server=GUARDED)


def proxy_requests() -> Iterator[Request]:
    """What OHIF's way to a DICOMweb server may not be used for."""
    parts = (
        "../x",
        "%2e%2e/x",
        "qido/..%252f..",
        "wado/%00",
        "qido/a%0aX: b",
        "wado/@evil.example",
        "qido/http:%2f%2fevil.example",
    )
    parts += (
        "qido/" + "a/" * 3000,
        "wado/\u00e9",
        "wado/%5c%5cevil",
        "qido/studies;a",
        "wado/a?b%23c",
        "qido/[::1]",
    )
    for path in parts:
        yield request(
            "proxy", "GET", f"/proxy/dicom/{quote(path, safe='/%?:;[]@')}", server=WEB, may_work=True
        )
    for path in (
        "qido/endless",
        "qido/slow",
        "qido/closes",
        "qido/moved",
        "qido/lies",
        "wado/nothing",
        "qido/error",
    ):
        yield request("what stands behind it", "GET", f"/proxy/dicom/{path}", server=WEB, may_work=True)
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        yield request("proxy", method, "/proxy/dicom/stow/studies", server=WEB, data=b"x")
    for path in (
        "/datastore/image?image=1.2.3",
        f"/infer/{INTERACTIVE}?image=1.2/../3",
        "/datastore/label?label=1&tag=final",
    ):
        yield request("a series", "GET" if "data" in path else "POST", path, server=WEB)


def crowd_requests() -> Iterator[Request]:
    """Many at once."""
    image, label = as_png(picture(3)), as_png(np.zeros((64, 80), np.uint8))
    kinds: dict[str, Callable[[Server, int], Any]] = {
        "inferences of a large picture": lambda to, _: to.post_infer(
            "", {}, file=("x.png", as_png(np.zeros((4000, 4000), np.uint8)))
        ),
        "uploads of one name": lambda to, _: to.call(
            "PUT", "/datastore/image?image=crowd", files={"file": ("x.png", image)}
        ),
        "labels and their ends": lambda to, number: to.call(
            ("PUT", "DELETE")[number % 2],
            "/datastore/label?image=us_1&id=us_1&tag=crowd",
            files={"label": ("x.png", label)} if number % 2 == 0 else None,
        ),
        "sessions": lambda to, _: to.call("PUT", "/session/?expiry=1", files={"files": ("x.png", image)}),
        "junk": lambda to, number: to.call(
            ("GET", "PUT", "POST")[number % 3], "/session/x", data=b"\xff" * 900_000
        ),
        "an image that goes meanwhile": lambda to, number: (
            to.post_infer("crowd", {}) if number % 4 else to.call("DELETE", "/datastore/image?id=crowd")
        ),
        "scorings": lambda to, _: to.call(
            "POST", "/scoring/predicted_iou?run_sync=true", json={"max_samples": 2}
        ),
        "trainings": lambda to, _: to.call(
            "POST", f"/train/{AUTOMATIC}?run_sync=true", json={"max_epochs": 1}
        ),
        "batches": lambda to, _: to.call("POST", f"/batch/infer/{AUTOMATIC}?run_sync=true", json={}),
        "weights": lambda to, _: to.call(
            "PUT", f"/model/{AUTOMATIC}", files={"file": ("m.pt", bytes(2**22))}
        ),
    }
    for what, call in kinds.items():

        def send(to: Server, call: Callable[[Server, int], Any] = call) -> list[Reply]:
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(lambda number: call(to, number), range(16)))
            return [Reply(answer.status_code, answer.content) for answer in answers]

        yield Request(f"16 at once: {what}", send, may_work=True)
