"""OHIF's way to a DICOMweb server through this one: reading, below that address, and nothing else."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from typing import Any

import pytest

if find_spec("monailabel") is None:
    pytest.skip("MONAI Label is not installed: python -m lmsfe_sam.label.install", allow_module_level=True)

from label_attacks import raw, sentence
from label_server import AUTOMATIC, Server, running

SEEN: list[tuple[str, str, dict[str, str]]] = []


class Archive(BaseHTTPRequestHandler):
    """A DICOMweb server without a study, which has more beside it than DICOMweb."""

    def do_GET(self) -> None:
        SEEN.append((self.command, self.path, {key.lower(): value for key, value in self.headers.items()}))
        moved = self.path.startswith("/dicom-web/moved")
        body = b"[]" if self.path.startswith("/dicom-web/") else b"secret"
        self.send_response(302 if moved else 200)
        self.send_header("Location", "http://127.0.0.1:1/secret")
        self.send_header("Content-Type", "text/html")
        self.send_header("Set-Cookie", "a=b")
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    archive = ThreadingHTTPServer(("127.0.0.1", 0), Archive)
    threading.Thread(target=archive.serve_forever, daemon=True).start()
    folder = tmp_path_factory.mktemp("proxy")
    address: Any = f"http://127.0.0.1:{archive.server_address[1]}/dicom-web"
    with running(address, folder / "app") as started:
        yield started
    archive.shutdown()
    archive.server_close()


def test_reading_passes(server: Server) -> None:
    for path, there in (
        ("qido/studies?limit=3&PatientName=A*", "/dicom-web/studies?limit=3&PatientName=A*"),
        ("wado/studies/1.2.3/metadata", "/dicom-web/studies/1.2.3/metadata"),
        ("studies/1.2/series", "/dicom-web/studies/1.2/series"),
    ):
        headers = {
            "Accept": "application/dicom+json",
            "Cookie": "a=b",
            "Authorization": "Basic x",
            "X-A": "b",
        }
        response = server.call("GET", f"/proxy/dicom/{path}", headers=headers)
        assert response.status_code == 200 and response.content == b"[]"
        method, asked, sent = SEEN[-1]
        assert (method, asked) == ("GET", there)
        assert sent["accept"] == "application/dicom+json"
        assert not {"cookie", "authorization", "x-a"} & set(sent)
        assert "set-cookie" not in response.headers and "access-control-allow-origin" not in response.headers
        assert "default-src 'none'" in response.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "qido/../../secret",
        "qido/%2e%2e/%2e%2e/secret",
        "qido/%252e%252e/%252e%252e/secret",
        "wado/..%2f..%2fsecret",
        "qido//evil.example/x",
        "qido/@evil.example/x",
        "qido/http://evil.example/x",
        "qido/a%0d%0aX-A: b",
        "qido/a%00",
        "qido/a%3fb%23c",
    ],
)
def test_nothing_beside_it_is_reached(server: Server, path: str) -> None:
    count = len(SEEN)
    host = server.url.removeprefix("http://")
    target = f"/proxy/dicom/{path}".replace(" ", "%20")
    status, answer = raw(server, f"GET {target} HTTP/1.1\nHost: {host}\nConnection: close")
    assert b"secret" not in answer.split(b"\r\n\r\n", 1)[1]
    assert status in (200, 400, 404)
    for _, asked, _ in SEEN[count:]:
        assert asked.startswith("/dicom-web/") and ".." not in asked


def test_a_redirect_is_not_followed(server: Server) -> None:
    response = server.call("GET", "/proxy/dicom/qido/moved", allow_redirects=False)
    assert response.status_code == 302 and "location" not in response.headers


def test_nothing_is_written_there(server: Server) -> None:
    for method in ("POST", "PUT", "DELETE"):
        for path in ("stow/studies", "wado/studies", "x"):
            response = server.call(method, f"/proxy/dicom/{path}", data=b"x")
            assert response.status_code in (404, 405)
            sentence(response)
    foreign = {"Origin": "http://evil.example"}
    assert server.call("GET", "/proxy/dicom/qido/studies", headers=foreign).status_code == 403
    assert {method for method, _, _ in SEEN} == {"GET"}


def test_series_are_names_too(server: Server) -> None:
    for name in ("../../x", "1.2.3", "/etc/passwd"):
        for response in (
            server.post_infer(name),
            server.call("GET", "/datastore/image", params={"image": name}),
        ):
            assert response.status_code == 404
            sentence(response)
    assert json.loads(server.call("GET", "/info/").text)["datastore"]["total"] == 0
    assert server.call("POST", f"/batch/infer/{AUTOMATIC}?run_sync=true", json={}).status_code == 200
