"""Pictures of every kind are read, and bad ones are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_folders import disc, save, speckle
from lmsfe_sam.errors import InputError
from lmsfe_sam.images.formats import list_images
from lmsfe_sam.images.reading import read_header, read_image
from lmsfe_sam.predict.preprocessing import to_rgb_uint8

GREY = speckle(1)


def read_picture(path: Path) -> np.ndarray:
    return read_image(path).pixels


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".pgm"])
def test_grey_comes_back_exactly(tmp_path: Path, suffix: str) -> None:
    pixels = read_picture(save(tmp_path / f"a{suffix}", GREY))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, GREY)


def test_jpeg_comes_back_nearly(tmp_path: Path) -> None:
    assert np.abs(read_picture(save(tmp_path / "a.jpg", GREY)).astype(int) - GREY).mean() < 3


def test_sixteen_bits_are_not_cut_to_eight(tmp_path: Path) -> None:
    deep = GREY.astype(np.uint16) * 200 + 77
    pixels = read_picture(save(tmp_path / "a.png", deep))
    np.testing.assert_array_equal(pixels, deep)
    assert to_rgb_uint8(pixels).shape == (*GREY.shape, 3)


def test_one_bit_is_bool(tmp_path: Path) -> None:
    pixels = read_picture(save(tmp_path / "a.png", disc()))
    assert pixels.dtype == np.bool_
    np.testing.assert_array_equal(pixels, disc())


@pytest.mark.parametrize("mode", ["LA", "RGB", "RGBA", "P", "CMYK", "I;16", "F"])
def test_every_mode_becomes_the_same_grey_picture(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(GREY)
    if mode == "I;16":
        picture = Image.fromarray(GREY.astype(np.uint16))
    elif mode == "F":
        picture = Image.fromarray(GREY.astype(np.float32))
    else:
        picture = picture.convert(mode) if mode in ("LA", "P") else picture.convert("RGB").convert(mode)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "F") else "a.png")
    picture.save(path)
    rgb = to_rgb_uint8(read_picture(path)).astype(int)
    grey = GREY.astype(int)
    if mode in ("I;16", "F"):  # stretched from their own minimum to maximum
        grey = (grey - grey.min()) / (grey.max() - grey.min()) * 255
    assert np.abs(rgb - grey[..., None]).max() <= 1


def test_alpha_does_not_change_the_colours(tmp_path: Path) -> None:
    rgba = np.dstack([GREY, GREY, GREY, np.full_like(GREY, 3)])
    rgb = to_rgb_uint8(read_picture(save(tmp_path / "a.png", rgba)))
    np.testing.assert_array_equal(rgb, np.dstack([GREY] * 3))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_a_truncated_file_is_named(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"cut{suffix}", speckle(2, (300, 300)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"cut\{suffix}.*copy it again"):
        read_picture(path)


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "text.png"
    path.write_text("not a picture")
    for read in (read_picture, read_header):
        with pytest.raises(InputError, match=r"text\.png.*unknown format"):
            read(path)
        with pytest.raises(InputError, match=r"no file.*absent\.png"):
            read(tmp_path / "absent.png")


def test_size_is_height_and_width(tmp_path: Path) -> None:
    header = read_header(save(tmp_path / "a.png", GREY))
    assert (header.rows, header.columns) == GREY.shape


def test_listing_leaves_out_hidden_files_and_others(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", ".c.png", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.jpg", "b.PNG"]
