"""Bad inputs that are files: images, prompts, weights and masks that are something else than they say."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import tifffile
import torch
from cases import Case, evaluate, infer, tool
from PIL import Image
from pydicom.uid import JPEGLSLossless, RLELossless

from bombs import dicom, meta, nifti, nrrd
from data_folders import make_plain
from fuzzing import PIXELS
from medical_files import save_dicom

ENDINGS = (
    ".png",
    ".jpg",
    ".tif",
    ".gif",
    ".webp",
    ".bmp",
    ".jp2",
    ".nii",
    ".nii.gz",
    ".nrrd",
    ".mha",
    ".dcm",
)

PAGE = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>No such file.</body></html>\n"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456\n"


def image_cases(folder: Path) -> Iterator[Case]:
    """Files with the name of an image and another content, and images that contradict themselves."""
    folder.mkdir()
    for ending in ENDINGS:
        for name, content in (("page", PAGE), ("pointer", POINTER), ("blank", bytes(2000))):
            yield infer("--input", written(folder / f"{name}{ending}", content))
    for name, write in ODD_IMAGES.items():
        write(folder / name)
        yield infer("--input", folder / name, may_work=name in TOLD_BY_PIXELS)
    for name, write in HALF_ODD_IMAGES.items():
        write(folder / name)
        yield infer("--input", folder / name, may_work=True)


def written(path: Path, content: bytes | str) -> Path:
    """Write a file, and return its path."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def archive(path: Path) -> None:
    """An archive with a picture in it."""
    picture = io.BytesIO()
    Image.fromarray(PIXELS).save(picture, "PNG")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.png", picture.getvalue())


def tiff(path: Path, pixels: Any, **options: Any) -> None:
    """A TIFF of any type."""
    tifffile.imwrite(path, pixels, photometric="minisblack", **options)


def nifti_of(path: Path, pixels: Any) -> None:
    """A NIfTI of any type and number of axes."""
    nib.save(nib.Nifti1Image(pixels, np.eye(4), dtype=pixels.dtype), path)


def nrrd_with(path: Path, *lines: str, body: bytes = bytes(64)) -> None:
    """A NRRD of the header's lines."""
    path.write_bytes(("NRRD0004\n" + "\n".join(lines) + "\n\n").encode() + body)


def without_pixels(path: Path, **attributes: Any) -> None:
    """A DICOM file that has lost its pixels."""
    save_dicom(path, PIXELS, **attributes)
    import pydicom

    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    dataset.save_as(path)


RAW = ("type: uchar", "dimension: 2", "sizes: 8 8", "encoding: raw")

ODD_IMAGES: dict[str, Any] = {
    "archive.png": archive,
    "archive.nii.gz": archive,
    "archive.dcm": archive,
    "picture.nrrd": lambda p: Image.fromarray(PIXELS).save(p, "PNG"),
    "picture.nii": lambda p: Image.fromarray(PIXELS).save(p, "PNG"),
    "postscript.png": lambda p: p.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"),
    "drawing.png": lambda p: p.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'),
    "document.dcm": lambda p: p.write_bytes(b"%PDF-1.7\n%%EOF\n"),
    "numbers.png": lambda p: np.save(p.open("wb"), PIXELS),
    "text.dcm": lambda p: p.write_text("Patient Name,Study\nA,B\n"),
    "complex.tif": lambda p: tiff(p, PIXELS.astype(np.complex64)),
    "five_samples.tif": lambda p: tiff(p, np.zeros((9, 9, 5), np.uint8), planarconfig="contig"),
    "four_axes.nii": lambda p: nifti_of(p, np.zeros((8, 8, 3, 3), np.uint8)),
    "complex.nii": lambda p: nifti_of(p, np.zeros((8, 8), np.complex64)),
    "one_axis.nii": lambda p: nifti_of(p, np.zeros(8, np.uint8)),
    "nan.nii": lambda p: nifti_of(p, np.full((8, 8), np.nan, np.float32)),
    "slices.nii": lambda p: nifti_of(p, np.zeros((8, 8, 5), np.uint8)),
    "short.nii": lambda p: nifti(p, (64, 64), body=bytes(99)),
    "block.nrrd": lambda p: nrrd_with(p, "type: block", "block size: 4", *RAW[1:]),
    "no_type.nrrd": lambda p: nrrd_with(p, *RAW[1:]),
    "no_sizes.nrrd": lambda p: nrrd_with(p, RAW[0], RAW[1], RAW[3]),
    "sizes.nrrd": lambda p: nrrd_with(p, RAW[0], RAW[1], "sizes: 8 8 8", RAW[3]),
    "negative.nrrd": lambda p: nrrd_with(p, RAW[0], RAW[1], "sizes: -8 -8", RAW[3]),
    "empty.nrrd": lambda p: nrrd_with(p, RAW[0], RAW[1], "sizes: 0 8", RAW[3]),
    "words.nrrd": lambda p: nrrd_with(p, RAW[0], "dimension: two", "sizes: a b", RAW[3]),
    "encoding.nrrd": lambda p: nrrd_with(p, *RAW[:3], "encoding: zstd"),
    "cut.nrrd": lambda p: nrrd_with(p, *RAW, body=bytes(10)),
    "lines.nrrd": lambda p: nrrd_with(p, *RAW[:3], "encoding: gzip", body=b"no gzip at all"),
    "skip.nrrd": lambda p: nrrd_with(p, *RAW, "byte skip: 99999999999", body=bytes(64)),
    "line_skip.nrrd": lambda p: nrrd_with(p, *RAW, "line skip: 1000000000000", body=bytes(64)),
    "cut.nhdr": lambda p: nrrd(p, "8 8", "raw", place="gone.raw"),
    "type.mha": lambda p: meta(p, "8 8", bytes(64), ElementType="MET_STRING"),
    "words.mha": lambda p: meta(p, "a b", bytes(64)),
    "negative.mha": lambda p: meta(p, "-8 -8", bytes(64)),
    "zero.mha": lambda p: meta(p, "0 0", bytes(64)),
    "ascii.mha": lambda p: meta(p, "8 8", b"0 " * 64, BinaryData="False"),
    "packed.mha": lambda p: meta(p, "8 8", bytes(64), CompressedData="True"),
    "gone.mhd": lambda p: meta(p, "8 8", place="gone.raw"),
    "rows.dcm": lambda p: save_dicom(p, PIXELS, Rows=0),
    "columns.dcm": lambda p: without_pixels(p),
    "more_rows.dcm": lambda p: save_dicom(p, PIXELS, Rows=5000),
    "samples.dcm": lambda p: save_dicom(p, PIXELS, SamplesPerPixel=9),
    "class.dcm": lambda p: save_dicom(p, PIXELS, SOPClassUID="1.2.840.10008.5.1.4.1.1.481.2"),
    "report.dcm": lambda p: without_pixels(p, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33"),
    "document_within.dcm": lambda p: without_pixels(p, SOPClassUID="1.2.840.10008.5.1.4.1.1.104.1"),
    "runs.dcm": lambda p: dicom(p, RLELossless, struct.pack("<16I", 99, *[0] * 15)),
    "nothing.dcm": lambda p: dicom(p, RLELossless, bytes(2)),
    "lossless.dcm": lambda p: dicom(p, JPEGLSLossless, b"\xff\xd8\xff\xd9"),
    "unknown.dcm": lambda p: dicom(p, "1.2.3.4.5", bytes(64)),
    "frames.dcm": lambda p: save_dicom(p, np.zeros((4, 8, 8), np.uint8), 4),
}
"""Each is refused, but for those `TOLD_BY_PIXELS`."""

TOLD_BY_PIXELS = ("samples.dcm", "unknown.dcm")
"""What they state is wrong, and what it should be can be seen from their pixels."""

HALF_ODD_IMAGES: dict[str, Any] = {
    "bits.dcm": lambda p: save_dicom(p, PIXELS, BitsStored=99, HighBit=98),
    "photometric.dcm": lambda p: save_dicom(p, PIXELS, PhotometricInterpretation="XYZ"),
    "window.dcm": lambda p: save_dicom(
        p, PIXELS.astype(np.uint16), WindowCenter=[1e30, 5], WindowWidth=[-1e30, 0]
    ),
    "slope.dcm": lambda p: save_dicom(p, PIXELS, RescaleSlope=0, RescaleIntercept=1e30),
    "representation.dcm": lambda p: save_dicom(p, PIXELS, PixelRepresentation=7),
    "empty_axis.nrrd": lambda p: nrrd_with(p, *RAW, "space directions: none none", "space dimension: 2"),
    "deep.png": lambda p: Image.fromarray(PIXELS.astype(np.uint16) * 257).save(p),
    "one.png": lambda p: Image.fromarray(PIXELS[:1, :1]).save(p),
    "line.png": lambda p: Image.fromarray(np.zeros((1, 3000), np.uint8)).save(p),
    "jpeg_named.png": lambda p: Image.fromarray(PIXELS).save(p, "JPEG"),
    "real.tif": lambda p: tiff(p, np.full((9, 9), 1e300)),
    "same.tif": lambda p: tiff(p, np.full((9, 9), np.inf, np.float32)),
    "sixty_four.tif": lambda p: tiff(p, np.full((9, 9), 2**63, np.uint64)),
    "name\nof two lines.png": lambda p: Image.fromarray(PIXELS).save(p),
    "name'with\"marks.png": lambda p: Image.fromarray(PIXELS).save(p),
    "-input.png": lambda p: Image.fromarray(PIXELS).save(p),
}
"""Each is refused or read; a half of what is said of it holds."""


def prompts_cases(folder: Path) -> Iterator[Case]:
    """Prompts files that are none, or that say what cannot be."""
    folder.mkdir()
    image = folder / "a.png"
    Image.fromarray(PIXELS).save(image)
    for number, content in enumerate(PROMPTS_FILES):
        file = written(folder / f"prompts{number}.json", content)
        yield infer("--input", image, "--prompts", file, may_work=number == 0)  # JSON may be UTF-16
    for number, item in enumerate(OBJECTS):
        text = json.dumps({"a.png": {"objects": [item]}})
        yield infer("--input", image, "--prompts", written(folder / f"object{number}.json", text))
    stack = folder / "loop.nii"
    nib.save(nib.Nifti1Image(np.zeros((16, 16, 4), np.uint8), np.eye(4)), stack)
    for number, key in enumerate(("loop.nii#4", "loop.nii#-1", "loop.nii#x", "loop.nii#1.5", "a.nii#0")):
        text = json.dumps({key: {"objects": [{"box": [1, 1, 9, 9]}]}})
        file = written(folder / f"frames{number}.json", text)
        yield infer("--input", stack, "--frames", "all", "--prompts", file)
    for asked in ("2:2", "3:1", "0:99", "-1:2", "1:", "every", "4"):
        yield infer("--input", stack, "--frames", asked)
    yield infer("--input", stack, "--frames", "all", "--slice", "1")
    yield infer("--input", image, "--prompts", folder)
    yield infer("--input", image, "--prompts", image)
    yield infer("--input", image, "--prompts", "/dev/null")


BOX = '{"objects": [{"box": [1, 1, 9, 9]}]}'

PROMPTS_FILES: tuple[str | bytes, ...] = (
    f'{{"a.png": {BOX}}}'.encode("utf-16"),
    b'{"\xff\xfe": 1}',
    "image,x0,y0,x1,y1\na.png,1,1,9,9\n",
    f"{{'a.png': {BOX}}}",
    f'{{"a.png": {BOX},}}',
    f'{{"a.png": {BOX}, "a.png": {BOX}}}',
    f'{{"a.PNG": {BOX}}}',
    f'{{"../a.png": {BOX}}}',
    f'{{"": {BOX}}}',
    f'{{"a.png#0#1": {BOX}}}',
    f'{{"caf\u00e9.png": {BOX}, "cafe\u0301.png": {BOX}}}',
    f'[{{"a.png": {BOX}}}]',
    '{"a.png": null}',
    '{"a.png": {"objects": {}}}',
    '{"a.png": {"objects": [], "frames": []}}',
    '{"a.png": {"boxes": [[1, 1, 9, 9]]}}',
    '{"a.png": [[1, 1, 9, 9]]}',
    f'// a remark\n{{"a.png": {BOX}}}',
    f'{{"a.png": {BOX}}} and more',
    PAGE,
    POINTER,
)

OBJECTS: tuple[Any, ...] = (
    {},
    None,
    {"box": None},
    {"box": "1,1,9,9"},
    {"box": [1, 1, 9]},
    {"box": [1, 1, 9, 9, 9]},
    {"box": [[1, 1], [9, 9]]},
    {"box": ["1", "1", "9", "9"]},
    {"box": [1, 1, 1, 9]},
    {"box": [500, 500, 600, 600]},
    {"box": [True, True, 9, 9]},
    {"points": [[9, 9]], "labels": [2]},
    {"points": [[9, 9]], "labels": [1, 1]},
    {"points": [[9, 9]], "labels": ["1"]},
    {"points": [[9, 9]], "labels": [0.5]},
    {"points": [9, 9], "labels": [1]},
    {"points": [[9, 9, 9]], "labels": [1]},
    {"points": [[-9, 9]], "labels": [1]},
    {"points": [[9, 900]], "labels": [1]},
    {"points": "9 9", "labels": [1]},
    {"points": [[9, 9]], "labels": [1], "mask": "a.png"},
    {"box": [1, 1, 9, 9], "category": "spleen of a dragon"},
    {"box": [1, 1, 9, 9], "category": ["nerve"]},
    {"box": [1, 1, 9, 9], "category": 7},
)


def weight_cases(folder: Path) -> Iterator[Case]:
    """Files of weights that are none of this network's, or of none."""
    folder.mkdir()
    image = folder / "a.png"
    Image.fromarray(PIXELS).save(image)
    places: list[Path] = [written(folder / "page.pt", PAGE), written(folder / "pointer.pt", POINTER)]
    places += [written(folder / "empty.pt", b""), folder, image]
    for name, content in odd_states().items():
        torch.save(content, folder / f"{name}.pt")
        places.append(folder / f"{name}.pt")
    np.savez(folder / "numbers.npz", a=PIXELS)
    (folder / "numbers.npz").rename(folder / "numbers.pt")
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(folder / "script.pt"))
    (folder / "circle.pt").symlink_to("circle.pt")
    places += [folder / "numbers.pt", folder / "script.pt", folder / "circle.pt"]
    for place in places:
        yield infer("--input", image, "--checkpoint", place)
    for place in places[:6]:
        yield evaluate("--checkpoint", place, "--prompt_modes", "box", "--phantoms", "8")
        yield tool("training.soup", place, place, "--output", folder / "mean.pt")


def odd_states() -> dict[str, Any]:
    """What may be saved in the place of a network's tensors."""
    base = torch.zeros(8)
    return {
        "nothing": {},
        "number": 7,
        "list": [torch.zeros(2)],
        "tensor": torch.zeros(2, 2),
        "texts": {"a": "b"},
        "numbers_for_names": {1: torch.zeros(2)},
        "others": {"conv.weight": torch.zeros(3, 3), "conv.bias": torch.zeros(3)},
        "nested": {"state_dict": {"a": torch.zeros(2)}},
        "one_storage": {f"layer{k}.weight": base for k in range(20)},
        "views": {f"layer{k}.weight": base[k : k + 1] for k in range(8)},
        "view_of_much": {"layer.weight": torch.zeros(2**24)[:4]},
    }


def prediction_cases(folder: Path) -> Iterator[Case]:
    """Folders of another program's masks that do not fit the images."""
    folder.mkdir()
    data = make_plain(folder / "data", 4)
    height, width = np.asarray(Image.open(data / "images" / "case_0.png")).shape
    fitting = np.zeros((height, width), np.uint8)
    fitting[10:30, 10:30] = 255
    masks: dict[str, Any] = {
        "size": fitting[:-1],
        "turned": fitting.T,
        "grey": np.linspace(0, 255, height * width).astype(np.uint8).reshape(height, width),
        "real": fitting.astype(np.float32),
    }
    for name, pixels in masks.items():
        own = folder / name
        own.mkdir()
        for number in range(4):
            Image.fromarray(pixels).save(own / f"case_{number}.tif")
        yield evaluate("--dataset_dir", data, "--predictions", own, may_work=name == "real")
    for name in ("none", "one", "more", "twice", "page", "pipe", "cut", "slices"):
        own = folder / name
        own.mkdir()
        for number in range({"none": 0, "one": 1, "more": 5}.get(name, 4)):
            Image.fromarray(fitting).save(own / f"case_{number}.png")
        spoil(own, name, fitting)
        yield evaluate("--dataset_dir", data, "--predictions", own)
    yield evaluate("--dataset_dir", data, "--predictions", folder / "gone")
    yield evaluate("--dataset_dir", data, "--predictions", data / "images" / "case_0.png")
    yield evaluate("--dataset_dir", data, "--predictions", folder / "one", "--objects", "parts")
    for number, text in enumerate(TABLES):
        yield evaluate("--dataset_dir", data, "--compare", written(folder / f"metrics{number}.csv", text))
    yield evaluate("--dataset_dir", data, "--compare", folder)
    yield evaluate("--dataset_dir", data, "--compare", data / "images" / "case_0.png")


def spoil(folder: Path, how: str, mask: Any) -> None:
    """Make one mask of a folder unfit."""
    first = folder / "case_0.png"
    if how == "twice":
        Image.fromarray(mask).save(folder / "case_0.tif")
    elif how == "page":
        first.write_bytes(PAGE)
    elif how == "pipe":
        first.unlink()
        (folder / "case_0.png").symlink_to("/dev/zero")
    elif how == "cut":
        first.write_bytes(first.read_bytes()[:60])
    elif how == "slices":
        first.unlink()
        nib.save(nib.Nifti1Image(np.dstack([mask.T] * 3), np.eye(4)), folder / "case_0.nii.gz")


COLUMNS = "image,prompt,dice,iou,sensitivity,specificity,accuracy,hd,hd95,assd,hd_mm\n"

TABLES = (
    "",
    "image,dice\n",
    COLUMNS,
    COLUMNS + "images/case_0.png,control_box,x,0,0,0,0,0,0,0,\n",
    COLUMNS + "images/other.png,control_box,0.5,0,0,0,0,0,0,0,\n",
    COLUMNS + "images/case_0.png,box\n",
    "\x00" * 100,
)
