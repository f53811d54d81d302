"""Who the annotation server listens to: no other page, no other name, nobody without its token."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pytest

if find_spec("monailabel") is None:
    pytest.skip("MONAI Label is not installed: python -m lmsfe_sam.label.install", allow_module_level=True)

import requests

from label_attacks import as_png, form, picture, raw, sentence, write_small_studies
from label_server import INTERACTIVE, ROOT, Server, running
from lmsfe_sam.errors import InputError
from lmsfe_sam.label import start
from lmsfe_sam.label.__main__ import main

TOKEN = "a-token-of-letters-and-digits-1"
NAMED = "http://viewer.example:3000"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("origin")
    with running(write_small_studies(folder / "studies"), folder / "app", "--allow_origin", NAMED) as started:
        yield started


REQUESTS = [
    ("DELETE", "/datastore/image?id=us_0"),
    ("DELETE", "/datastore/?id=us_0"),
    ("DELETE", "/datastore/label?id=us_0&tag=final"),
    ("DELETE", "/train/"),
    ("GET", "/"),
    ("GET", "/info/"),
    ("GET", "/datastore/image?image=us_0"),
    ("GET", "/datastore/?output=all"),
    ("GET", "/ohif/"),
    ("GET", "/nowhere"),
    ("HEAD", "/datastore/image?image=us_0"),
    ("OPTIONS", "/datastore/image?id=us_0"),
    ("PATCH", "/info/"),
    ("POST", f"/infer/{INTERACTIVE}?image=us_0"),
    ("POST", f"/train/{INTERACTIVE}"),
    ("POST", "/activelearning/random"),
    ("PUT", "/datastore/image?image=new"),
    ("PUT", f"/model/{INTERACTIVE}"),
    ("PUT", "/session/"),
]

FOREIGN = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "https://127.0.0.1:{port}"},
    {"origin": "HTTP://EVIL.EXAMPLE"},
    {"Origin": "http://127.0.0.1:{port}.evil.example"},
    {"Origin": "http://evil.example@127.0.0.1:{port}"},
    {"Origin": f"{NAMED}.evil.example"},
    {"Origin": ""},
    {"Host": "evil.example"},
    {"Host": "evil.example:{port}"},
    {"Host": "127.0.0.1.evil.example:{port}"},
    {"Host": "localhost.evil.example"},
    {"Host": "127.0.0.1:{port}@evil.example"},
    {"Host": "0.0.0.0:{port}"},
    {"Host": "[::2]:{port}"},
    {"Host": "127.1"},
    {"Host": "evil.example", "X-Forwarded-Host": "127.0.0.1"},
    {"Sec-Fetch-Site": "cross-site"},
    {"sec-fetch-site": "CROSS-SITE"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1:{port}"},
]


def on(server: Server, headers: dict[str, str]) -> dict[str, str]:
    port = str(urlsplit(server.url).port)
    return {key: value.replace("{port}", port) for key, value in headers.items()}


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_a_foreign_page_gets_nothing(server: Server, headers: dict[str, str]) -> None:
    for method, path in (("DELETE", "/datastore/image?id=us_0"), ("GET", "/info/")):
        response = server.call(method, path, headers=on(server, headers))
        assert response.status_code == 403, (method, path)
        sentence(response)
        assert not [key for key in response.headers if key.lower().startswith("access-control")]
    assert (server.studies / "us_0.png").is_file()


@pytest.mark.parametrize(("method", "path"), REQUESTS)
def test_every_method_and_address_is_closed(server: Server, method: str, path: str) -> None:
    for headers in (
        {"Origin": "http://evil.example"},
        {"Host": "evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        assert server.call(method, path, headers=headers).status_code == 403
    preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": method}
    response = server.call("OPTIONS", path, headers=preflight)
    assert response.status_code == 403 and "access-control-allow-origin" not in response.headers
    assert (server.studies / "us_0.png").is_file() and not (server.studies / "new.png").exists()


@pytest.mark.parametrize("headers", ["", "\nHost: a\nHost: 127.0.0.1", "\nHost:", "\nHost: 127.0.0.1 evil"])
def test_hosts_that_are_none(server: Server, headers: str) -> None:
    for version in ("1.0", "1.1"):
        status, _ = raw(server, f"GET /info/ HTTP/{version}{headers}\nConnection: close")
        assert status in (400, 403)


def test_two_origins(server: Server) -> None:
    own = server.url
    head = f"GET /info/ HTTP/1.1\nHost: {urlsplit(own).netloc}\nOrigin: {own}\nOrigin: http://evil.example"
    assert raw(server, f"{head}\nConnection: close")[0] == 403


def test_a_web_socket(server: Server) -> None:
    head = f"GET /info/ HTTP/1.1\nHost: {urlsplit(server.url).netloc}\nOrigin: http://evil.example\n"
    head += "Connection: Upgrade, close\nUpgrade: websocket\nSec-WebSocket-Version: 13\n"
    assert raw(server, head + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")[0] == 403


OWN = [
    {},
    {"Origin": "http://127.0.0.1:{port}", "Sec-Fetch-Site": "same-origin"},
    {"Host": "localhost:{port}", "Origin": "http://localhost:{port}"},
    {"Host": "[::1]:{port}"},
    {"Host": "[0:0:0:0:0:0:0:1]:{port}"},
    {"Host": "LOCALHOST"},
    {"Host": "localhost:9000", "Origin": "http://localhost:9000"},  # through a tunnel
    {"Sec-Fetch-Site": "none"},
    {"Origin": NAMED, "Sec-Fetch-Site": "cross-site"},
]


@pytest.mark.parametrize("headers", OWN, ids=str)
def test_what_is_the_servers_own_passes(server: Server, headers: dict[str, str]) -> None:
    response = server.call("GET", "/info/", headers=on(server, headers))
    assert response.status_code == 200, response.text
    for key, value in (("x-content-type-options", "nosniff"), ("cache-control", "no-store")):
        assert response.headers[key] == value
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert response.headers.get("access-control-allow-origin") == (
        NAMED if headers.get("Origin") == NAMED else None
    )
    assert "access-control-allow-credentials" not in response.headers


def test_a_named_origin_sends_a_preflight_request(server: Server) -> None:
    asked = {"Origin": NAMED, "Access-Control-Request-Method": "PUT"}
    response = server.call("OPTIONS", "/datastore/label", headers=asked)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == NAMED


def test_ipv6_and_tls(tmp_path: Path) -> None:
    """A server on [::1] that speaks https, with a certificate made on the spot."""
    certificate, key = tmp_path / "own.pem", tmp_path / "own.key"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:::1,DNS:localhost"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    made = subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            *subject,
            *files,
        ],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("openssl makes no certificate here")
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    options = [
        "--host",
        "::1",
        "--token",
        TOKEN,
        "--ssl_certfile",
        str(certificate),
        "--ssl_keyfile",
        str(key),
    ]
    studies = write_small_studies(tmp_path / "studies", 1)
    with running(studies, tmp_path / "app", *options, host="[::1]", scheme="https", token=TOKEN) as server:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        own = {**headers, "Origin": server.url}
        for given, status in (
            (headers, 200),
            ({}, 401),
            (own, 200),
            ({**headers, "Origin": "http://[::1]"}, 403),
        ):
            answer = requests.get(f"{server.url}/info/", headers=given, verify=str(certificate), timeout=60)
            assert answer.status_code == status


class TestToken:
    @pytest.fixture(scope="class")
    def guarded(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
        folder = tmp_path_factory.mktemp("token")
        studies = write_small_studies(folder / "studies", 1)
        options = ("--host", "0.0.0.0", "--token", TOKEN, "--allow_host", "server.clinic")
        with running(studies, folder / "app", *options, token=TOKEN) as started:
            yield started

    @pytest.mark.parametrize(
        ("headers", "query", "status"),
        [
            ({}, "", 401),
            ({"Authorization": f"Bearer {TOKEN}"}, "", 200),
            ({"authorization": f"bearer {TOKEN}"}, "", 200),
            ({}, f"?token={TOKEN}", 200),
            ({"Host": "server.clinic:8000", "Authorization": f"Bearer {TOKEN}"}, "", 200),
            ({"Authorization": f"Basic {TOKEN}"}, "", 401),
            ({"Authorization": "Bearer"}, "", 401),
            ({"Authorization": f"Bearer {TOKEN}x"}, "", 401),
            ({}, f"?token={TOKEN[:-1]}", 401),
            ({}, "?token=", 401),
            ({}, f"?token=a&token={TOKEN}", 401),
            ({"Cookie": f"token={TOKEN}"}, "", 401),
            ({"Host": "evil.example", "Authorization": f"Bearer {TOKEN}"}, "", 403),
            ({"Origin": "http://evil.example", "Authorization": f"Bearer {TOKEN}"}, "", 403),
        ],
    )
    def test_nobody_passes_without_it(
        self, guarded: Server, headers: dict[str, str], query: str, status: int
    ) -> None:
        for method, path in (("GET", "/info/"), ("HEAD", "/datastore/image?image=us_0")):
            joined = f"{path}{query.replace('?', '&') if '?' in path else query}"
            response = guarded.call(method, joined, headers=headers)
            assert response.status_code == status
        if status == 401:
            assert response.headers["www-authenticate"] == "Bearer"
        for method, path in REQUESTS:
            if status != 200:
                assert guarded.call(method, path, headers=headers).status_code == status

    def test_the_work_goes_on_with_it(self, guarded: Server) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        files = {"file": ("frame.png", as_png(picture(1)))}
        for path in (f"/infer/{INTERACTIVE}?image=us_0&output=json", f"/infer/{INTERACTIVE}?output=json"):
            sent = None if "image=" in path else files
            response = guarded.call(
                "POST", path, headers=headers, data=form({"roi": [9, 9, 60, 50]}), files=sent
            )
            assert response.status_code == 200, response.text
        assert TOKEN not in guarded.log.read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], "--token"),
        (["--host", "::"], "--token"),
        (["--host", "192.168.1.9"], "--token"),
        (["--host", "myself.local"], "--token"),
        (["--token", "two words"], "--token"),
        (["--allow_origin", "*"], "--allow_origin"),
        (["--allow_origin", "null"], "--allow_origin"),
        (["--allow_host", "*"], "--allow_host"),
        (["--enable", "reload"], "--enable"),
        (["--ssl_certfile", "none.pem"], "--ssl_certfile"),
        (["--timeout", "nan"], "--timeout"),
    ],
)
def test_options_that_leave_it_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], words: str
) -> None:
    monkeypatch.delenv("LMSFE_SAM_TOKEN", raising=False)
    with pytest.raises(InputError, match=words):
        main(["--studies", str(tmp_path), "--app", str(tmp_path / "app"), *options])
    assert not (tmp_path / "app").exists()


def test_no_start_without_a_token(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lmsfe_sam.label", "--studies", str(tmp_path), "--host", "0.0.0.0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert done.returncode == 1 and done.stderr.startswith("error: --host 0.0.0.0 is open to the network")
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1


def test_another_version_of_monai_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "version", lambda name: "0.9.0")
    with pytest.raises(InputError, match=r"0\.9\.0 is installed"):
        start.check_version()
