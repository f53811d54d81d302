"""Files that are as their format allows and hardly any writer makes them, or that are named otherwise."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image

from data_folders import speckle
from lmsfe_sam.errors import InputError
from lmsfe_sam.images.frames import open_frames
from lmsfe_sam.images.image import turn
from lmsfe_sam.images.pictures import read_indices, stored_orientation
from lmsfe_sam.images.reading import read_header, read_image
from lmsfe_sam.images.video import open_video

GREY = speckle(3)


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("kind", ["grey", "palette", "deep", "deep colours", "packed"])
def test_a_tiff_is_turned_whatever_its_values_are(tmp_path: Path, kind: str, turned: int) -> None:
    grey = GREY[:50, :40].copy()
    path = tmp_path / "a.tif"
    stored: Any = grey
    if kind == "deep colours":
        stored = np.stack([grey] * 3, axis=-1).astype(np.uint16) * 100
        tifffile.imwrite(path, stored, photometric="rgb", extratags=[(274, "H", 1, turned, True)])
    else:
        stored = grey.astype(np.uint16) * 100 if kind == "deep" else grey
        picture = Image.fromarray(stored)
        if kind == "palette":
            picture.putpalette([value for value in range(256) for _ in range(3)])
            stored = np.stack([grey] * 3, axis=-1)
        picture.save(path, tiffinfo={274: turned}, compression="tiff_lzw" if kind == "packed" else None)
    expected = turn(stored, turned)
    np.testing.assert_array_equal(read_image(path).pixels, expected)
    header = read_header(path)
    assert (header.rows, header.columns) == expected.shape[:2]
    assert stored_orientation(path) == turned
    if kind == "palette":
        indices = read_indices(path)
        assert indices is not None
        np.testing.assert_array_equal(indices, expected[..., 0])


def test_bytes_of_a_tiff_may_be_signed(tmp_path: Path) -> None:
    signed = GREY.astype(np.int16).clip(0, 255) - 128
    tifffile.imwrite(tmp_path / "a.tif", signed.astype(np.int8))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, signed)


@pytest.mark.parametrize("packed", [True, False])
def test_a_nifti_that_is_compressed_or_not_unlike_its_name(tmp_path: Path, packed: bool) -> None:
    content = nib.Nifti1Image(GREY.T, np.eye(4)).to_bytes()
    path = tmp_path / ("a.nii" if packed else "a.nii.gz")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(InputError, match=r"rename it to a\.nii" + (r"\.gz\." if packed else r"\.$")):
        read_image(path)


def test_a_plane_across_the_first_axis_is_named(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(GREY.T[None], np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(InputError, match=r"slices of 1 x .* axis of length 1 last"):
        read_image(tmp_path / "a.nii")


def test_values_of_nrrd_in_hexadecimal_digits(tmp_path: Path) -> None:
    height, width = GREY.shape
    header = f"NRRD0004\ntype: uint8\ndimension: 2\nsizes: {width} {height}\nencoding: hex\n\n"
    digits = GREY.astype(np.uint8).tobytes().hex()
    lines = "\n".join(digits[start : start + 70] for start in range(0, len(digits), 70))
    (tmp_path / "a.nrrd").write_text(header + lines + "\n")
    np.testing.assert_array_equal(read_image(tmp_path / "a.nrrd").pixels, GREY)


@pytest.mark.parametrize(
    ("matrix", "quarters"),
    [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)],
    ids=["90", "180", "270"],
)
def test_a_video_is_turned_as_players_turn_it(tmp_path: Path, matrix: tuple[int, ...], quarters: int) -> None:
    """Phones store a video as its sensor lies, with the turn in the track's header."""
    av = pytest.importorskip("av")
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width = 48, 64
        stream.pix_fmt = "yuv420p"
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[:24, :32] = 255
        for _ in range(3):
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40
    one = 65536
    a, b, c, d = (value * one for value in matrix)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    opened = open_video(path)
    shown = opened.read(2).pixels[..., 0] > 127
    assert (opened.header.rows, opened.header.columns) == shown.shape
    np.testing.assert_array_equal(shown, np.rot90(frame[..., 0] > 127, quarters))


def test_an_empty_video_is_named(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.mp4' cannot be read as a video"):
        open_video(tmp_path / "a.mp4")


def test_a_picture_of_a_cine_that_has_several_frames_is_named(tmp_path: Path) -> None:
    pages = [Image.fromarray(GREY)] * 2
    pages[0].save(tmp_path / "us_1.tif")
    pages[0].save(tmp_path / "us_2.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match=r"us_2\.tif' has 2 frames: a picture of a cine has one"):
        open_frames(tmp_path).read(1)


def test_pages_of_tiff_of_another_size_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for rows in (60, 30):
            file.write(np.arange(rows * 80, dtype=np.float64).reshape(rows, 80))
    assert read_image(tmp_path / "a.tif").pixels.shape == (60, 80)
    assert "a.tif' has 1 page(s) of another size or type, which are left out" in caplog.text
