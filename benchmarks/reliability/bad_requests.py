"""Bad requests to the annotation server: a sentence, a status below 500, little memory, nothing written."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from trials import run_trials

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from label import files, parameters, wire
from label.sending import GUARDED, OPEN, TOKEN, WEB, Reply, Request, detail

from label_attacks import everything, memory, write_small_studies
from label_server import Server, running

KINDS = (
    *(parameters.prompt_requests, parameters.job_requests, files.upload_requests, wire.wire_requests),
    *(wire.slow_requests, wire.token_requests, wire.proxy_requests, wire.crowd_requests),
)

LIMIT = 1024.0
"""MB that a server may take beyond what it has after its first honest answer."""

SECONDS = 90.0


class Misbehaving(BaseHTTPRequestHandler):
    """A DICOMweb server that answers late, without end, or not at all."""

    def do_GET(self) -> None:
        if "closes" in self.path:
            return
        if "slow" in self.path:
            time.sleep(5)
        self.send_response(500 if "error" in self.path else 302 if "moved" in self.path else 200)
        self.send_header("Location", "file:///etc/passwd")
        self.send_header("Content-Length", "1000" if "lies" in self.path else str(2**20))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(b"[]" if "lies" in self.path else b"[]".ljust(2**20))

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[dict[str, Server]]:
    """Start the three servers."""
    archive = ThreadingHTTPServer(("127.0.0.1", 0), Misbehaving)
    threading.Thread(target=archive.serve_forever, daemon=True).start()
    web: Any = f"http://127.0.0.1:{archive.server_address[1]}/dicom-web"
    options = ("--timeout", str(wire.SLOW), "--enable", "dataset,logs")
    with contextlib.ExitStack() as stack:

        def start(name: str, *more: str, studies: Any = None, **how: Any) -> Server:
            place = studies or write_small_studies(folder / name / "studies")
            return stack.enter_context(running(place, folder / name / "app", *options, *more, **how))

        yield {
            OPEN: start(OPEN),
            GUARDED: start(GUARDED, "--token", TOKEN, token=TOKEN),
            WEB: start(WEB, studies=web),
        }
    archive.shutdown()
    archive.server_close()


def wrong(reply: Reply, case: Request, hidden: list[str]) -> str:
    """Return what is wrong with an answer, or nothing."""
    text = reply.body[:5000].decode(errors="replace")
    if reply.status >= 500 and case.server != WEB:
        return f"status {reply.status}, {text[:300]}"
    if case.may_work and 200 <= reply.status < 400:
        return ""
    if 0 < reply.status < 400 and not case.may_work:
        return f"it was taken, status {reply.status}, {text[:300]}"
    if "Traceback" in text or any(path in text for path in hidden):
        return f"it tells too much: {text[:300]}"
    sentence = detail(reply)
    if sentence is not None and not (0 < len(sentence) <= 300 and sentence.endswith((".", "?"))):
        return f"no sentence: {sentence[:300]}"
    if sentence is None and case.what.startswith(("POST", "PUT", "DELETE")) and reply.status:
        return f"no sentence: {text[:300]}"
    return ""


def outcome(case: Request, known: dict[str, Server], least: dict[str, float]) -> str:
    """Send a request; return what is wrong with what came of it, or nothing."""
    server = known[case.server]
    own = server.studies if isinstance(server.studies, Path) else server.app
    hidden = [str(server.app), str(own), "site-packages", 'File "', str(Path(__file__).parents[2])]
    there = everything(server) if isinstance(server.studies, Path) else set()
    kept = (server.studies / "us_0.png").read_bytes() if isinstance(server.studies, Path) else b""
    started, logged = time.monotonic(), server.log.stat().st_size
    try:
        replies = case.send(server)
    except OSError as error:  # requests' errors are such, too
        replies, refused = [], f"{type(error).__name__}: {error}"
    else:
        refused = ""
    if server.process.poll() is not None:
        return f"{case.what}: the server is gone"
    problem = refused or next(filter(None, (wrong(reply, case, hidden) for reply in replies)), "")
    if time.monotonic() - started > SECONDS:
        problem = problem or f"took {time.monotonic() - started:.0f} s"
    if b"Traceback" in server.log.read_bytes()[logged:]:
        problem = problem or "its log holds a traceback"
    headers = {"Authorization": f"Bearer {TOKEN}"} if case.server == GUARDED else None
    if server.call("GET", "/info/", headers=headers).status_code != 200:
        problem = problem or "the server does not answer any more"
    if (grown := memory(server) - least[case.server]) > LIMIT:
        least[case.server] += grown
        problem = problem or f"took {grown:.0f} MB"
    if there and not case.may_work and everything(server) != there:
        problem = problem or f"wrote {[path.name for path in everything(server) ^ there][:5]}"
    image = server.studies / "us_0.png" if kept else None
    if image is not None and (not image.is_file() or image.read_bytes() != kept):
        image.write_bytes(kept)
        problem = problem or "an image has changed"
    return f"{case.what}: {problem}" if problem else ""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, help="the trials before this one (default: all)")
    parser.add_argument("--state", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, servers(Path(name)) as known:
        for kind in (OPEN, GUARDED):
            header = {"Authorization": f"Bearer {TOKEN}"}
            query = {"image": "us_0", "output": "json"}
            model = "/infer/lmsfe_sam_ultrasound_deepgrow"
            assert known[kind].call("POST", model, params=query, headers=header).ok
        least = {kind: memory(server) for kind, server in known.items()}
        cases = [case for make in KINDS for case in make()]

        def trial(number: int) -> str:
            return outcome(cases[number], known, least)

        run_trials(min(options.trials or len(cases), len(cases)), options.state, trial, "bad requests")


if __name__ == "__main__":
    main()
