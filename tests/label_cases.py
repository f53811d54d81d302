"""Requests to a MONAI Label server: images of several formats and prompts, with what they should give.

``python tests/label_cases.py`` starts a server, makes them all and prints the tables of
``docs/monai-label.md``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from PIL import Image

from label_server import INTERACTIVE, ROOT, Answer, read_answer, running
from lmsfe_sam import Predictor
from lmsfe_sam.data.phantoms.rendering import render_phantom
from lmsfe_sam.prompts.simulate import first_click, tight_box
from medical_files import save_dicom, ultrasound_region

SIZE = HEIGHT, WIDTH = 150, 200
SLICES = 5
PICTURE, PHOTO, PLANE, FLIPPED, TURNED, SCAN = "benign (1)", "photo", "plane", "flipped", "turned", "scan"
VOLUME, FILM = "volume", "film"

AFFINES = {
    PLANE: np.diag([-0.3, -0.2, 1.0, 1.0]),
    FLIPPED: np.array([[0.3, 0, 0, -7], [0, -0.2, 0, 5], [0, 0, -1, 2], [0, 0, 0, 1.0]]),
    TURNED: np.array([[0, 0.2, 0, 3], [0.3 * 0.8, 0, 0.6, -4], [-0.3 * 0.6, 0, 0.8, 9], [0, 0, 0, 1.0]]),
    VOLUME: np.diag([0.3, -0.2, 1.5, 1.0]),
}
AFFINES[SCAN] = AFFINES[FILM] = np.diag([-0.3, -0.2, 1.0, 1.0])


def phantom(number: int) -> tuple[np.ndarray, np.ndarray]:
    image, mask = render_phantom(number, SIZE)
    return image, mask.astype(bool)


PHANTOMS = [phantom(number) for number in range(SLICES)]


def write_studies(folder: Path) -> Path:
    """Write one image of each kind; all show phantom 0 but slice k of a volume, which shows phantom k."""
    folder.mkdir(parents=True, exist_ok=True)
    grey = PHANTOMS[0][0]
    stack = np.stack([image for image, _ in PHANTOMS])
    Image.fromarray(grey).save(folder / f"{PICTURE}.png")
    Image.fromarray(np.dstack([grey] * 3)).save(folder / f"{PHOTO}.jpg", quality=100, subsampling=0)
    nib.save(nib.Nifti1Image(grey.T, AFFINES[PLANE]), folder / f"{PLANE}.nii")
    nib.save(nib.Nifti1Image(grey.T[..., None], AFFINES[FLIPPED]), folder / f"{FLIPPED}.nii.gz")
    nib.save(nib.Nifti1Image(grey.T[..., None], AFFINES[TURNED]), folder / f"{TURNED}.nii.gz")
    nib.save(nib.Nifti1Image(stack.transpose(2, 1, 0), AFFINES[VOLUME]), folder / f"{VOLUME}.nii.gz")
    region = [ultrasound_region(0.03, 0.02)]
    save_dicom(folder / f"{SCAN}.dcm", grey, SequenceOfUltrasoundRegions=region)
    save_dicom(folder / f"{FILM}.dcm", stack, frames=SLICES, SequenceOfUltrasoundRegions=region)
    return folder


class Prompt(NamedTuple):
    """What a client sends, and the same for `Predictor.predict`."""

    params: dict[str, Any]
    predict: dict[str, Any]


def prompts_on(number: int) -> dict[str, Prompt]:
    """Box, clicks, both and none for a phantom's lesion."""
    mask = PHANTOMS[number][1]
    box = [round(float(side)) for side in tight_box(mask)]
    inside, outside = [int(place) for place in first_click(mask)], [4, 6]
    clicks = {"points": [inside, outside], "labels": [1, 0]}
    sent = {"foreground": [inside], "background": [outside]}
    return {
        "box": Prompt({"roi": box}, {"box": box}),
        "clicks": Prompt(sent, clicks),
        "box and clicks": Prompt({"roi": box, **sent}, {"box": box, **clicks}),
        "none": Prompt({}, {}),
    }


BOX = prompts_on(0)["box"].params["roi"]


class Case(NamedTuple):
    """A request that is answered with a label map.

    Attributes:
        number: of the slice that is segmented, and of the phantom on it.
    """

    name: str
    image: str
    params: dict[str, Any]
    predict: dict[str, Any]
    number: int = 0


def good_cases() -> list[Case]:
    images = {PICTURE: "PNG", PHOTO: "JPEG", PLANE: "NIfTI 2-D", SCAN: "DICOM"}
    cases = [
        Case(f"{form}, {name}", image, *prompt)
        for image, form in images.items()
        for name, prompt in prompts_on(0).items()
    ]
    x0, y0, x1, y1 = BOX
    at = {"predict": {"box": BOX}}
    cases += [
        Case("NIfTI with a flipped affine, box", FLIPPED, {"roi": BOX}, **at),
        Case("NIfTI with a turned affine, box", TURNED, {"roi": BOX}, **at),
        Case("roi as CVAT's two corners", PICTURE, {"roi": [[x0, y0], [x1, y1]]}, **at),
        Case("roi from right to left", PICTURE, {"roi": [x1, y1, x0, y0]}, **at),
        Case("roi as 3D Slicer's i, j, k", FLIPPED, {"roi": [x0, x1, y0, y1, 0, 0]}, **at),
        Case("roi as 3D Slicer's, unsorted", FLIPPED, {"roi": [x1, x0, y1, y0, 0, 0]}, **at),
        Case(
            "roi of 3D Slicer over the border",
            PLANE,
            {"roi": [-30, x1, -9, y1, -2, 2]},
            {"box": [0, 0, x1, y1]},
        ),
        Case("clicks with k", SCAN, {"foreground": [[60, 70, 0]]}, {"points": [[60, 70]]}),
        Case("options as clients send them", PICTURE, {"roi": BOX, "slice": -1, "device": "cpu"}, **at),
    ]
    for image, form in {VOLUME: "NIfTI", FILM: "DICOM"}.items():
        for name, prompt in prompts_on(3).items():
            cases.append(
                Case(
                    f"{form} of 5 slices, slice 3, {name}",
                    image,
                    {**prompt.params, "slice": 3},
                    prompt.predict,
                    3,
                )
            )
    both = prompts_on(2)["clicks"]
    (inside,), (outside,) = both.params["foreground"], both.params["background"]
    x0, y0, x1, y1 = prompts_on(1)["box"].params["roi"]
    cases += [
        Case(
            "slice from the last click",
            VOLUME,
            {"foreground": [[5, 5, 0], [*inside, 2]], "background": [[*outside, 2], [9, 9, 4]]},
            both.predict,
            2,
        ),
        Case(
            "slice from 3D Slicer's roi",
            VOLUME,
            {"roi": [x1, x0, y0, y1, 2, 0]},
            {"box": [x0, y0, x1, y1]},
            1,
        ),
    ]
    return cases


def expected(case: Case, predictor: Predictor) -> np.ndarray:
    """What `Predictor` makes of the same prompt, (H, W) bool."""
    predictor.set_image(PHANTOMS[case.number][0])
    return predictor.predict(**case.predict)[0][0]


def placed(case: Case, answer: Answer) -> np.ndarray:
    """The label map's part that was segmented, as rows and columns; all else must be empty and in place."""
    labels = answer.labels
    if case.image in (PICTURE, PHOTO):
        assert labels.shape == SIZE
        return labels
    slices = SLICES if case.image in (VOLUME, FILM) else 1
    assert labels.shape == (WIDTH, HEIGHT, slices)
    np.testing.assert_allclose(answer.affine, AFFINES[case.image], atol=1e-5)
    assert not np.delete(labels, case.number, axis=2).any()
    assert answer.params["slice"] == case.number
    return labels[:, :, case.number].T


class Bad(NamedTuple):
    """A request that cannot be met.

    Attributes:
        words: that its sentence has.
    """

    name: str
    status: int
    words: str
    image: str = PICTURE
    params: Any = None
    query: dict[str, Any] = {}  # noqa: RUF012 - never written to
    model: str = INTERACTIVE


def bad_cases() -> list[Bad]:
    elsewhere = {"slice": 1, "foreground": [[60, 70, 3]]}
    text, cut = b"no image at all\n", b"\x1f\x8b\x08\x00\x00"
    return [
        Bad("a model that there is not", 404, "there is no model 'vista'", model="vista"),
        Bad("an image that there is not", 404, "there is no image 'us_9'", image="us_9"),
        Bad("no image", 400, "there is no image", image=""),
        Bad("a session that there is not", 404, "no session", image="", query={"session_id": "none"}),
        Bad(
            "a session's name with folders",
            400,
            "not a plain name",
            image="",
            query={"session_id": "../../x"},
        ),
        Bad("a text named .png", 400, "'x.png' cannot be read", "", query={"file": ("x.png", text)}),
        Bad("a text named .dcm", 400, "'x.dcm'", "", query={"file": ("x.dcm", text)}),
        Bad("a NIfTI cut short", 400, "'x.nii.gz' cannot be read", "", query={"file": ("x.nii.gz", cut)}),
        Bad("an empty file", 400, "'x.png'", "", query={"file": ("x.png", b"")}),
        Bad("a PDF", 400, "no known format", "", query={"file": ("x.pdf", text)}),
        Bad("a click outside", 400, "outside", params={"foreground": [[WIDTH + 40, 20]]}),
        Bad("a box outside", 400, "outside", params={"roi": [WIDTH, 10, WIDTH + 40, 90]}),
        Bad("a roi of 3D Slicer beside the image", 400, "outside", PLANE, {"roi": [300, 400, 9, 90, 0, 0]}),
        Bad("a flat box", 400, "no area", params={"roi": [10, 10, 10, 90]}),
        Bad("a roi of five numbers", 400, "give [x0, y0, x1, y1]", params={"roi": [1, 2, 3, 4, 5]}),
        Bad("a click that is not a number", 400, "in pixels", params='{"foreground": [[NaN, 4]]}'),
        Bad("a click of one number", 400, "in pixels", params={"foreground": [[4]]}),
        Bad("clicks that are a text", 400, "a list of clicks", params={"background": "60,45"}),
        Bad("params that are not JSON", 400, "not JSON", params="{foreground"),
        Bad("params that are a list", 400, "not a JSON object", params="[1]"),
        Bad("a volume without a slice", 400, "slice 0 to slice 4", VOLUME),
        Bad("a slice that there is not", 400, "5 slices", VOLUME, {"slice": 9}),
        Bad("slice 1 of a picture", 400, "one slice alone", params={"slice": 1}),
        Bad("a slice that is a text", 400, "a whole number", VOLUME, {"slice": "two"}),
        Bad("clicks on other slices", 400, "none of the prompts", VOLUME, elsewhere),
        Bad("an unknown format to answer in", 400, "result_extension", params={"result_extension": ".exe"}),
        Bad("an unknown type of number", 400, "result_dtype", params={"result_dtype": "bits"}),
        Bad("a device that there is not", 400, "cuda:7", params={"device": "cuda:7"}),
        Bad("weights in another folder", 404, "file of weights", params={"model_filename": "../../model.pt"}),
        Bad("a parameter of the pipeline", 400, "skip_writer", params={"skip_writer": True}),
        Bad("DICOM-SEG of a picture", 400, "is no DICOM file", query={"output": "dicom_seg"}),
        Bad("the same by its suffix", 400, "is no DICOM file", params={"result_extension": ".dcm"}),
        Bad("an unknown output", 422, "output", query={"output": "pdf"}),
    ]


def main() -> None:
    """Print all requests, what came back, and how far that is from what `Predictor` makes of them."""
    predictor = Predictor.from_bundle(ROOT / "bundle")
    with tempfile.TemporaryDirectory() as name:
        studies = write_studies(Path(name) / "studies")
        with running(studies, Path(name) / "app") as server:
            print("| request | status | pixels other than Predictor's |\n|---|---|---|")
            for case in good_cases():
                response = server.post_infer(case.image, case.params)
                labels = placed(case, read_answer(response))
                wrong = int(((labels == 1) != expected(case, predictor)).sum())
                print(f"| {case.name} | {response.status_code} | {wrong} |")
            print("\n| bad request | status | answer |\n|---|---|---|")
            for bad in bad_cases():
                response = server.post_infer(bad.image, bad.params, model=bad.model, **bad.query)
                detail = response.json()["detail"]
                words = detail if isinstance(detail, str) else detail[0]["msg"]
                print(f"| {bad.name} | {response.status_code} | {words} |")


if __name__ == "__main__":
    main()
