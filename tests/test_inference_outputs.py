"""``--outputs`` of ``configs/inference.json``: which files come out, what is in them, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from PIL import Image
from skimage.segmentation import find_boundaries

from boxnet import BoxNetwork
from inference_workflow import finish, inference_workflow
from lmsfe_sam.errors import find_input_error
from lmsfe_sam.inference.writers.overlay import COLOURS, draw_uncertainty
from medical_files import save_dicom, ultrasound_region

NOISE = np.random.default_rng(0).integers(1, 256, (96, 128), np.uint8)
BOXES = ([10, 12, 50, 60], [60, 30, 120, 90])
ALL = [
    "mask",
    "overlay",
    "uncertainty",
    "dicom_seg",
    "dicom_seg_fractional",
    "dicom_sr",
    "coco",
    "geojson",
    "svg",
]

Infer = Callable[..., Path]


@pytest.fixture
def infer(bundle_root: Path, tmp_path: Path) -> Infer:
    """Run the config with the stand-in network, which segments the box."""

    def run(**keys: Any) -> Path:
        out = tmp_path / "out"
        stand_in = {"network": "$__import__('boxnet').BoxNetwork()", "image_size": BoxNetwork.image_size}
        finish(inference_workflow(bundle_root, tmp_path)(**stand_in, **keys))
        return out

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A DICOM file with a region and a name, a picture, and prompts for both."""
    path = tmp_path / "in"
    path.mkdir()
    region = ultrasound_region(0.02, 0.01)
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 20, 10
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 127, 95
    save_dicom(path / "scan.dcm", NOISE, PatientName="Doe^Jane", SequenceOfUltrasoundRegions=[region])
    Image.fromarray(NOISE).save(path / "photo.png")
    objects = [{"box": BOXES[0]}, {"box": BOXES[1], "category": "nerve"}]
    (tmp_path / "prompts.json").write_text(
        json.dumps({name: {"objects": objects} for name in ("scan.dcm", "photo.png")})
    )
    return path


@contextmanager
def refused(sentence: str) -> Iterator[None]:
    """MONAI wraps what a config raises."""
    with pytest.raises(Exception) as raised:
        yield
    assert sentence in str(find_input_error(raised.value))


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {"journal.jsonl"}


def test_all_outputs_of_a_folder(folder: Path, tmp_path: Path, infer: Infer) -> None:
    out = infer(input=str(folder), prompts=str(tmp_path / "prompts.json"), outputs=ALL, seed=0)
    assert files(out) == {
        "objects.csv", "coco.json", "dicom_sr/scan.dcm",
        "dicom_seg/scan.dcm", "dicom_seg_fractional/scan.dcm",
        *(f"{place.format(stem)}" for stem in ("scan", "photo") for place in (
            "masks/{}.png", "overlays/{}.png", "uncertainty/{}.png",
            "coco/{}.json", "contours/{}.geojson", "contours/{}.svg",
        )),
    }  # fmt: skip
    labels = np.asarray(Image.open(out / "masks" / "scan.png"))
    seg = hd.seg.segread(out / "dicom_seg" / "scan.dcm")
    instance = pydicom.dcmread(folder / "scan.dcm").SOPInstanceUID
    np.testing.assert_array_equal(
        seg.get_pixels_by_source_instance([instance], combine_segments=True)[0], labels
    )
    assert seg.PatientName == "Doe^Jane"
    assert [item.SegmentLabel for item in seg.SegmentSequence] == ["Lesion 1", "Nerve 2"]
    fractional = hd.seg.segread(out / "dicom_seg_fractional" / "scan.dcm").pixel_array
    np.testing.assert_array_equal(fractional[0] > 127, labels == 1)
    drawn = np.asarray(Image.open(out / "uncertainty" / "scan.png"))
    assert (drawn[find_boundaries(labels == 2, mode="inner")] == COLOURS[1]).all()
    content = json.loads((out / "coco.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["photo.png", "scan.dcm"]
    assert len(content["annotations"]) == 4
    for path in out.rglob("*"):
        if path.is_file() and path.suffix != ".dcm":
            assert b"Jane" not in path.read_bytes(), path


def test_deidentified_overlays_show_the_region_alone(folder: Path, tmp_path: Path, infer: Infer) -> None:
    prompts = tmp_path / "prompts.json"
    boxes = {"objects": [{"box": [30, 20, 60, 60]}]}
    prompts.write_text(json.dumps({"scan.dcm": boxes, "photo.png": boxes}))
    outputs = ["overlay", "dicom_seg"]
    out = infer(input=str(folder), prompts=str(prompts), deidentify=True, outputs=outputs)
    picture = np.asarray(Image.open(out / "overlays" / "scan.png"))
    assert not picture[:10].any() and not picture[:, :20].any()
    assert (picture[10:, 20:] > 0).mean() > 0.9
    assert (np.asarray(Image.open(out / "overlays" / "photo.png")) == 0).mean() > 0.5
    assert b"Jane" not in (out / "dicom_seg" / "scan.dcm").read_bytes()


def test_masks_as_dicom_segmentations(folder: Path, infer: Infer) -> None:
    out = infer(input=str(folder), output_ext=".dcm", category="nodule")
    assert {name for name in files(out) if name.startswith("masks")} == {"masks/photo.png", "masks/scan.dcm"}
    seg = hd.seg.segread(out / "masks" / "scan.dcm")
    assert [item.SegmentLabel for item in seg.SegmentSequence] == ["Nodule 1"]
    (folder / "scan.dcm").unlink()
    with refused("no DICOM file, and a DICOM segmentation belongs to one"):
        infer(input=str(folder / "photo.png"), output_ext=".dcm")


def test_coco_of_a_run_that_was_stopped_has_all_images(folder: Path, tmp_path: Path, infer: Infer) -> None:
    keys = {"input": str(folder), "outputs": ["coco"]}
    broken = folder / "photo.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:200])
    with refused("1 of 2 inputs were left out"):
        infer(**keys)
    broken.write_bytes(whole)
    out = infer(**keys)
    content = json.loads((out / "coco.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["photo.png", "scan.dcm"]


def test_unsure_pixels_are_tinted_and_sure_ones_are_not() -> None:
    picture = np.full((6, 6, 3), 100, np.uint8)
    labels = np.zeros((6, 6), np.uint8)
    labels[2:5, 2:5] = 1
    probabilities = np.zeros((1, 6, 6), np.uint8)
    probabilities[0, 2:5, 2:5] = 255
    probabilities[0, 0, :4] = 5, 6, 249, 250  # .02 is 5.1 and .98 is 249.9
    drawn = np.asarray(draw_uncertainty(picture, labels, probabilities)).astype(int)
    colour = np.array([230, 159, 0])
    np.testing.assert_array_equal(drawn[2, 2:5], np.tile(colour, (3, 1)))
    np.testing.assert_array_equal(drawn[0, 1:3], np.tile(np.rint(60 + 0.4 * colour), (2, 1)))
    for sure in (drawn[0, 0], drawn[0, 3], drawn[3, 3], drawn[5, 5]):
        np.testing.assert_array_equal(sure, 100)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"outputs": ["dicomseg"]}, "outputs is"),
        ({"outputs": ["mask", "mask"]}, "outputs is"),
        ({"category": "tumour"}, "category is 'tumour': give one of lesion,"),
        ({"outputs": ["dicom_seg_fractional"], "mode": "window"}, "whose masks have no probabilities"),
        ({"outputs": ["uncertainty"], "mode": "window"}, "leave uncertainty out of --outputs"),
    ],
)
def test_what_cannot_be_is_refused(folder: Path, infer: Infer, keys: dict[str, Any], sentence: str) -> None:
    with refused(sentence):
        infer(input=str(folder), **keys)
