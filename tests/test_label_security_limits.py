"""What one request, one client or a full disk can do to the annotation server: little."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

if find_spec("monailabel") is None:
    pytest.skip("MONAI Label is not installed: python -m lmsfe_sam.label.install", allow_module_level=True)

import requests

from label_attacks import as_png, connected, form, memory, picture, raw, sentence, write_small_studies
from label_server import AUTOMATIC, INTERACTIVE, ROOT, Server, running
from lmsfe_sam.label.datastore import records
from lmsfe_sam.label.datastore.records import SafeSessions, parse, whole_entries
from lmsfe_sam.label.start import PRIVATE, SHIM, prepare_app

PATIENCE = 2
WAY_OUT = PATIENCE + 6
"""Seconds after which whoever never finishes is surely cut off."""

FULL = 300 * 1024
"""Bytes of the largest file that the server with a full disk may write."""

WITH_FULL_DISK = (
    sys.executable,
    "-c",
    "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2); "
    "os.execv(sys.argv[2], sys.argv[2:])",
    str(FULL),
)
"""Before the server's command: no file may grow further, which Linux reports much as it does a full disk."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("limits")
    studies = write_small_studies(folder / "studies")
    options = ("--timeout", str(PATIENCE), "--max_body", "20")
    place = folder / "tmp"
    place.mkdir()
    with running(studies, folder / "app", *options, environment={"TMPDIR": str(place)}) as started:
        assert_answers(started)  # the first inference takes memory that stays
        yield started
    assert not list(place.iterdir())


def assert_answers(server: Server) -> None:
    assert server.post_infer("us_0", {"roi": [9, 9, 60, 50]}).status_code == 200


SMALL_BODIES = [
    ("POST", f"/train/{AUTOMATIC}?run_sync=true", "application/json"),
    ("POST", "/scoring/predicted_iou?run_sync=true", "application/json"),
    ("POST", "/activelearning/random", "application/json"),
    ("POST", f"/batch/infer/{AUTOMATIC}", "application/json"),
    ("POST", f"/infer/{AUTOMATIC}?image=us_0", "application/json"),
    ("POST", f"/infer/{AUTOMATIC}?image=us_0", "application/x-www-form-urlencoded"),
    ("PUT", "/datastore/image/info?image=us_0", "multipart/form-data; boundary=b"),
    ("PUT", "/datastore/image/info?image=us_0", "application/x-www-form-urlencoded"),
    ("PUT", "/datastore/label?image=us_0", "application/json"),
    ("DELETE", "/datastore/image?id=none", "application/json"),
    ("GET", "/info/", "application/json"),
    ("POST", "/nowhere", "application/json"),
]


@pytest.mark.parametrize("stated", [True, False], ids=["stated length", "chunks"])
@pytest.mark.parametrize(("method", "path", "kind"), SMALL_BODIES)
def test_json_of_many_megabytes(server: Server, method: str, path: str, kind: str, stated: bool) -> None:
    count, chunk = 12, b" " * 2**20
    peak = memory(server)
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    headers = {"Content-Type": kind} | ({"Content-Length": str(count * len(chunk))} if stated else {})
    connection.request(method, path, (chunk for _ in range(count)), headers, encode_chunked=not stated)
    response = connection.getresponse()
    if stated:
        assert response.status == 413
    if response.status == 413:  # else it was answered without a look at the body
        assert "larger than 1 MB" in json.loads(response.read())["detail"]
    assert memory(server) - peak < 60


def test_many_fields_of_a_form(server: Server) -> None:
    peak = memory(server)
    several = {f"field{number}": "x" * 900_000 for number in range(20)}
    many = {f"file{number}": ("x.png", b"1") for number in range(9)}
    for data, files in (
        ({"params": "x" * 2**21}, {"file": ("x.png", b"1")}),
        (several, {"file": ("x.png", b"1")}),
        ({}, many),
    ):
        response = server.call("POST", f"/infer/{AUTOMATIC}", data=data, files=files)
        assert response.status_code in (400, 413), response.text[:300]
        sentence(response)
    assert memory(server) - peak < 100


def test_odd_bodies(server: Server) -> None:
    kinds = {
        "no JSON": (b"{", "application/json"),
        "deep": (b"[" * 100_000, "application/json"),
        "a long number": (b'{"max_samples": ' + b"9" * 100_000 + b"}", "application/json"),
        "a list": (b"[1]", "application/json"),
        "NaN": (b'{"max_samples": NaN}', "application/json"),
        "bytes": (b"\xff\xfe\x00", "application/json"),
        "no boundary": (b"--b", "multipart/form-data"),
        "other": (b"x", "text/plain"),
    }
    for name, (data, kind) in kinds.items():
        response = server.call(
            "POST", "/scoring/predicted_iou?run_sync=true", data=data, headers={"Content-Type": kind}
        )
        assert 400 <= response.status_code < 500, (name, response.text)
        sentence(response)
    for data in (b"--b\r\n\r\n", b"no form", b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n"):
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        response = server.call("PUT", "/session/", data=data, headers=headers)
        assert response.status_code in (400, 422)
        sentence(response)


def test_who_never_finishes_is_cut_off(server: Server) -> None:
    """Headers that never end, bodies that never come, answers that are followed by nothing, all at once."""
    host = urlsplit(server.url).netloc
    heads = {
        "nothing": "",
        "half a line": "GET /in",
        "half the headers": f"GET /info/ HTTP/1.1\r\nHost: {host}\r\nX-A: ",
        "no body": f"POST /activelearning/random HTTP/1.1\r\nHost: {host}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
        "a refused body": "POST /x HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 100000\r\n\r\n{",
        "an upload": f"PUT /session/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n",
        "chunks": f"PUT /session/ HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n1\r\n-\r\n",
    }
    with contextlib.ExitStack() as stack:
        open_ = {name: stack.enter_context(connected(server, WAY_OUT)) for name in heads}
        for name, head in heads.items():
            open_[name].sendall(head.encode())
        start, answers = time.monotonic(), dict.fromkeys(heads, b"")
        waiting = set(heads)
        while waiting and time.monotonic() - start < WAY_OUT:
            for name in sorted(waiting):
                open_[name].settimeout(0.05)
                try:
                    chunk = open_[name].recv(4096)
                    answers[name] += chunk
                    if not chunk:
                        waiting.discard(name)
                    elif name != "nothing":
                        open_[name].sendall(b"a")  # it trickles
                except TimeoutError:
                    if name not in ("nothing", "no body"):
                        with contextlib.suppress(ConnectionError):
                            open_[name].sendall(b"a")
                except ConnectionError:
                    waiting.discard(name)
        assert not waiting, waiting
    assert b" 408 " in answers["no body"] and b" 408 " in answers["an upload"]
    assert_answers(server)


def test_headers_of_a_megabyte(server: Server) -> None:
    host = urlsplit(server.url).netloc
    status, answer = raw(server, f"GET /info/ HTTP/1.1\nHost: {host}\nX-A: {'a' * 2**20}\nConnection: close")
    assert status in (0, 400, 431) and len(answer) < 1000


def test_no_long_input_comes_back(server: Server) -> None:
    long = "x" * 5000
    for response in (
        server.post_infer(long),
        server.post_infer("us_0", model=long),
        server.call("GET", f"/{long}"),
        server.call("GET", f"/datastore/?output={long}"),
        server.post_infer("us_0", {"device": long}),
        server.post_infer("us_0", {"result_extension": long}),
        server.post_infer("us_0", {"foreground": [long]}),
        server.call("POST", f"/train/{AUTOMATIC}?run_sync=true", json={"max_epochs": long}),
        server.call("POST", f"/batch/infer/{AUTOMATIC}", json={"images": long}),
        server.call("GET", "/info/", headers={"Host": long}),
        server.call("GET", "/info/", headers={"Origin": long}),
        server.post_infer("", file=(f"{long}.png", b"x")),
    ):
        assert 400 <= response.status_code < 500
        assert len(response.content) < 400
        sentence(response)


class TestFullDisk:
    @pytest.fixture(scope="class")
    def full(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
        folder = tmp_path_factory.mktemp("full")
        studies = write_small_studies(folder / "studies")
        prepare_app(folder / "app", ROOT / "bundle", [AUTOMATIC, INTERACTIVE])  # while there is room
        with running(studies, folder / "app", "--max_body", "20", prefix=WITH_FULL_DISK) as started:
            yield started

    def test_nothing_is_torn_or_half_changed(self, full: Server) -> None:
        record = full.studies / "datastore_v2.json"
        filling = {"about": "a" * 200_000}
        for image, status in (("us_0", 200), ("us_1", 507), ("us_2", 507)):
            response = full.call(
                "PUT", f"/datastore/image/info?image={image}", data={"info": json.dumps(filling)}
            )
            assert response.status_code == status, response.text[:300]
            if status == 507:
                assert "disk is full" in sentence(response)
        objects = json.loads(record.read_text())["objects"]
        assert objects["us_0"]["image"]["info"]["about"] == filling["about"]
        for image in ("us_1", "us_2"):
            assert "about" not in objects[image]["image"]["info"]
            assert "about" not in full.call("GET", f"/datastore/image/info?image={image}").json()
        assert not list(full.studies.glob(".*.part")) and not list(full.studies.glob(".datastore*"))

    def test_every_way_to_write(self, full: Server) -> None:
        image = as_png(np.random.default_rng(0).integers(0, 256, (800, 1000), np.uint8))
        assert len(image) > FULL
        before = sorted(path.name for path in full.studies.rglob("*"))
        for method, path, field in (
            ("PUT", "/datastore/image?image=large", "file"),
            ("PUT", "/datastore/label?image=us_0", "label"),
            ("PUT", "/session/", "files"),
            ("POST", f"/infer/{AUTOMATIC}", "file"),
            ("PUT", f"/model/{AUTOMATIC}", "file"),
        ):
            response = full.call(method, path, files={field: ("x.png", image)})
            assert response.status_code == 507, (path, response.text[:300])
            assert "disk is full" in sentence(response)
        response = full.call("POST", f"/train/{AUTOMATIC}?run_sync=true", json={"max_epochs": 1})
        assert response.status_code in (400, 507)
        assert sorted(path.name for path in full.studies.rglob("*")) == before
        assert_answers(full)
        assert "Traceback" not in full.log.read_text()


class TestTornRecord:
    def start(self, folder: Path) -> contextlib.AbstractContextManager[Server]:
        return running(folder / "studies", folder / "app")

    def test_a_start_mends_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        studies = write_small_studies(tmp_path / "studies")
        record = studies / "datastore_v2.json"
        monkeypatch.syspath_prepend(str(SHIM))
        from lmsfe_sam.label.datastore.store import SafeStore

        store = SafeStore(str(studies), extensions=["*.png"])
        for number in range(3):
            store.update_image_info(f"us_{number}", {"note": number})
        (tmp_path / "x.png").write_bytes(as_png(picture(0) * 0))
        store.save_label("us_1", str(tmp_path / "x.png"), "final", {})
        folder = tmp_path / "app" / "sessions"
        made, _ = SafeSessions(str(folder)).add_session(str(tmp_path / "x.png"))
        whole = record.read_bytes()
        record.write_bytes(whole[: len(whole) * 2 // 3])
        (studies / "datastore_v2.json.bak").write_bytes(b"")
        junk = folder / "00000000-0000-4000-8000-000000000000"
        junk.mkdir()
        (junk / "meta.info").write_text("{junk")
        (folder / "not one").mkdir()
        (folder / made / "meta.info").write_text("[1]")
        with self.start(tmp_path) as server:
            objects = server.call("GET", "/datastore/?output=all").json()["objects"]
            assert set(objects) == {"us_0", "us_1", "us_2"}
            assert objects["us_0"]["image"]["info"]["note"] == 0  # what was whole of the torn file
            assert "final" in objects["us_1"]["labels"]
            for session in (junk.name, made, "not one"):
                assert server.call("GET", f"/session/{session}").status_code in (400, 404)
            assert server.call("PUT", "/datastore/image/info?image=us_2", data={"info": '{"note": 9}'}).ok
            assert server.call("PUT", "/datastore/image/info?image=us_0", data={"info": '{"more": 1}'}).ok
        assert list(studies.glob("datastore_v2.json.damaged-*"))
        record.write_bytes(b"\x00" * 50)
        with self.start(tmp_path) as server:  # from the one before it
            info = server.call("GET", "/datastore/image/info?image=us_2").json()
            assert info["note"] == 9 and server.call("GET", "/datastore/").json()["completed"] == 1


def test_whole_entries_of_a_torn_record() -> None:
    entry = {"image": {"ext": ".png", "info": {}}, "labels": {}}
    text = json.dumps({"name": "n", "objects": {"a": entry, "../b": entry, "c": entry, "d": entry}}, indent=2)
    for cut in range(len(text)):
        found = list(whole_entries(text[:cut]))
        assert found == ["a", "c", "d"][: len(found)]
    assert list(whole_entries(text)) == ["a", "c", "d"]
    assert whole_entries('{"objects": [') == whole_entries('{"objects": {"a": 1') == {}


def test_bottomless_information_is_not_read_from_a_record() -> None:
    deep: dict[str, Any] = {}
    for _ in range(400):
        deep = {"a": deep}
    image = {"ext": ".png", "info": {}}
    objects = {
        "whole": {"image": image, "labels": {"final": {**image, "info": {"note": [1]}}}},
        "deep": {"image": {**image, "info": deep}, "labels": {}},
        "deep_label": {"image": image, "labels": {"final": {**image, "info": deep}}},
    }
    read = parse(json.dumps({"name": "n", "description": "d", "objects": objects})).objects
    assert {name: list(entry.labels) for name, entry in read.items()} == {
        "whole": ["final"],
        "deep_label": [],
    }


def test_sessions_make_room_for_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "x.png"
    image.write_bytes(as_png(picture(0)))
    kept = SafeSessions(str(tmp_path / "sessions"))
    for most, count in ((4, 4), (9, 3)):
        monkeypatch.setattr(records, "MAX_SESSIONS", most)
        if most == 9:  # by their size now
            monkeypatch.setattr(records, "MAX_BYTES", 3 * image.stat().st_size + 2000)
        made = [kept.add_session(str(image))[0] for _ in range(7)]
        assert len(kept._numbers()) == count and made[-1] in kept._numbers()
        assert kept.get_session(made[-1]) is not None


def test_temporary_files_are_private_and_go(server: Server) -> None:
    (private,) = (server.app.parent / "tmp").iterdir()
    for folder in (private, *(server.app / name for name in PRIVATE)):
        assert folder.stat().st_mode & 0o777 == 0o700
    files = {"file": ("x.png", as_png(picture(0)))}
    assert server.call("POST", f"/infer/{INTERACTIVE}", files=files, data=form({})).ok
    end = time.monotonic() + 5
    while [path for path in private.iterdir() if path.is_file()] and time.monotonic() < end:
        time.sleep(0.05)  # they are taken away after the answer
    assert not [path for path in private.iterdir() if path.is_file()]


def test_requests_go_on_meanwhile(server: Server) -> None:
    """The last one: nothing above has cost the server its voice, and it has told of no failure."""
    assert requests.get(f"{server.url}/info/", timeout=10).ok
    assert "failed" not in server.log.read_text() and "Traceback" not in server.log.read_text()
    assert subprocess.run(["kill", "-0", str(server.process.pid)], check=False).returncode == 0
