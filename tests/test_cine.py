"""``--frames`` of inference: DICOM loops, videos, volumes and numbered folders, their prompts and results."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate

from brightnet import BrightNetwork
from inference_workflow import finish, inference_workflow
from lmsfe_sam.errors import find_input_error
from lmsfe_sam.images.frames import choose_frames, numbered_pictures
from medical_files import save_dicom

SIZE, SIDE, COUNT = (64, 96), 16, 7
LEFTS = [10 + 4 * k for k in range(COUNT)]
LOOP = np.zeros((COUNT, *SIZE), np.uint8)
for _frame, _left in enumerate(LEFTS):
    LOOP[_frame, 20 : 20 + SIDE, _left : _left + SIDE] = 255

Infer = Callable[..., Path]


@pytest.fixture
def infer(bundle_root: Path, tmp_path: Path) -> Infer:
    """Run the config with a stand-in network that follows what is bright."""

    def run(**keys: Any) -> Path:
        out = tmp_path / "out"
        stand_in = {
            "network": "$__import__('brightnet').BrightNetwork()",
            "image_size": BrightNetwork.image_size,
        }
        finish(inference_workflow(bundle_root, tmp_path)(**stand_in, **keys))
        return out

    return run


@contextmanager
def refused(sentence: str) -> Iterator[None]:
    """MONAI wraps what a config raises."""
    with pytest.raises(Exception) as raised:
        yield
    assert sentence in str(find_input_error(raised.value))


@pytest.fixture
def prompts(tmp_path: Path) -> Callable[..., str]:
    """Write a prompts file: key and frame whose square is meant."""

    def write(**frames: int) -> str:
        path = tmp_path / "prompts.json"
        content = {
            key: {"objects": [{"box": [LEFTS[frame], 20, LEFTS[frame] + SIDE, 20 + SIDE]}]}
            for key, frame in frames.items()
        }
        path.write_text(json.dumps(content))
        return str(path)

    return write


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_followed(out: Path, stem: str, frames: range = range(COUNT)) -> None:
    for frame in frames:
        found = np.asarray(Image.open(out / "masks" / f"{stem}_f{frame}.png")) > 0
        assert (found != (LOOP[frame] > 0)).sum() <= 40, frame


def test_a_dicom_loop(tmp_path: Path, infer: Infer, prompts: Callable[..., str]) -> None:
    path = save_dicom(tmp_path / "loop.dcm", LOOP, COUNT, PixelSpacing=[0.1, 0.1])
    out = infer(
        input=str(path), frames="all", prompts=prompts(**{"loop.dcm#3": 3}), seed=0,
        outputs=["mask", "overlay", "dicom_seg", "dicom_sr", "coco", "dicom_seg_fractional"],
    )  # fmt: skip
    assert_followed(out, "loop")
    rows = table(out / "objects.csv")
    assert [row["frame"] for row in rows] == [str(k) for k in range(COUNT)]
    assert {row["image"] for row in rows} == {"loop.dcm"}
    over_time = table(out / "cine" / "loop.csv")
    assert [row["state"] for row in over_time] == ["carried"] * 3 + ["prompted"] + ["carried"] * 3
    assert float(over_time[0]["long_axis"]) == pytest.approx(1.6 * np.sqrt(2), rel=0.1)
    assert over_time[0]["unit"] == "mm"
    assert (out / "cine" / "loop.svg").read_text().startswith("<svg")
    with Image.open(out / "cine" / "loop.webp") as animation:
        assert animation.n_frames == COUNT
    seg = hd.seg.segread(out / "dicom_seg" / "loop.dcm")
    instance = pydicom.dcmread(path).SOPInstanceUID
    labels = seg.get_pixels_by_source_frame(instance, [1, 7], combine_segments=True)
    np.testing.assert_array_equal(labels[1] > 0, np.asarray(Image.open(out / "masks" / "loop_f6.png")) > 0)
    groups = hd.sr.srread(out / "dicom_sr" / "loop.dcm").content.get_planar_roi_measurement_groups()
    assert len(groups) == COUNT
    content = json.loads((out / "coco.json").read_text())
    assert [image["frame"] for image in content["images"]] == list(range(COUNT))


def test_a_numbered_folder_in_the_order_of_its_numbers(
    tmp_path: Path, infer: Infer, prompts: Callable[..., str]
) -> None:
    folder = tmp_path / "numbered"
    folder.mkdir()
    for frame in range(COUNT):
        Image.fromarray(LOOP[frame]).save(folder / f"img_{frame + 5}.png")
    assert [path.name for path in numbered_pictures(folder)] == [f"img_{k + 5}.png" for k in range(COUNT)]
    out = infer(input=str(folder), frames="1:6", prompts=prompts(**{"img_10.png": 5}))
    assert_followed(out, "numbered", range(1, 6))
    assert not (out / "masks" / "numbered_f0.png").exists()
    assert {row["image"] for row in table(out / "objects.csv")} == {"numbered"}


def encode(target: Any, codec: str, form: str | None = None) -> None:
    """Write the loop as a video."""
    av = pytest.importorskip("av")
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    with av.open(target, "w", format=form) as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = *SIZE, "yuv420p", 4_000_000
        for picture in LOOP:
            frame = av.VideoFrame.from_ndarray(np.dstack([picture] * 3), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_a_video(tmp_path: Path, infer: Infer, prompts: Callable[..., str]) -> None:
    path = tmp_path / "loop.mp4"
    encode(str(path), "mpeg4")
    out = infer(input=str(path), frames="all", prompts=prompts(**{"loop.mp4#4": 4}))
    assert_followed(out, "loop")
    with refused("is a video: say which frames"):
        infer(input=str(path))
    with refused(f"'{path}' has 6144 pixels, more than 100"):
        infer(input=str(path), frames="all", max_pixels=100)


@pytest.mark.parametrize("form", ["mp4", "h264"])
def test_a_video_within_dicom(tmp_path: Path, infer: Infer, prompts: Callable[..., str], form: str) -> None:
    content = io.BytesIO()
    encode(content, "libx264", form)
    path = save_dicom(tmp_path / "loop.dcm", LOOP, COUNT, PixelSpacing=[0.1, 0.1])
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.MPEG4HP41
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "YBR_PARTIAL_420"
    dataset.PlanarConfiguration = 0
    dataset.PixelData = encapsulate([content.getvalue()], has_bot=False)
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    out = infer(input=str(path), frames="all", prompts=prompts(**{"loop.dcm#4": 4}))
    assert_followed(out, "loop")
    assert {row["spacing_source"] for row in table(out / "objects.csv")} == {"pixel_spacing"}
    with refused("has 6144 pixels, more than 100"):
        infer(input=str(path), frames="all", max_pixels=100)


def test_a_volume_has_its_frames_and_the_whole(tmp_path: Path, infer: Infer) -> None:
    affine = np.diag([-0.3, 0.2, 1.5, 1.0])
    path = tmp_path / "volume.nii.gz"
    nib.save(nib.Nifti1Image(LOOP.transpose(2, 1, 0), affine), path)
    out = infer(input=str(path), frames="2:4", output_ext=".nii.gz", outputs=["mask"])
    whole = nib.load(out / "masks" / "volume.nii.gz")
    assert whole.shape == (96, 64, COUNT)
    np.testing.assert_allclose(whole.affine, affine, atol=1e-6)
    assert np.asarray(whole.dataobj).any(axis=(0, 1)).tolist() == [False] * 2 + [True] * 2 + [False] * 3
    one = nib.load(out / "masks" / "volume_f3.nii.gz")
    assert one.shape == (96, 64, 1)
    np.testing.assert_allclose(one.affine[:3, 3], affine[:3, 2] * 3, atol=1e-6)


def test_frames_one_after_the_other_stay(tmp_path: Path, infer: Infer) -> None:
    path = save_dicom(tmp_path / "loop.dcm", LOOP, COUNT)
    infer(input=str(path), slice=0)
    out = infer(input=str(path), frames=2)
    assert sorted(file.name for file in (out / "masks").iterdir()) == ["loop.png", "loop_f2.png"]
    assert [row["frame"] for row in table(out / "objects.csv")] == ["0", "2"]


def test_a_slice_has_the_name_of_its_file_unless_another_slice_has_it(tmp_path: Path, infer: Infer) -> None:
    path = save_dicom(tmp_path / "loop.dcm", LOOP, COUNT)
    for number in (1, 0, 1):
        out = infer(input=str(path), slice=number)
    assert sorted(file.name for file in (out / "masks").iterdir()) == ["loop.png", "loop_f0.png"]
    assert {row["frame"] for row in table(out / "objects.csv")} == {"0", "1"}


def test_a_folder_with_a_still_a_loop_and_a_damaged_file(tmp_path: Path, infer: Infer) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    save_dicom(folder / "loop.dcm", LOOP, COUNT)
    Image.fromarray(LOOP[0]).save(folder / "still.png")
    (folder / "broken.mp4").write_bytes(b"no video")
    with refused("broken.mp4"):
        infer(input=str(folder), frames="all")
    names = {file.name for file in (tmp_path / "out" / "masks").iterdir()}
    assert names == {"still.png", *(f"loop_f{k}.png" for k in range(COUNT))}


@pytest.mark.parametrize(
    ("frames", "sentence"),
    [
        ("5:9", "has 7 frames, and frames is 5:9"),
        ("every", "frames is 'every': give all or A:B"),
        (7, "7 slices"),
    ],
)
def test_frames_that_are_not_there(tmp_path: Path, infer: Infer, frames: Any, sentence: str) -> None:
    path = save_dicom(tmp_path / "loop.dcm", LOOP, COUNT)
    with refused(sentence):
        infer(input=str(path), frames=frames)


def test_prompts_of_frames_that_are_not_there(
    tmp_path: Path, infer: Infer, prompts: Callable[..., str]
) -> None:
    path = save_dicom(tmp_path / "loop.dcm", LOOP, COUNT)
    with refused("has prompts for frame 6 of"):
        infer(input=str(path), frames="0:3", prompts=prompts(**{"loop.dcm#6": 6}))
    with refused("names 'lop.dcm"):
        infer(input=str(path), frames="all", prompts=prompts(**{"lop.dcm#3": 3}))


def test_choose_frames() -> None:
    assert list(choose_frames("all", 3, Path("a"))) == [0, 1, 2]
    assert list(choose_frames("1:3", 3, Path("a"))) == [1, 2]
