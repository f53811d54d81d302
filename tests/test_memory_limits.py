"""Files that would take far more memory than an honest one: refused, with a measured peak."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from pydicom.uid import RLELossless

from bombs import BOMBS, JPEG, JPEG2000, ZEROS, dicom
from lmsfe_sam.errors import MAX_SENTENCE, InputError
from lmsfe_sam.images import limits
from lmsfe_sam.images.dicom import decoding as dicom_decoding
from lmsfe_sam.images.limits import TooManyPixelsError, coded_shape, decompress_bounded
from lmsfe_sam.images.reading import read_image
from lmsfe_sam.inference.transforms import LoadFileImaged

PEAKS = """
import json, pathlib, re, sys, warnings
import nrrd, nibabel, pydicom.pixels, tifffile, PIL.Image
from lmsfe_sam.errors import InputError
from lmsfe_sam.images.dicom import decoding as dicom_decoding
from lmsfe_sam.images.reading import read_image
from lmsfe_sam.predict.preprocessing import to_rgb_uint8

def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) // 1024

dicom_decoding.MAX_PIXELS = 2**22
results = {"start": ["", peak()]}
for path in map(pathlib.Path, sys.argv[1:]):
    try:
        to_rgb_uint8(read_image(path, 1 if "second" in path.name else None).pixels)
        said = ""
    except InputError as error:
        said = str(error)
    results[path.name] = [said, peak()]
print(json.dumps(results))
"""
"""Reads files one after the other: what is said of each, and the peak of resident memory so far in MiB."""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_no_small_file_takes_much_memory(tmp_path: Path) -> None:
    for name, write in BOMBS.items():
        write(tmp_path / name)
        assert (tmp_path / name).stat().st_size < 2**22
    paths = [str(tmp_path / name) for name in BOMBS]
    process = subprocess.run(
        [sys.executable, "-c", PEAKS, *paths], capture_output=True, text=True, timeout=600, check=False
    )
    assert process.returncode == 0, process.stderr
    results = json.loads(process.stdout)
    before = results.pop("start")[1]
    for name, (said, peak) in results.items():
        assert said, f"{name} was read"
        assert len(said) <= MAX_SENTENCE and "\n" not in said
        assert peak - before < 24, (name, peak, before)  # MiB: less than what one of them decompresses to
        before = max(before, peak)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_an_honest_large_file_is_read_in_little_more_than_its_size(tmp_path: Path) -> None:
    path = tmp_path / "large.tif"
    tifffile.memmap(path, shape=(8192, 8192), dtype=np.uint16)[:, :2] = 40000
    process = subprocess.run(
        [sys.executable, "-c", PEAKS, str(path)], capture_output=True, text=True, timeout=600, check=False
    )
    assert process.returncode == 0, process.stderr
    results = json.loads(process.stdout)
    assert results["large.tif"][0] == ""
    assert results["large.tif"][1] - results["start"][1] < 128 + 64 + 2 * 192 + 256  # MiB: file, grey, RGB


def test_the_limit_is_named_and_can_be_raised(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((100, 100), np.uint8))
    with pytest.raises(TooManyPixelsError, match=r"has 10000 pixels, more than 9999: .*--max_pixels"):
        read_image(tmp_path / "a.tif", max_pixels=9999)
    assert read_image(tmp_path / "a.tif", max_pixels=10000).pixels.shape == (100, 100)
    with pytest.raises(TooManyPixelsError):
        LoadFileImaged("image", max_pixels=9999)({"image": tmp_path / "a.tif"})
    LoadFileImaged("image", max_pixels=10000)({"image": tmp_path / "a.tif"})


def test_pillows_own_limit_is_no_other_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it pictures were refused at any ``--max_pixels``, as if they were damaged."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for name in ("a.png", "a.bmp", "a.jpg", "a.webp", "a.tif", "a.gif"):
        Image.fromarray(np.zeros((100, 100), np.uint8)).save(tmp_path / name)
        with pytest.raises(TooManyPixelsError, match=r"pixels: make it smaller, or allow more"):
            read_image(tmp_path / name, max_pixels=1500)
    for name in ("a.png", "a.bmp", "a.jpg", "a.webp", "a.tif", "a.gif"):
        assert read_image(tmp_path / name, max_pixels=10001).pixels.shape[:2] == (100, 100)
    assert Image.MAX_IMAGE_PIXELS == 5001
    with pytest.raises(TooManyPixelsError, match=r"has 10000 pixels, more than 1500"):
        read_image(tmp_path / "a.png", max_pixels=1500)


def test_run_lengths_that_unfold_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = bytes([129, 7]) * 5000  # 128 times 7, each
    frame = (1).to_bytes(4, "little") + (64).to_bytes(4, "little") + bytes(56) + segment
    dicom(tmp_path / "a.dcm", RLELossless, frame)
    monkeypatch.setattr(limits, "UNSCANNED", 100)
    with pytest.raises(InputError, match="decompresses to more pixels than it states"):
        read_image(tmp_path / "a.dcm")


def test_a_deflated_file_may_be_as_large_as_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    BOMBS["deflated.dcm"](tmp_path / "a.dcm")
    assert read_image(tmp_path / "a.dcm").pixels.shape == (8, 8)
    monkeypatch.setattr(dicom_decoding, "MAX_PIXELS", 2**22)
    with pytest.raises(InputError, match="decompresses to more pixels than it states"):
        read_image(tmp_path / "a.dcm")


@pytest.mark.parametrize("method", ["zlib", "bz2"])
@pytest.mark.parametrize("size", [0, 1, 2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20 + 7])
def test_what_unfolds_is_whole_up_to_the_limit(tmp_path: Path, method: str, size: int) -> None:
    import bz2
    import io
    import zlib

    content = np.random.default_rng(0).integers(0, 4, size, np.uint8).tobytes()
    packed = {"zlib": zlib, "bz2": bz2}[method].compress(content)
    assert decompress_bounded(io.BytesIO(packed), size, tmp_path, method) == content
    if size:
        with pytest.raises(InputError):
            decompress_bounded(io.BytesIO(packed), size - 1, tmp_path, method)
    bomb = {"zlib": zlib, "bz2": bz2}[method].compress(ZEROS[: 2**22])
    with pytest.raises(InputError):
        decompress_bounded(io.BytesIO(bomb), 2**21, tmp_path, method)


def test_the_sizes_in_code_streams(tmp_path: Path) -> None:
    import io

    for form, options in (("JPEG", {}), ("JPEG", {"progressive": True}), ("JPEG2000", {})):
        stream = io.BytesIO()
        Image.fromarray(np.zeros((30, 50), np.uint8)).save(stream, form, **options)
        assert coded_shape(stream.getvalue()) == (30, 50, 1)
    for junk in (b"", JPEG[:2], JPEG[:4], JPEG2000[:4], bytes(100), JPEG[:2] + b"\xff" * 9):
        assert coded_shape(junk) is None
