"""A MONAI Label server with this bundle for tests and benchmarks: started as users do, called over HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import requests
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
AUTOMATIC = "lmsfe_sam_ultrasound_segmentation"
INTERACTIVE = "lmsfe_sam_ultrasound_deepgrow"


@dataclass
class Answer:
    """A label map, with the parameters beside it."""

    labels: np.ndarray
    affine: np.ndarray | None
    params: dict[str, Any]


@dataclass
class Server:
    url: str
    app: Path
    studies: Path
    process: subprocess.Popen[bytes]
    log: Path
    token: str = ""

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        return requests.request(method, self.url + path, timeout=300, **options)

    def post_infer(
        self, image: str = "", params: Any = None, model: str = INTERACTIVE, **query: Any
    ) -> requests.Response:
        files = {"file": query.pop("file")} if "file" in query else None
        query = {"image": image, "output": "all", **query}
        form = {"params": params if isinstance(params, str) else json.dumps(params or {})}
        return self.call("POST", f"/infer/{model}", params=query, data=form, files=files)

    def infer(self, *args: Any, **query: Any) -> Answer:
        response = self.post_infer(*args, **query)
        assert response.status_code == 200, response.text[:500]
        return read_answer(response)


def read_answer(response: requests.Response) -> Answer:
    """Read the two parts of the response."""
    from requests_toolbelt import MultipartDecoder

    params, image = MultipartDecoder.from_response(response).parts
    name = image.headers[b"Content-Disposition"].decode().split('filename="')[1].rstrip('"')
    suffix = "".join(Path(name).suffixes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"labels{suffix}"
        path.write_bytes(image.content)
        labels, affine = read_labels(path)
    return Answer(labels, affine, json.loads(params.content))


def read_labels(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows and columns of a picture; x, y and slices of a volume, with its affine."""
    if path.suffix == ".png":
        return np.asarray(Image.open(path)), None
    volume = nib.load(path)
    return np.asarray(volume.dataobj), volume.affine


@contextmanager
def running(
    studies: Path,
    app: Path,
    *options: str,
    threads: int = 1,
    host: str = "127.0.0.1",
    scheme: str = "http",
    token: str = "",
    environment: dict[str, str] | None = None,
    prefix: tuple[str, ...] = (),
) -> Iterator[Server]:
    """Start the server on a free port; stop it in the end.

    ``host`` and ``scheme`` say how it is reached, ``token`` is sent while waiting for it; the words of
    ``prefix`` come before the command.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
        free.bind((host.strip("[]"), 0))
        port = free.getsockname()[1]
    app.mkdir(parents=True, exist_ok=True)
    log = app / "server.log"
    command = [sys.executable, "-m", "lmsfe_sam.label", "--studies", str(studies), "--app", str(app)]
    settings = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(threads)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*prefix, *command, "--port", str(port), *options],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**settings, **(environment or {})},
        )
    server = Server(f"{scheme}://{host}:{port}", app, studies, process, log, token)
    try:
        _wait(server)
        yield server
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(server: Server) -> None:
    end = time.monotonic() + 240
    while time.monotonic() < end and server.process.poll() is None:
        try:
            headers = {"Authorization": f"Bearer {server.token}"} if server.token else None
            if requests.get(f"{server.url}/info/", headers=headers, timeout=300, verify=False).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.2)
    raise RuntimeError(f"the server did not start:\n{server.log.read_text()[-3000:]}")
