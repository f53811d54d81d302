"""MONAI Label over its real HTTP interface: one server, with the shipped weights."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image

if find_spec("monailabel") is None:
    pytest.skip("MONAI Label is not installed: python -m lmsfe_sam.label.install", allow_module_level=True)

import label_cases as cases
from label_cases import PHANTOMS, PICTURE, PLANE, SCAN, SIZE, VOLUME, good_cases, placed, prompts_on
from label_server import AUTOMATIC, INTERACTIVE, Server, read_answer, running
from lmsfe_sam import Predictor
from lmsfe_sam.label.scoring import disagreement, iou_uncertainty

GOOD, BAD = good_cases(), cases.bad_cases()
MAX_BODY = 130
TOTAL = 8
"""Images among the studies."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("label")
    studies = cases.write_studies(folder / "studies")
    with running(studies, folder / "app", "--max_body", str(MAX_BODY)) as started:
        yield started


@pytest.fixture(scope="module")
def predictor(bundle_root: Path) -> Predictor:
    return Predictor.from_bundle(bundle_root)


def assert_alike(labels: np.ndarray, mask: np.ndarray) -> None:
    """Alike but for what floating-point numbers do on another thread count."""
    assert labels.shape == mask.shape and set(np.unique(labels)) <= {0, 1}
    assert np.mean((labels == 1) != mask) < 2e-4


def assert_works(server: Server, predictor: Predictor) -> None:
    assert_alike(
        placed(GOOD[0], server.infer(GOOD[0].image, GOOD[0].params)), cases.expected(GOOD[0], predictor)
    )


def test_info(server: Server) -> None:
    info = server.call("GET", "/info/").json()
    kinds = {name: model["type"] for name, model in info["models"].items()}
    assert kinds == {AUTOMATIC: "segmentation", INTERACTIVE: "deepgrow"}
    for model in info["models"].values():
        assert model["labels"] == {"lesion": 1}
        assert model["dimension"] == 2
        assert model["config"]["slice"] == -1
    assert info["labels"] == ["lesion"]
    assert list(info["trainers"]) == [AUTOMATIC, INTERACTIVE]
    assert list(info["scoring"]) == ["predicted_iou", "disagreement"]
    assert {"least_sure_by_predicted_iou", "least_sure_by_disagreement"} < set(info["strategies"])
    assert info["datastore"]["total"] == TOTAL


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_the_mask_is_where_the_predictor_puts_it(
    server: Server, predictor: Predictor, case: cases.Case
) -> None:
    answer = server.infer(case.image, case.params)
    mask = cases.expected(case, predictor)
    assert_alike(placed(case, answer), mask)
    assert answer.params["label_names"] == {"lesion": 1}
    assert answer.params["area_px"] == pytest.approx(mask.sum(), abs=8)
    if (
        case.predict.get("box") == cases.prompts_on(case.number)["box"].predict["box"]
    ):  # not only the same as in Python, but on the lesion
        lesion = PHANTOMS[case.number][1]
        assert 2 * (mask & lesion).sum() / (mask.sum() + lesion.sum()) > 0.6


def test_the_automatic_model_takes_no_prompt(server: Server, predictor: Predictor) -> None:
    case = next(case for case in GOOD if case.predict == {})
    answer = server.infer(case.image, model=AUTOMATIC)
    assert_alike(placed(case, answer), cases.expected(case, predictor))


def test_an_upload_as_cvat_sends_it(server: Server, predictor: Predictor, tmp_path: Path) -> None:
    """With MONAI Label's own client, which its CVAT functions use."""
    from monailabel.client import MONAILabelClient

    Image.fromarray(PHANTOMS[1][0]).save(tmp_path / "frame.png")
    box = cases.prompts_on(1)["box"].params["roi"]
    params = {"output": "mask", "foreground": [], "background": [], "roi": box}
    client = MONAILabelClient(server.url, str(tmp_path))
    path, answer = client.infer(INTERACTIVE, "", params, file=str(tmp_path / "frame.png"))
    predictor.set_image(PHANTOMS[1][0])
    assert_alike(np.asarray(Image.open(path)), predictor.predict(box=box)[0][0])
    assert answer["object"] == 1


@pytest.mark.parametrize(("image", "number"), [(SCAN, 0), (cases.FILM, 2)])
def test_dicom_studies_are_answered_by_dicom_segmentations(
    server: Server, predictor: Predictor, tmp_path: Path, image: str, number: int
) -> None:
    box = prompts_on(number)["box"]
    params = {"roi": box.params["roi"], "slice": number}
    predictor.set_image(PHANTOMS[number][0])
    expected = predictor.predict(**box.predict)[0][0]
    path = server.studies / f"{image}.dcm"
    for name, file in ((image, None), ("", path.open("rb"))):
        sent = {"file": file} if file else {}
        response = server.post_infer(name, params, output="dicom_seg", **sent)
        assert response.status_code == 200, response.text[:500]
        assert response.headers["content-type"] == "application/dicom"
        (tmp_path / "seg.dcm").write_bytes(response.content)
        seg = hd.seg.segread(tmp_path / "seg.dcm")
        assert_alike(seg.pixel_array.reshape(SIZE), expected)
        referenced = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]
        assert referenced.ReferencedSOPInstanceUID == pydicom.dcmread(path).SOPInstanceUID
        group = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
        assert group.get("ReferencedFrameNumber", 1) == number + 1


def test_a_response_in_ohifs_form(server: Server, predictor: Predictor) -> None:
    case = next(case for case in GOOD if case.image == VOLUME)
    form = {"result_extension": ".nrrd", "result_dtype": "uint16", "result_compress": False}
    response = server.post_infer(VOLUME, {**case.params, **form, "restore_label_idx": False})
    assert response.status_code == 200
    header, _, data = response.content.split(b"NRRD", 1)[1].partition(b"\n\n")
    for line in (b"sizes: 200 150 5", b"encoding: raw", b"type: unsigned short"):
        assert line in header
    count = 200 * 150 * 5
    labels = np.frombuffer(data[: 2 * count], np.uint16).reshape(5, *SIZE)
    assert_alike(labels[case.number], cases.expected(case, predictor))


def test_a_session_of_3d_slicer(server: Server, predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "upload.nii.gz"
    nib.save(nib.Nifti1Image(PHANTOMS[2][0].T[..., None], cases.AFFINES[cases.FLIPPED]), path)
    with path.open("rb") as file:
        created = server.call("PUT", "/session/", files={"files": file}).json()
    session = created["session_id"]
    prompt = cases.prompts_on(2)["clicks"]
    (inside,), (outside,) = prompt.params["foreground"], prompt.params["background"]
    params = {"foreground": [[*inside, 0]], "background": [[*outside, 0]], "label": "lesion"}
    answer = server.infer("", params, session_id=session)
    predictor.set_image(PHANTOMS[2][0])
    assert_alike(answer.labels[:, :, 0].T, predictor.predict(**prompt.predict)[0][0])
    np.testing.assert_allclose(answer.affine, cases.AFFINES[cases.FLIPPED], atol=1e-5)
    assert server.call("DELETE", f"/session/{session}").ok


def test_a_changed_image_is_encoded_again(server: Server, predictor: Predictor) -> None:
    path = server.studies / f"{PICTURE}.png"
    kept = path.read_bytes()
    params = {"roi": cases.BOX}
    server.infer(PICTURE, params)
    try:
        Image.fromarray(PHANTOMS[4][0]).save(path)
        answer = server.infer(PICTURE, params)
    finally:
        path.write_bytes(kept)
    predictor.set_image(PHANTOMS[4][0])
    assert_alike(answer.labels, predictor.predict(box=cases.BOX)[0][0])
    assert_works(server, predictor)


def put_label(server: Server, image: str, path: Path, tag: str = "final") -> dict:
    with path.open("rb") as file:
        response = server.call(
            "PUT", "/datastore/label", params={"image": image, "tag": tag}, files={"label": file}
        )
    assert response.status_code == 200, response.text
    return response.json()


def drop_labels(server: Server, *images: str) -> None:
    for image in images:
        assert server.call("DELETE", "/datastore/label", params={"id": image, "tag": "final"}).ok
    settle(server)


def settle(server: Server) -> None:
    """Wait until the server has seen that its folder is as in the beginning: a watcher tells it."""
    end = time.monotonic() + 20
    while counts(server) != (TOTAL, 0) and time.monotonic() < end:
        time.sleep(0.2)
    assert counts(server) == (TOTAL, 0)


def counts(server: Server) -> tuple[int, int]:
    """How many images there are, and how many have a label."""
    datastore = server.call("GET", "/info/").json()["datastore"]
    return datastore["total"], datastore["completed"]


def mask_file(folder: Path, image: str) -> Path:
    mask = PHANTOMS[0][1].astype(np.uint8)
    if image == PICTURE:
        path = folder / "mask.png"
        Image.fromarray(mask).save(path)
        return path
    path = folder / f"{image}.nii.gz"
    shape = nib.Nifti1Image(mask.T if image == PLANE else mask.T[..., None], cases.AFFINES[image])
    nib.save(shape, path)
    return path


def test_a_label_is_saved_and_comes_back(server: Server, tmp_path: Path) -> None:
    for image in (PICTURE, PLANE, SCAN):
        path = mask_file(tmp_path, image)
        assert put_label(server, image, path)["label"] == image
        back = server.call("GET", "/datastore/label", params={"label": image, "tag": "final"})
        assert back.content == path.read_bytes()
    assert counts(server) == (TOTAL, 3)
    drop_labels(server, PICTURE, PLANE, SCAN)


@pytest.mark.parametrize(
    ("image", "name", "tag", "status", "words"),
    [
        ("us_9", "mask.png", "final", 404, "there is no image"),
        (PICTURE, "text.png", "final", 400, "'text.png' cannot be read"),
        (PICTURE, "small.png", "final", 400, "save it in the image's geometry"),
        (PICTURE, "mask.png", "../final", 400, "not a plain name"),
        (PICTURE, "raw.bin", "final", 400, "DICOMweb"),
    ],
)
def test_a_label_that_is_none(
    server: Server, tmp_path: Path, image: str, name: str, tag: str, status: int, words: str
) -> None:
    mask = PHANTOMS[0][1].astype(np.uint8)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(mask[:90]).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no mask")
    (tmp_path / "raw.bin").write_bytes(mask.tobytes())
    with (tmp_path / name).open("rb") as file:
        response = server.call(
            "PUT", "/datastore/label", params={"image": image, "tag": tag}, files={"label": file}
        )
    assert response.status_code == status
    assert words in response.json()["detail"]
    assert counts(server) == (TOTAL, 0)


def test_an_image_is_added(server: Server, predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "added.png"
    Image.fromarray(PHANTOMS[3][0]).save(path)
    for name, status in (("../added", 400), ("added", 200)):
        with path.open("rb") as file:
            response = server.call("PUT", "/datastore/", params={"image": name}, files={"file": file})
        assert response.status_code == status, response.text
    predictor.set_image(PHANTOMS[3][0])
    assert_alike(server.infer("added").labels, predictor.predict()[0][0])
    assert server.call("DELETE", "/datastore/", params={"id": "added"}).ok
    settle(server)


@pytest.mark.parametrize(
    ("method", "measure"), [("predicted_iou", iou_uncertainty), ("disagreement", disagreement)]
)
def test_the_least_certain_image_comes_first(
    server: Server, predictor: Predictor, method: str, measure
) -> None:
    result = server.call("POST", f"/scoring/{method}?run_sync=true", json={})
    assert result.status_code == 200, result.text
    assert result.json()["executed"] == result.json()["total"] == TOTAL
    scores = []
    for image, _ in PHANTOMS:
        predictor.set_image(image)
        scores.append(measure(predictor))
    known = dict.fromkeys((PICTURE, PLANE, SCAN, cases.FLIPPED), scores[0])
    known[VOLUME] = known[cases.FILM] = max(scores)
    for image, score in known.items():
        info = server.call("GET", "/datastore/image/info", params={"image": image}).json()
        assert info[method] == pytest.approx(score, abs=2e-3)
    sample = server.call("POST", f"/activelearning/least_sure_by_{method}", json={}).json()
    assert sample["score"] >= max(scores) - 2e-3
    assert Path(sample["path"]).is_file()
    after = server.call("POST", f"/activelearning/least_sure_by_{method}", json={}).json()
    assert after["id"] != sample["id"]  # another annotator gets another one


def test_an_epoch_of_training(server: Server, tmp_path: Path) -> None:
    address = f"/train/{AUTOMATIC}?run_sync=true"
    options = {"max_epochs": 1, "batch_size": 2, "device": "cpu"}
    before = server.infer(PICTURE, model=AUTOMATIC)
    refused = server.call("POST", address, json=options)
    assert refused.status_code == 400 and "no label to train on" in refused.json()["detail"]
    labelled = (PICTURE, PLANE, SCAN)
    for image in labelled:
        put_label(server, image, mask_file(tmp_path, image))
    wrong = server.call("POST", address, json={**options, "max_epochs": 0})
    assert wrong.status_code == 400 and "max_epochs" in wrong.json()["detail"]
    response = server.call("POST", address, json=options)
    assert response.status_code == 200, response.text
    assert response.json()["labels"] == 3
    models = server.app / "model" / AUTOMATIC / "models"
    for name in ("model", "before"):  # what is served is what was trained, at once
        trained = Predictor.from_checkpoint(models / f"{name}.pt")
        trained.set_image(PHANTOMS[0][0])
        mask = trained.predict()[0][0]
        answer = server.infer(PICTURE, {"model_filename": f"{name}.pt"}, model=AUTOMATIC)
        assert_alike(answer.labels, mask)
    np.testing.assert_array_equal(answer.labels, before.labels)
    history = next((server.app / "model" / AUTOMATIC / "runs").glob("*/history.csv"))
    assert len(history.read_text().splitlines()) == 2
    drop_labels(server, *labelled)


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_bad_request_gets_a_sentence(server: Server, bad: cases.Bad) -> None:
    response = server.post_infer(bad.image, bad.params, model=bad.model, **bad.query)
    assert response.status_code == bad.status, response.text
    assert bad.words in json.dumps(response.json()["detail"], ensure_ascii=False)
    assert str(server.studies) not in response.text and "Traceback" not in response.text


@pytest.mark.parametrize(
    "path", ["/train/vista", "/scoring/vista", "/activelearning/vista", "/scoring/vista?run_sync=true"]
)
def test_unknown_names_elsewhere(server: Server, path: str) -> None:
    response = server.call("POST", path, json={})
    assert response.status_code == 404
    assert "there is no" in response.json()["detail"]


@pytest.mark.parametrize("stated", [True, False], ids=["stated length", "chunks"])
def test_a_body_of_one_gigabyte(server: Server, predictor: Predictor, stated: bool) -> None:
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=120)
    chunk, count = bytes(2**20), 2**10
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    if stated:
        headers["Content-Length"] = str(len(chunk) * count)
    peak = memory(server)
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.png"\r\n\r\n'
    body = (part + chunk[len(part) :] if number == 0 else chunk for number in range(count))
    connection.request("POST", f"/infer/{INTERACTIVE}", body, headers, encode_chunked=not stated)
    response = connection.getresponse()
    assert response.status == 413
    assert f"larger than {MAX_BODY} MB" in json.loads(response.read())["detail"]
    assert memory(server) - peak < 2 * MAX_BODY
    assert_works(server, predictor)


def memory(server: Server) -> float:
    """The most that the server has used so far, in MB."""
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM")


def test_all_images_in_one_batch(server: Server) -> None:
    response = server.call("POST", f"/batch/infer/{AUTOMATIC}?run_sync=true", json={})
    assert response.status_code == 200, response.text
    answers = response.json()
    for image in (PICTURE, PLANE, SCAN):
        assert answers[image]["params"]["area_px"] > 0
        saved = server.call("GET", "/datastore/label", params={"label": image, "tag": "original"})
        assert saved.status_code == 200, saved.text
    for image in (VOLUME, cases.FILM):  # nobody said which slice
        assert "choose one with slice" in answers[image]["error"]


def test_a_damaged_file_among_the_studies(server: Server, predictor: Predictor) -> None:
    path = server.studies / f"{PICTURE}.png"
    kept = path.read_bytes()
    try:
        path.write_bytes(kept[: len(kept) // 2])
        response = server.post_infer(PICTURE)
        assert response.status_code == 400 and "'benign (1).png' cannot be read" in response.json()["detail"]
    finally:
        path.write_bytes(kept)
    assert_works(server, predictor)


def test_the_log_has_no_crash(server: Server) -> None:
    """Stays last: everything above was answered by a sentence, not by an error nobody foresaw."""
    assert "the server failed with" not in server.log.read_text()
    assert read_answer(server.post_infer(PICTURE)).params["object"] == 1
