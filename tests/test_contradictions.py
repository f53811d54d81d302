"""Files whose parts contradict each other: what the pixels are decides, or a sentence names both."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import nrrd
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from lmsfe_sam.errors import InputError
from lmsfe_sam.images.reading import read_header, read_image
from medical_files import save_dicom

ROWS, COLUMNS = np.mgrid[:60, :80]
GREY = (2 * ROWS + COLUMNS).astype(np.uint8)
RGB = np.dstack([GREY, GREY[::-1], GREY[:, ::-1]])


def _jpeg(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=98)
    return stream.getvalue()


def _save_jpeg(path: Path, pixels: np.ndarray, **stated: object) -> np.ndarray:
    """Write a DICOM file of a JPEG, with attributes that it does not have; return its pixels."""
    dataset = pydicom.dcmread(save_dicom(path, GREY))
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    for name, value in stated.items():
        setattr(dataset, name, value)
    dataset.PixelData = encapsulate([_jpeg(pixels)])
    dataset.save_as(path)
    return np.asarray(Image.open(io.BytesIO(_jpeg(pixels))))


def _difference(path: Path, pixels: np.ndarray) -> int:
    read = read_image(path).pixels
    assert read.shape == pixels.shape
    return int(np.abs(read.astype(int) - pixels).max())


@pytest.mark.parametrize(
    ("pixels", "stated"),
    [(RGB, "MONOCHROME2"), (RGB, "PALETTE COLOR"), (GREY, "RGB"), (GREY, "YBR_FULL")],
    ids=["colour as grey", "colour as palette", "grey as RGB", "grey as YBR"],
)
def test_samples_of_uncompressed_dicom_are_those_that_are_there(
    tmp_path: Path, pixels: np.ndarray, stated: str
) -> None:
    path = save_dicom(tmp_path / "a.dcm", pixels, PhotometricInterpretation=stated)
    assert _difference(path, pixels) == 0


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("stated", ["MONOCHROME2", "RGB"])
@pytest.mark.parametrize("pixels", [GREY, RGB], ids=["grey", "colour"])
def test_samples_of_compressed_dicom_are_those_of_the_code_stream(
    tmp_path: Path, pixels: np.ndarray, stated: str, samples: int
) -> None:
    path = tmp_path / "a.dcm"
    shown = _save_jpeg(path, pixels, PhotometricInterpretation=stated, SamplesPerPixel=samples)
    assert _difference(path, shown) <= 2


def test_a_size_that_is_not_that_of_the_code_stream_is_named(tmp_path: Path) -> None:
    _save_jpeg(tmp_path / "a.dcm", GREY, Rows=61)
    with pytest.raises(InputError, match=r"a\.dcm' states 80 x 61 pixels, and its compressed .* are 80 x 60"):
        read_image(tmp_path / "a.dcm")


@pytest.mark.parametrize("stated", [None, b"0 ", b"x "])
def test_frames_that_are_there_without_their_number(tmp_path: Path, stated: bytes | None) -> None:
    frames = np.stack([GREY, GREY + 20, GREY + 40])
    path = save_dicom(tmp_path / "a.dcm", frames, 3)
    if stated is None:
        dataset = pydicom.dcmread(path)
        del dataset.NumberOfFrames
        dataset.save_as(path)
    else:
        path.write_bytes(path.read_bytes().replace(b"IS\x02\x003 ", b"IS\x02\x00" + stated))
    assert read_header(path).frames == 3
    np.testing.assert_array_equal(read_image(path, 2).pixels, GREY + 40)


def test_padding_is_no_frame(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "a.dcm", GREY)
    dataset = pydicom.dcmread(path)
    dataset.PixelData += bytes(GREY.size + 100)
    dataset.save_as(path)
    assert read_header(path).frames == 1


def test_a_window_of_the_type_of_bytes_is_a_number(tmp_path: Path) -> None:
    deep = GREY.astype(np.uint16) * 10
    path = save_dicom(tmp_path / "a.dcm", deep, WindowCenter=1000, WindowWidth=500)
    expected = read_image(path).pixels
    data = path.read_bytes()
    for tag, text in ((b"\x28\x00\x50\x10", b"1000"), (b"\x28\x00\x51\x10", b"500 ")):
        start = data.index(tag + b"DS")
        end = start + 8 + int.from_bytes(data[start + 6 : start + 8], "little")
        data = data[:start] + tag + b"OB\0\0" + struct.pack("<I", 4) + text + data[end:]
    path.write_bytes(data)
    np.testing.assert_array_equal(read_image(path).pixels, expected)


def test_more_samples_than_three_are_named(tmp_path: Path) -> None:
    pixels = np.dstack([RGB, GREY])
    path = save_dicom(tmp_path / "a.dcm", pixels, SamplesPerPixel=4, PhotometricInterpretation="ARGB")
    with pytest.raises(InputError, match=r"a\.dcm' has 4 samples a pixel: save it grey or as RGB"):
        read_image(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.dcm", _jpeg(GREY), "is a JPEG picture, not what its name says: rename it to a.jpg"),
        ("a.jpg", "dicom", "is a DICOM file, not what its name says: rename it to a.dcm"),
        ("a.nrrd", _jpeg(GREY), "is a JPEG picture, not what its name says: rename it to a.jpg"),
        ("a.nii.gz", b"PK\3\4" + bytes(400), "is a ZIP archive, not what its name says: put an image"),
        ("a.jpg", b"\0\0\0\x18ftypheic" + bytes(400), "is a picture of the format HEIF, not what"),
        ("a.png", b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS, not the file"),
        ("a.png", b"<!DOCTYPE html><html>", "is a web page, not what its name says"),
        ("a.mha", b"%PDF-1.7 " + bytes(400), "is a PDF, not what its name says"),
        ("a.png", b"", "is empty: copy it again"),
    ],
)
def test_a_file_of_another_format_than_its_name_is_named(
    tmp_path: Path, name: str, content: bytes | str, words: str
) -> None:
    path = tmp_path / name
    if content == "dicom":
        content = save_dicom(tmp_path / "x.dcm", GREY).read_bytes()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read_image(path)
    assert f"'{path}' {words}" in str(caught.value)


def _save_nrrd(path: Path, *lines: str) -> Path:
    head = ("NRRD0004", "type: uchar", "dimension: 2", "sizes: 80 60", "encoding: raw", *lines)
    path.write_bytes("\n".join(head).encode() + b"\n\n" + GREY.tobytes())
    return path


@pytest.mark.parametrize(
    "lines", [("spacings: 0.1 0.2",) * 2, ("sizes: 80 60",), ("made by:=one", "made by:=two")]
)
def test_a_field_of_nrrd_that_stands_there_twice(tmp_path: Path, lines: tuple[str, ...]) -> None:
    path = _save_nrrd(tmp_path / "a.nrrd", *lines)
    with pytest.raises(nrrd.NRRDError, match="Duplicate"):
        nrrd.read_header(str(path))
    np.testing.assert_array_equal(read_image(path).pixels, GREY)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("spacings: 0.1 0.2", "spacings: 0.3 0.3"), "'spacings' twice, as '0.1 0.2' and '0.3 0.3'"),
        (("data file: x.raw", "datafile: y.raw"), "'datafile' twice, as 'x.raw' and 'y.raw'"),
        (("data file: LIST", "x.raw"), "its pixels in several files"),
    ],
)
def test_fields_of_nrrd_that_contradict_are_named(tmp_path: Path, lines: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError, match=rf"a\.nrrd' .*{words}"):
        read_image(_save_nrrd(tmp_path / "a.nrrd", *lines))
