"""Files that are as their format allows and hardly any writer makes them, or that are named otherwise."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image

from data_folders import speckle
from lmsfe_sam.errors import InputError
from lmsfe_sam.images.image import turn
from lmsfe_sam.images.pictures import read_indices, stored_orientation
from lmsfe_sam.images.reading import read_header, read_image

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
