"""A web page on another port, in a real Chromium: it reads, writes and deletes nothing.

Chromium is started bare, without a driver: the page reports to the server that it came from.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("monailabel") is None:
    pytest.skip("MONAI Label is not installed: python -m lmsfe_sam.label.install", allow_module_level=True)

from label_attacks import write_small_studies
from label_server import AUTOMATIC, Server, running

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("Chromium is not installed: apt-get install chromium", allow_module_level=True)


FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP *.example 127.0.0.1",
]

PAGE = """<!doctype html><title>page</title><body><script>
const at = new URLSearchParams(location.search).get("at");
const seen = {};
async function note(name, what) {
  const late = new Promise(done => setTimeout(done, 15000, "late"));
  try { seen[name] = await Promise.race([what(), late]); }
  catch (error) { seen[name] = "refused"; }
}
const read = (path, options) => async () => {
  const answer = await fetch(at + path, options);
  return answer.type === "opaque" ? "opaque" : answer.status + " " + (await answer.text()).slice(0, 60);
};
const load = (tag, path) => () => new Promise(done => {
  const part = document.createElement(tag);
  part.onload = () => done("loaded"); part.onerror = () => done("refused");
  part.src = at + path; document.body.append(part);
});
const file = () => {
  const form = new FormData();
  form.append("file", new Blob(["x"]), "x.png");
  return form;
};
(async () => {
  await note("read", read("/info/"));
  await note("delete", read("/datastore/image?id=us_0", {method: "DELETE"}));
  await note("put", read("/datastore/image?image=written", {method: "PUT", body: file()}));
  await note("json", read("/activelearning/random", {method: "POST", body: "{}",
    headers: {"Content-Type": "application/json"}}));
  await note("blind batch", read("/batch/infer/MODEL?run_sync=true", {method: "POST", mode: "no-cors"}));
  await note("blind training", read("/train/MODEL", {method: "POST", mode: "no-cors", body: "{}"}));
  await note("blind upload", read("/infer/MODEL", {method: "POST", mode: "no-cors", body: file()}));
  await note("blind read", read("/info/", {mode: "no-cors", credentials: "include"}));
  const batch = at + "/batch/infer/MODEL?run_sync=true";
  await note("beacon", async () => String(navigator.sendBeacon(batch, "{}")));
  await note("image", load("img", "/datastore/image?image=us_0"));
  await note("script", load("script", "/ohif/app-config.js"));
  await note("socket", () => new Promise(done => {
    const socket = new WebSocket(at.replace("http", "ws") + "/info/");
    socket.onopen = () => done("open"); socket.onerror = () => done("refused");
  }));
  await note("form", () => new Promise(done => {
    const frame = document.createElement("iframe"); frame.name = "frame"; document.body.append(frame);
    const form = document.createElement("form");
    form.method = "POST"; form.target = "frame"; form.enctype = "text/plain";
    form.action = batch; document.body.append(form);
    frame.onload = () => done(frame.contentDocument ? "readable" : "refused");
    form.submit();
  }));
  await fetch("/report", {method: "POST", body: JSON.stringify(seen)});
})();
</script>""".replace("MODEL", AUTOMATIC)


class Site:
    """A web server of the page, on a port of its own."""

    def __init__(self) -> None:
        site = self
        self.reports: list[dict[str, Any]] = []
        self.reported = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(PAGE.encode())

            def do_POST(self) -> None:
                site.reports.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.answer(b"{}")
                site.reported.set()

            def answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def sites() -> Iterator[tuple[Site, Site]]:
    """One that the server does not know, and one that is named to it."""
    both = Site(), Site()
    yield both
    for site in both:
        site.server.shutdown()
        site.server.server_close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, sites: tuple[Site, Site]) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("browser")
    studies = write_small_studies(folder / "studies")
    named = f"http://127.0.0.1:{sites[1].port}"
    with running(studies, folder / "app", "--allow_origin", named) as started:
        yield started


@contextmanager
def browser(profile: Path, address: str, *flags: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *flags, address],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def visit(site: Site, host: str, at: str, profile: Path) -> dict[str, Any]:
    """Open the page under a host's name, let it attack an address, and return what it reports."""
    site.reported.clear()
    address = f"http://{host}:{site.port}/?at={at}"
    with browser(profile, address, "--remote-debugging-port=0"):
        assert site.reported.wait(120), "the page did not report"
    return site.reports[-1]


def shown_page(address: str, profile: Path) -> str:
    """What a person sees who opens an address."""
    with browser(profile, address, "--dump-dom", "--virtual-time-budget=5000") as process:
        return process.communicate(timeout=120)[0]


@pytest.mark.parametrize(
    ("page", "at"),
    [
        ("127.0.0.1", "http://127.0.0.1:{port}"),
        ("localhost", "http://127.0.0.1:{port}"),
        ("evil.example", "http://127.0.0.1:{port}"),
        ("rebound.example", "http://rebound.example:{port}"),
    ],
    ids=["another port", "another name", "another site", "a name that points here"],
)
def test_a_foreign_page(server: Server, sites: tuple[Site, Site], tmp_path: Path, page: str, at: str) -> None:
    before = sorted(server.studies.rglob("*.png"))
    seen = visit(sites[0], page, at.format(port=server.url.rsplit(":", 1)[1]), tmp_path / "profile")
    assert set(seen.pop("beacon")) and seen.pop("form") == "refused"
    for name in ("blind batch", "blind training", "blind upload", "blind read"):
        assert seen.pop(name) in ("opaque", "refused")  # sent, and not read
    assert set(seen.values()) == {"refused"}, seen
    assert sorted(server.studies.rglob("*.png")) == before  # no image less, no label more
    assert not (server.app / "model" / AUTOMATIC / "runs").exists()
    assert server.call("GET", "/train/").status_code == 404
    assert server.call("GET", "/batch/infer").status_code == 404


def test_a_page_that_was_named(server: Server, sites: tuple[Site, Site], tmp_path: Path) -> None:
    """The same page can do it all where it may: what the others saw was the server's refusal."""
    (server.studies / "us_0.png").rename(server.studies.parent / "kept.png")
    shutil.copy(server.studies.parent / "kept.png", server.studies / "us_0.png")
    seen = visit(sites[1], "127.0.0.1", server.url, tmp_path / "profile")
    assert seen["read"].startswith("200 ") and seen["json"].startswith("200 ")
    assert seen["delete"].startswith("200 ") and not (server.studies / "us_0.png").exists()
    assert seen["put"].startswith("400 ")  # which is not a picture
    shutil.copy(server.studies.parent / "kept.png", server.studies / "us_0.png")


def test_addresses_that_are_opened(server: Server, tmp_path: Path) -> None:
    port = server.url.rsplit(":", 1)[1]
    assert AUTOMATIC in shown_page(f"{server.url}/info/", tmp_path / "own")
    foreign = shown_page(f"http://rebound.example:{port}/info/", tmp_path / "foreign")
    assert "is not this server" in foreign and AUTOMATIC not in foreign
