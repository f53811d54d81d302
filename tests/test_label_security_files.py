"""No request makes the annotation server read or write outside of its folders, and no file deceives it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

if find_spec("monailabel") is None:
    pytest.skip("MONAI Label is not installed: python -m lmsfe_sam.label.install", allow_module_level=True)

import requests

from label_attacks import (
    ELSEWHERE,
    NAMES,
    archive_of,
    as_nifti,
    as_png,
    dicom,
    everything,
    form,
    gif,
    memory,
    mha,
    nrrd,
    picture,
    png_that_unfolds,
    raw,
    sentence,
    tiff_pages,
    write_small_studies,
)
from label_server import AUTOMATIC, INTERACTIVE, Server, running
from lmsfe_sam.images.limits import runs_fit
from medical_files import save_dicom

SECRET = "secret.png"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("files")
    studies = write_small_studies(folder / "studies")
    outside = folder / "outside"
    outside.mkdir()
    Image.fromarray(picture(7)).save(outside / SECRET)
    (studies / "leads_out.png").symlink_to(outside / SECRET)
    (studies / "dangling.png").symlink_to(outside / "none.png")
    (studies / "folder_out").symlink_to(outside)
    (studies / "record.png").symlink_to(studies / "datastore_v2.json")
    (studies / "hidden.png").symlink_to(studies / ".lock")
    (studies / "inner.png").symlink_to(studies / "us_0.png")
    (studies / "a_folder.png").mkdir()
    os.mkfifo(studies / "a_pipe.png")
    labels = studies / "labels"
    labels.mkdir()
    (labels / "tag_out").symlink_to(outside)
    with running(studies, folder / "app", "--timeout", "5") as started:
        yield started


@pytest.fixture
def before(server: Server) -> Iterator[set[Path]]:
    """What is on the disk around the server, which no test here may add to."""
    there = everything(server)
    yield there
    assert everything(server) == there


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:20]))
def test_a_name_is_checked_wherever_it_comes(server: Server, before: set[Path], name: str) -> None:
    image = {"file": ("x.png", as_png(picture(1)))}
    label = {"label": ("x.png", as_png(np.zeros_like(picture(1))))}
    answers = [
        server.call(
            "POST", f"/batch/infer/{AUTOMATIC}?run_sync=true", json={"label_tag": name, "save_label": True}
        ),
        server.call(
            "POST", f"/infer/{AUTOMATIC}?image=us_0", data=form({"label_tag": name, "save_label": True})
        ),
        server.call("PUT", "/datastore/image", params={"image": name}, files=image),
        server.call("PUT", "/datastore/", params={"image": name}, files=image),
        server.call("PUT", "/datastore/label", params={"image": "us_0", "tag": name}, files=label),
        server.call("DELETE", "/datastore/label", params={"id": "us_0", "tag": name}),
        server.call("GET", "/datastore/label", params={"label": "us_0", "tag": name}),
        server.call("GET", "/datastore/label/info", params={"label": "us_0", "tag": name}),
        server.call(
            "PUT", "/datastore/label/info", params={"label": "us_0", "tag": name}, data={"info": "{}"}
        ),
    ]
    unknown = [
        server.call("POST", f"/infer/{AUTOMATIC}", params={"image": name}),
        server.call("POST", f"/infer/{AUTOMATIC}", params={"session_id": name}),
        server.call("POST", f"/infer/{AUTOMATIC}?image=us_0", data=form({"model_filename": name})),
        server.call("POST", f"/batch/infer/{AUTOMATIC}?run_sync=true", json={"images": [name]}),
        server.call("PUT", "/datastore/label", params={"image": name}, files=label),
        server.call("DELETE", "/datastore/image", params={"id": name}),
        server.call("DELETE", "/datastore/", params={"id": name}),
        server.call("DELETE", "/datastore/label", params={"id": name, "tag": "final"}),
        server.call("GET", "/datastore/image", params={"image": name}),
        server.call("GET", "/datastore/image/info", params={"image": name}),
        server.call("PUT", "/datastore/image/info", params={"image": name}, data={"info": "{}"}),
        server.call("GET", "/datastore/label", params={"label": name, "tag": "final"}),
        server.call("GET", "/datastore/label/info", params={"label": name, "tag": "final"}),
    ]
    quoted = requests.utils.quote(name, safe="")  # type: ignore[attr-defined]
    for method, path in (
        ("POST", f"/infer/{quoted}?image=us_0"),
        ("POST", f"/batch/infer/{quoted}?run_sync=true"),
        ("POST", f"/train/{quoted}?run_sync=true"),
        ("POST", f"/scoring/{quoted}?run_sync=true"),
        ("POST", f"/activelearning/{quoted}"),
        ("GET", f"/model/{quoted}"),
        ("GET", f"/model/info/{quoted}"),
        ("PUT", f"/model/{quoted}"),
        ("GET", f"/session/{quoted}"),
        ("DELETE", f"/session/{quoted}"),
    ):
        if name not in (".", ".."):  # which the client takes for parts of the address
            unknown.append(server.call(method, path))
    for response in answers:
        assert response.status_code in (400, 404), response.text
    for response in (*answers, *unknown):
        assert 400 <= response.status_code < 500, (response.url, response.text)
        sentence(response)


@pytest.mark.parametrize(("kind", "suffix"), [("w", ".tar"), ("w:gz", ".tar.gz"), ("zip", ".zip")])
def test_no_archive_is_unpacked(server: Server, before: set[Path], kind: str, suffix: str) -> None:
    main = server.app / "main.py"
    kept = main.read_bytes()
    data = archive_of(kind, "../../../app/main.py", b"raise SystemExit('taken over')\n")
    for query in ("?uncompress=true", "?uncompress=1", ""):
        response = server.call("PUT", f"/session/{query}", files={"files": (f"x{suffix}", data)})
        assert response.status_code == 400
        sentence(response)
    assert main.read_bytes() == kept
    assert server.call("POST", "/reload").status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/reload"),
        ("POST", f"/infer/wsi/{AUTOMATIC}?image=/etc/passwd"),
        ("POST", f"/infer/wsi_v2/{AUTOMATIC}?image=/etc/passwd"),
        ("DELETE", f"/model/{AUTOMATIC}"),
        ("GET", "/logs/"),
        ("GET", "/logs/gpu"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/static/favicon.ico"),
        ("GET", "/proxy"),
        ("GET", "/proxy/dicom/qido/studies"),
        ("POST", "/proxy/dicom/stow/studies"),
        ("GET", "/datastore/dataset?limit_cases=-5"),
        ("POST", "/train/"),
        ("POST", "/scoring/"),
        ("GET", "/auth/"),
        ("PUT", "/datastore/updatelabelinfo?label=us_0&tag=final"),
    ],
)
def test_what_nobody_needs_is_off(server: Server, method: str, path: str) -> None:
    response = server.call(method, path, json={} if "wsi/" in path else None)
    assert response.status_code in (404, 405)
    sentence(response)


@pytest.mark.parametrize(
    "path", ["%2e%2e", "%2e%2e/%2e%2e/app.py", "..%2f..%2f..%2fapp.py", "%00", "../../app.py", "a" * 3000]
)
def test_the_viewer_has_its_own_files_alone(server: Server, path: str) -> None:
    host = server.url.removeprefix("http://")
    status, answer = raw(server, f"GET /ohif/{path} HTTP/1.1\nHost: {host}\nConnection: close")
    assert status in (200, 404) and b"import" not in answer.split(b"\r\n\r\n", 1)[1][:2000]
    if status == 200:
        assert b"OHIF" in answer


def test_the_viewer_loads_nothing_from_elsewhere(server: Server) -> None:
    page = server.call("GET", "/ohif/")
    assert page.status_code == 200 and "OHIF" in page.text
    assert 'href="http' not in page.text and 'src="http' not in page.text and 'href="//' not in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy.replace("https:", "http")
    script = server.call("GET", "/ohif/app-config.js")
    assert script.status_code == 200 and "dicomweb" in script.text
    assert "http" not in server.call("GET", "/").text


def test_paths_on_the_disk_are_not_images(server: Server) -> None:
    """And nobody learns whether they exist."""
    outside = server.studies.parent / "outside" / SECRET
    for path in (
        str(outside),
        "/etc/passwd",
        "/nowhere/at/all.png",
        f"file://{outside}",
        "../outside/secret",
    ):
        asked = [
            server.post_infer(path),
            server.call("POST", f"/batch/infer/{AUTOMATIC}?run_sync=true", json={"images": [path]}),
            server.call("GET", "/datastore/image", params={"image": path}),
        ]
        for response in asked:
            assert response.status_code == 404
            assert sentence(response).startswith("there is no image '")
    for key in ("image", "image_path", "label", "bundle_path", "session"):
        response = server.post_infer("us_0", {key: str(outside)})
        if response.status_code == 200:  # a name of a label, which the models do not know
            assert key == "label"
        else:
            assert response.status_code == 400 and "not for clients" in sentence(response)


def test_links_do_not_lead_out(server: Server) -> None:
    known = server.call("GET", "/datastore/?output=all").json()["objects"]
    assert {"us_0", "us_1", "us_2", "inner"} <= set(known)
    for name in ("leads_out", "dangling", "record", "hidden", "a_folder", "a_pipe", "secret", "folder_out"):
        assert name not in known
        assert server.call("GET", "/datastore/image", params={"image": name}).status_code == 404
        assert server.post_infer(name).status_code == 404
    assert server.post_infer("inner").status_code == 200
    labels = {"label": ("x.png", as_png(np.zeros_like(picture(0))))}
    response = server.call("PUT", "/datastore/label?image=us_0&tag=tag_out", files=labels)
    assert response.status_code in (400, 404) and "link" in sentence(response)
    assert [path.name for path in (server.studies.parent / "outside").iterdir()] == [SECRET]


def test_a_link_that_appears_later(server: Server) -> None:
    path = server.studies / "us_2.png"
    kept = path.read_bytes()
    try:
        path.unlink()
        path.symlink_to(server.studies.parent / "outside" / SECRET)
        assert server.call("GET", "/datastore/image?image=us_2").status_code == 404
        assert server.post_infer("us_2").status_code == 404
        server.call("DELETE", "/datastore/image?id=us_2")
        assert (server.studies.parent / "outside" / SECRET).is_file()
    finally:
        path.unlink(missing_ok=True)
        path.write_bytes(kept)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_file_that_names_another(server: Server, before: set[Path], name: str) -> None:
    for response in sent_everywhere(server, name, ELSEWHERE[name]):
        assert response.status_code == 400, response.text
        sentence(response)


def sent_everywhere(server: Server, name: str, data: bytes) -> list[requests.Response]:
    """A file at each address that takes one."""
    return [
        server.post_infer("", file=(name, data)),
        server.call("PUT", "/datastore/image?image=sent", files={"file": (name, data)}),
        server.call("PUT", "/datastore/", files={"file": (name, data)}),
        server.call("PUT", "/datastore/label?image=us_0", files={"label": (name, data)}),
        server.call("PUT", "/session/", files={"files": (name, data)}),
    ]


def test_such_a_file_among_the_studies(server: Server) -> None:
    for name, data in {"detached.nrrd": ELSEWHERE["x.nrrd"], "detached2.mha": ELSEWHERE["x.mha"]}.items():
        (server.studies / name).write_bytes(data)
    server.call("PUT", "/datastore/image/info?image=us_0", data={"info": "{}"})
    for name in ("detached", "detached2"):
        for _ in range(100):
            response = server.post_infer(name)
            if response.status_code != 404:  # until the server has seen it
                break
        assert response.status_code == 400 and "another file" in sentence(response)
        (server.studies / f"{name}.nrrd").unlink(missing_ok=True)
        (server.studies / f"{name}.mha").unlink(missing_ok=True)


@pytest.mark.parametrize(
    "kind", ["png", "nii.gz", "nii.gz with extensions", "tif", "tif with pages", "nrrd", "mha", "gif", "dcm"]
)
def test_a_file_that_unfolds(server: Server, before: set[Path], tmp_path: Path, kind: str) -> None:
    data = {
        "png": lambda: png_that_unfolds(60_000),
        "nii.gz": lambda: as_nifti((30_000, 30_000, 9)),
        "nii.gz with extensions": lambda: as_nifti((80, 64), vox_offset=2**30),
        "tif": lambda: tiff_pages(),
        "tif with pages": lambda: tiff_pages(),
        "nrrd": lambda: nrrd().replace(b"80 64", b"80000 64000"),
        "mha": lambda: mha(size="80000 64000"),
        "gif": lambda: gif(60_000),
        "dcm": lambda: dicom(tmp_path, Rows=60_000, Columns=60_000),
    }[kind]()
    assert len(data) < 2**22
    peak = memory(server)
    for response in sent_everywhere(server, f"x.{kind.split()[0]}", data):
        assert response.status_code in (400, 413), response.text
        sentence(response)
    assert memory(server) - peak < 300


def test_dicom_whose_compression_hides_its_size(server: Server, tmp_path: Path) -> None:
    import pydicom
    from pydicom.encaps import encapsulate
    from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

    save_dicom(tmp_path / "x.dcm", picture(0))
    dataset = pydicom.dcmread(tmp_path / "x.dcm")
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "deflated.dcm")
    response = server.post_infer("", file=("x.dcm", (tmp_path / "deflated.dcm").read_bytes()))
    assert response.status_code == 400 and "deflated" in sentence(response)
    runs = bytes([129, 0]) * 2**22  # 8 MB for 512
    head = np.array([1, 64, *[0] * 14], "<u4").tobytes()
    dataset.file_meta.TransferSyntaxUID = RLELossless
    dataset.PixelData = encapsulate([head + runs])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "runs.dcm")
    peak = memory(server)
    response = server.post_infer("", file=("x.dcm", (tmp_path / "runs.dcm").read_bytes()))
    assert response.status_code == 400 and "more pixels than it states" in sentence(response)
    assert memory(server) - peak < 200


def test_lengths_of_runs() -> None:
    assert runs_fit(bytes([2, 1, 2, 3, 255, 9, 128]), 5)
    assert not runs_fit(bytes([2, 1, 2, 3, 255, 9]), 4)
    assert runs_fit(b"", 0)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n/a {(/tmp/x) (w) file} def\n"),
        ("x.png", b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"),
        ("x.html", b"<script>alert(1)</script>"),
        ("x.mha", b"GIPL" + bytes(400)),
        ("x.nrrd", b"ObjectType = Image\nElementDataFile = /etc/passwd\n\n"),
        ("x.nii", bytes(400)),
        ("x.dcm", bytes(400)),
        ("", b"text"),
        ("\u202ex.png", b"text"),
        ("../../x", b"text"),
    ],
)
def test_a_file_that_is_not_an_image(server: Server, before: set[Path], name: str, data: bytes) -> None:
    for response in sent_everywhere(server, name, data):
        assert response.status_code in (400, 422), response.text
        sentence(response)


def test_a_download_is_not_a_page(server: Server) -> None:
    response = server.call("GET", "/datastore/image?image=us_0")
    assert response.headers["content-disposition"].startswith("attachment")
    assert response.headers["content-type"] == "image/png"


def test_a_volume_still_passes(server: Server) -> None:
    """The checks let through what is as it should be."""
    volume = nib.Nifti1Image(np.stack([picture(0).T, picture(1).T], -1), np.eye(4))
    good = {
        "x.nii.gz": volume.to_bytes(),
        "x.mha": mha(),
        "x.nrrd": nrrd(),
        "X.PNG": as_png(picture(0)),
    }
    import gzip

    good["x.nii.gz"] = gzip.compress(good["x.nii.gz"])
    for name, data in good.items():
        response = server.post_infer("", {"slice": 0} if "nii" in name else {}, file=(name, data))
        assert response.status_code == 200, response.text
    assert json.loads(server.call("GET", "/datastore/").text)["total"] >= 4
    assert server.call("GET", f"/model/info/{INTERACTIVE}").status_code == 200
