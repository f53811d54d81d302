"""Weights, trainings and many requests at once, junk, and the log of the annotation server."""

from __future__ import annotations

import io
import json
import os
import pickle
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

if find_spec("monailabel") is None:
    pytest.skip("MONAI Label is not installed: python -m lmsfe_sam.label.install", allow_module_level=True)

import requests

from label_attacks import SMALL, as_png, form, picture, sentence, write_small_studies
from label_server import AUTOMATIC, INTERACTIVE, Server, running

BOX = [9, 9, 60, 50]
PATIENT = "Doe^Jane_1970-01-01"
"""In the names of uploaded files."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("work")
    studies = write_small_studies(folder / "studies", 4)
    with running(studies, folder / "app", "--enable", "dataset,logs") as started:
        yield started


def mask(server: Server, **params: Any) -> np.ndarray:
    return server.infer("us_0", {"roi": BOX, **params}).labels


def weights(server: Server) -> Path:
    return server.app / "model" / INTERACTIVE / "models" / "model.pt"


def saved(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


class Harmful:
    """Leaves a file if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


def zip_bomb() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"")
        archive.writestr("archive/data/0", bytes(2**28))
    return stream.getvalue()


def torchscript() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
        archive.writestr("archive/constants.pkl", b"")
    return stream.getvalue()


def test_junk_is_not_served_as_weights(server: Server, tmp_path: Path) -> None:
    state = torch.load(weights(server), weights_only=True)
    first = next(iter(state))
    broken = {**state, first: torch.full_like(state[first], float("nan"))}
    shorter = {key: value for key, value in state.items() if key != first}
    other = {**state, first: torch.zeros(3, 3)}
    kept, before = weights(server).read_bytes(), mask(server)
    junk = {
        "text": b"junk",
        "nothing": b"",
        "a picture": as_png(picture(0)),
        "a pickle": pickle.dumps(Harmful(tmp_path / "taken over")),
        "a pickle in an archive": saved({**state, "x": Harmful(tmp_path / "taken over")}),
        "a zip bomb": zip_bomb(),
        "TorchScript": torchscript(),
        "an empty state": saved({}),
        "a list": saved([1, 2]),
        "a tensor too few": saved(shorter),
        "another shape": saved(other),
        "numbers that are none": saved(broken),
        "cut short": kept[: len(kept) // 2],
        "huge": saved({**state, "more": torch.zeros(2**24)}),
    }
    for name, data in junk.items():
        response = server.call("PUT", f"/model/{INTERACTIVE}", files={"file": ("model.pt", data)})
        assert response.status_code in (400, 413), (name, response.text)
        sentence(response)
        assert weights(server).read_bytes() == kept, name
    assert not (tmp_path / "taken over").exists()
    np.testing.assert_array_equal(mask(server), before)


def test_good_weights_are_served_at_once(server: Server) -> None:
    before, kept = mask(server), weights(server).read_bytes()
    old = server.call("GET", f"/model/info/{INTERACTIVE}").json()["checksum"]
    state = torch.load(io.BytesIO(kept), weights_only=True)
    generator = torch.Generator().manual_seed(0)
    noisy = {
        key: value + 0.2 * value.std() * torch.randn(value.shape, generator=generator)
        if key.endswith("weight") and value.dim() > 1
        else value
        for key, value in state.items()
    }
    address = f"/model/{INTERACTIVE}"
    response = server.call("PUT", address, files={"file": ("model.pt", saved(noisy))})
    assert response.status_code == 200, response.text
    assert response.json()["checksum"] != old
    assert (mask(server) != before).any()
    np.testing.assert_array_equal(mask(server, model_filename="before.pt"), before)
    back = server.call("GET", address)
    assert back.status_code == 200 and back.content == weights(server).read_bytes()
    assert server.call("PUT", address, files={"file": ("model.pt", kept)}).status_code == 200
    np.testing.assert_array_equal(mask(server), before)


def at_once(*calls: Callable[[], requests.Response]) -> list[requests.Response]:
    """Send requests that wait for each other to be ready."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], requests.Response]) -> requests.Response:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_one_training_at_a_time(server: Server) -> None:
    for number in range(2):
        labels = np.zeros(SMALL, np.uint8)
        labels[20:40, 20:50] = 1
        files = {"label": ("x.png", as_png(labels))}
        assert server.call("PUT", f"/datastore/label?image=us_{number}&tag=final", files=files).ok
    options = {"max_epochs": 1, "batch_size": 2, "device": "cpu"}

    def train(query: str = "?run_sync=true") -> requests.Response:
        return server.call("POST", f"/train/{AUTOMATIC}{query}", json=options)

    answers = at_once(train, train, lambda: train("?run_sync=true&enqueue=true"), lambda: train(""))
    done = [answer for answer in answers if answer.status_code == 200]
    assert len(done) == 1, [answer.text for answer in answers]
    for answer in answers:
        if answer.status_code != 200:
            assert answer.status_code == 429 and "runs already" in sentence(answer)
    if done[0] is answers[3]:  # the one in a process of its own came first
        assert server.call("DELETE", "/train/").status_code == 200
        assert train().status_code == 200
    runs = server.app / "model" / AUTOMATIC / "runs"
    count = len(list(runs.iterdir()))
    assert train().status_code == 200  # in the same second, perhaps
    assert len(list(runs.iterdir())) == count + 1
    scored = at_once(*[lambda: server.call("POST", "/scoring/predicted_iou?run_sync=true", json={})] * 3)
    assert {answer.status_code for answer in scored} <= {200, 429} and scored[0].elapsed
    for number in range(2):
        assert server.call("DELETE", f"/datastore/label?id=us_{number}&tag=final").ok


def test_a_training_in_the_background(server: Server) -> None:
    """Its state is told without the server's folders and without tracebacks."""
    started = server.call("POST", f"/train/{AUTOMATIC}", json={"max_epochs": 1})
    assert started.status_code == 200 and started.json()["status"] in ("SUBMITTED", "RUNNING")
    assert server.call("POST", f"/train/{AUTOMATIC}", json={}).status_code == 429
    assert server.call("GET", "/train/?check_if_running=true").status_code == 200
    stopped = server.call("DELETE", "/train/")
    assert stopped.status_code == 200
    state = server.call("GET", "/train/")
    assert state.status_code == 200 and state.json()["request"] == {"model": AUTOMATIC}
    assert state.json()["details"] and str(server.app) not in state.text and "Traceback" not in state.text


def test_an_image_in_the_place_of_another(server: Server) -> None:
    kept = (server.studies / "us_0.png").read_bytes()
    for name, sent in (("us_0", "x.png"), ("us_0", "x.jpg"), ("", "us_0.png")):
        files = {"file": (sent, as_png(picture(9)))}
        query = f"?image={name}" if name else ""
        response = server.call("PUT", f"/datastore/image{query}", files=files)
        assert response.status_code == 409 and "already" in sentence(response)
    assert (server.studies / "us_0.png").read_bytes() == kept
    files = {"file": ("x.png", as_png(picture(9)))}
    put = [lambda: server.call("PUT", "/datastore/image?image=raced", files=files)] * 6
    assert sorted(answer.status_code for answer in at_once(*put)) == [200, 409, 409, 409, 409, 409]
    assert server.call("DELETE", "/datastore/image?id=raced").ok


def test_simultaneous_changes_are_all_stored(server: Server) -> None:
    def note(number: int) -> requests.Response:
        data = {"info": json.dumps({f"note_{number}": number})}
        return server.call("PUT", "/datastore/image/info?image=us_1", data=data)

    with ThreadPoolExecutor(8) as pool:
        assert all(answer.ok for answer in pool.map(note, range(40)))
    info = server.call("GET", "/datastore/image/info?image=us_1").json()
    assert [info[f"note_{number}"] for number in range(40)] == list(range(40))
    record = json.loads((server.studies / "datastore_v2.json").read_text())
    assert record["objects"]["us_1"]["image"]["info"]["note_39"] == 39


JUNK = [
    ("PUT", "/datastore/image/info?image=us_0", {"data": {"info": "[1]"}}, {400}),
    ("PUT", "/datastore/image/info?image=us_0", {"data": {"info": "3"}}, {400}),
    ("PUT", "/datastore/image/info?image=us_0", {"data": {"info": "{no"}}, {400}),
    ("PUT", "/datastore/image/info?image=us_0", {"data": {"info": '{"a": NaN}'}}, {400}),
    ("PUT", "/datastore/image/info?image=us_0", {"data": {"info": "[" * 5000}}, {400}),
    ("PUT", "/datastore/image/info?image=us_0", {"data": {"info": '{"a":' * 400 + "1" + "}" * 400}}, {400}),
    ("PUT", "/datastore/image/info?image=us_0", {"data": {"info": '{"a": "\\ud800"}'}}, {400}),
    ("PUT", "/datastore/image/info?image=us_0", {"data": {"info": json.dumps({"a": "b" * 300_000})}}, {413}),
    ("PUT", "/datastore/image/info?image=none", {"data": {"info": "{}"}}, {404}),
    ("PUT", "/datastore/label/info?label=us_0&tag=none", {"data": {"info": "{}"}}, {404}),
    ("GET", "/datastore/image/info?image=none", {}, {404}),
    ("GET", "/datastore/label?label=us_0&tag=none", {}, {404}),
    ("DELETE", "/datastore/image?id=none", {}, {404}),
    ("DELETE", "/datastore/label?id=us_0&tag=none", {}, {404}),
    ("GET", "/datastore/?output=none", {}, {422}),
    ("GET", "/datastore/dataset?limit_cases=-5", {}, {422}),
    ("GET", "/datastore/dataset?limit_cases=0", {}, {422}),
    ("GET", "/datastore/dataset?limit_cases=x", {}, {422}),
    ("GET", "/datastore/dataset", {}, {404}),
    ("GET", "/logs/gpu", {}, {404}),
    ("GET", "/logs/?lines=-1", {}, {422}),
    ("GET", "/proxy", {}, {404}),
    ("GET", "/proxy/dicom/wado/../../x", {}, {404}),
    ("GET", "/session/junk", {}, {404}),
    ("DELETE", "/session/junk", {}, {404}),
    ("GET", "/session/00000000-0000-4000-8000-000000000000", {}, {404}),
    ("PUT", "/session/", {}, {422}),
    ("PUT", "/session/", {"files": {"files": ("x.png", b"junk")}}, {400}),
    ("PUT", "/session/?expiry=x", {"files": {"files": ("x.png", b"junk")}}, {422}),
    ("PUT", "/session/", {"files": [("files", ("x.png", b"j")), ("files", ("y.png", b"j"))]}, {400}),
    ("POST", f"/infer/{AUTOMATIC}?image=us_0", {"data": form({"pred": 1})}, {400}),
    ("POST", f"/infer/{AUTOMATIC}?image=us_0", {"data": form({"result": []})}, {400}),
    ("POST", f"/infer/{AUTOMATIC}?image=us_0", {"data": form({"model_filename": []})}, {400}),
    ("POST", f"/infer/{AUTOMATIC}?image=us_0", {"data": form({"model_filename": {}})}, {404}),
    ("POST", f"/infer/{AUTOMATIC}?image=us_0", {"data": form({"model_filename": [[]]})}, {404}),
    ("POST", f"/infer/{AUTOMATIC}?image=us_0", {"data": form({"device": {"a": 1}})}, {400}),
    ("POST", f"/infer/{AUTOMATIC}?image=us_0", {"data": form({"device": [[]]})}, {400}),
    ("POST", f"/infer/{AUTOMATIC}?image=us_0", {"data": form({"logging": 3})}, {400}),
    ("POST", f"/infer/{AUTOMATIC}?image=us_0", {"data": form({"result_compress": "x"})}, {400}),
    ("POST", f"/infer/{AUTOMATIC}?image=us_0", {"data": form({"result_extension": [1]})}, {400}),
    ("POST", f"/infer/{AUTOMATIC}?image=us_0", {"data": form({"result_dtype": {}})}, {400}),
    ("POST", f"/infer/{AUTOMATIC}?image=us_0", {"data": form({"foreground": {"a": 1}})}, {400}),
    ("POST", f"/infer/{AUTOMATIC}?image=us_0", {"data": form({"foreground": [[1e308, 1e308]]})}, {400}),
    ("POST", f"/infer/{AUTOMATIC}?image=us_0", {"data": form({"roi": {"a": 1}})}, {400}),
    ("POST", f"/infer/{AUTOMATIC}?image=us_0", {"data": form({"slice": 10**30})}, {400}),
    ("POST", f"/infer/{AUTOMATIC}?image=us_0", {"data": form({"slice": []})}, {400}),
    ("POST", f"/infer/{AUTOMATIC}?image=us_0", {"data": form({"label_tag": 3})}, {400}),
    ("POST", f"/infer/{AUTOMATIC}?image=us_0", {"data": form({"save_label": "yes"})}, {400}),
    ("POST", f"/train/{AUTOMATIC}?run_sync=true", {"json": {"val_split": "x"}}, {400}),
    ("POST", f"/train/{AUTOMATIC}?run_sync=true", {"json": {"device": 3}}, {400}),
    ("POST", f"/train/{AUTOMATIC}?run_sync=x", {"json": {}}, {422}),
    ("POST", f"/train/{AUTOMATIC}?run_sync=true", {"json": [1]}, {422}),
    ("POST", "/scoring/predicted_iou?run_sync=true", {"json": {"max_samples": -1}}, {400}),
    ("POST", "/scoring/predicted_iou?run_sync=true", {"json": {"max_samples": "x"}}, {400}),
    ("POST", "/scoring/predicted_iou?run_sync=true", {"json": {"device": []}, "headers": {}}, {200}),
    ("POST", f"/batch/infer/{AUTOMATIC}?run_sync=true", {"json": {"images": 3}}, {400}),
    ("POST", f"/batch/infer/{AUTOMATIC}?run_sync=true", {"json": {"images": [{}]}}, {404}),
    ("POST", f"/batch/infer/{AUTOMATIC}?run_sync=true", {"json": {"max_batch_size": -1}}, {400}),
    ("POST", f"/batch/infer/{AUTOMATIC}?images=none", {"json": {}}, {422}),
    ("POST", "/activelearning/random", {"json": {"client_id": {}}}, {400}),
    ("HEAD", "/datastore/image?image=us_0&check_sum=CRC:1", {}, {400}),
    ("HEAD", "/datastore/image?image=us_0&check_sum=SHA256:1", {}, {404}),
    ("HEAD", "/datastore/image?image=us_0", {}, {200}),
    ("GET", "/scoring/?check_if_running=true", {}, {404}),
    ("TRACE", "/info/", {}, {405}),
    ("GET", "/%00", {}, {404}),
    ("GET", "/%ff%fe", {}, {404}),
]


@pytest.mark.parametrize(("method", "path", "options", "statuses"), JUNK)
def test_junk_gets_its_status(
    server: Server, method: str, path: str, options: dict[str, Any], statuses: set[int]
) -> None:
    response = server.call(method, path, **options)
    assert response.status_code in statuses, response.text
    if method != "HEAD" and response.status_code >= 400:
        sentence(response)


def test_what_clients_store_breaks_nothing(server: Server) -> None:
    """The strategies read what is stored about an image, and clients may store anything there."""
    odd = {
        "strategy": "junk",
        "predicted_iou": "junk",
        "predicted_iou_weights": [],
        "name": "/etc/passwd",
        "ts": {},
    }
    for image in ("us_2", "us_3"):
        response = server.call("PUT", f"/datastore/image/info?image={image}", data={"info": json.dumps(odd)})
        assert response.status_code == 200
    for strategy in ("least_sure_by_predicted_iou", "random", "first"):
        for _ in range(3):
            assert (
                server.call("POST", f"/activelearning/{strategy}", json={"client_id": "a"}).status_code == 200
            )
    for image in ("us_2", "us_3"):
        assert server.call("GET", f"/datastore/image?image={image}").status_code == 200


def test_the_enabled_extras(server: Server) -> None:
    files = {"label": ("x.png", as_png(np.ones(SMALL, np.uint8)))}
    assert server.call("PUT", "/datastore/label?image=us_0&tag=final", files=files).ok
    response = server.call("GET", "/datastore/dataset?limit_cases=5")
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert sorted(archive.namelist()) == ["image/us_0.png", "label/us_0.png"]
    assert server.call("DELETE", "/datastore/label?id=us_0&tag=final").ok
    log = server.call("GET", "/logs/?lines=50")
    assert log.status_code == 200 and log.headers["content-type"].startswith("text/plain")
    assert "http" not in log.text.replace("http://127.0.0.1", "")


def test_three_hundred_inferences_eight_at_a_time(server: Server) -> None:
    prompts = [
        {},
        {"roi": BOX},
        {"foreground": [[40, 30]]},
        {"foreground": [[30, 30]], "background": [[2, 2]]},
    ]
    cases = [(f"us_{image}", prompt) for image in range(4) for prompt in prompts]
    alone = [server.infer(image, prompt).labels for image, prompt in cases]
    order = np.random.default_rng(0).integers(0, len(cases), 300)

    def ask(number: int) -> np.ndarray:
        image, prompt = cases[number]
        return server.infer(image, prompt).labels

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, order.tolist()))
    for number, labels in zip(order, together):
        np.testing.assert_array_equal(labels, alone[number])


def test_the_log_names_nobody(server: Server) -> None:
    """Stays last: it looks at the log of all the tests above."""
    image = as_png(picture(5))
    for suffix in (".png", ".nii.gz", ".dcm", ".txt"):
        name = f"{PATIENT}{suffix}"
        server.post_infer("", file=(name, image))
        server.call("PUT", "/datastore/", files={"file": (name, image)})
        server.call("PUT", "/session/", files={"files": (name, image)})
        server.call("PUT", "/datastore/label?image=us_0", files={"label": (name, image)})
        server.call("PUT", f"/model/{AUTOMATIC}", files={"file": (name, image)})
    plain = "Doe Jane 1970"
    assert server.call(
        "PUT", "/datastore/image", params={"image": plain}, files={"file": ("x.png", image)}
    ).ok
    server.post_infer(plain, {"roi": BOX})
    server.post_infer(plain, {"roi": BOX, "logging": "DEBUG"})
    server.post_infer(plain, {"roi": [1, 2, 3]})
    server.call("POST", f"/batch/infer/{AUTOMATIC}?run_sync=true", json={"images": [plain]})
    server.call("POST", "/activelearning/random", json={"client_id": PATIENT})
    server.call("POST", "/scoring/predicted_iou?run_sync=true", json={})
    server.call("DELETE", "/datastore/image", params={"id": plain})
    logs = server.log.read_text() + "".join(path.read_text() for path in (server.app / "logs").iterdir())
    for word in ("Doe", "Jane", "1970", "us_0", "Traceback", "failed"):
        assert word not in logs, [line for line in logs.splitlines() if word in line][:3]
