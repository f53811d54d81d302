"""Every format gives the image the right way up, with the geometry of its file."""

from __future__ import annotations

import gzip
import io
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from lmsfe_sam.errors import InputError
from lmsfe_sam.images.formats import is_input, stem
from lmsfe_sam.images.reading import read_image
from lmsfe_sam.inference.transforms import SLICE, SPACING, LoadFileImaged
from medical_files import save_dicom, ultrasound_region

PIXELS = np.random.default_rng(0).integers(0, 256, (11, 17), np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 256, (11, 17, 3), np.uint8)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def sitk_affine(image: sitk.Image) -> np.ndarray:
    """The affine in LPS that SimpleITK sees, filled up to three dimensions."""
    n = image.GetDimension()
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(n, n)
    affine[:n, :n] = direction @ np.diag(image.GetSpacing())
    affine[:n, 3] = image.GetOrigin()
    return affine


class TestPictures:
    @pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".TIFF"])
    def test_lossless(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"a{suffix}"
        Image.fromarray(COLOURS).save(path)
        image = read_image(path)
        np.testing.assert_array_equal(image.pixels, COLOURS)
        assert image.shape == (17, 11)
        assert np.isnan(image.spacing).all()
        np.testing.assert_array_equal(image.affine, LPS)

    def test_jpeg(self, tmp_path: Path) -> None:
        smooth = np.add.outer(np.arange(40), 3 * np.arange(60)).astype(np.uint8)
        Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
        assert np.abs(read_image(tmp_path / "a.jpg").pixels.astype(int) - smooth).max() < 8

    def test_sixteen_bits_and_alpha(self, tmp_path: Path) -> None:
        deep = PIXELS.astype(np.uint16) * 200
        Image.fromarray(deep).save(tmp_path / "deep.png")
        np.testing.assert_array_equal(read_image(tmp_path / "deep.png").pixels, deep)
        Image.fromarray(np.dstack([COLOURS, PIXELS])).save(tmp_path / "rgba.png")
        loaded = LoadFileImaged("image")({"image": tmp_path / "rgba.png"})["image"]
        np.testing.assert_array_equal(loaded.numpy().transpose(1, 2, 0), COLOURS)

    def test_pages_of_a_tiff_are_slices(self, tmp_path: Path) -> None:
        pages = [Image.fromarray(COLOURS[..., k]) for k in range(3)]
        pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
        read = read_image(tmp_path / "a.tif", 2)
        np.testing.assert_array_equal(read.pixels, COLOURS[..., 2])
        assert (read.shape, read.index) == ((17, 11, 3), 2)
        with pytest.raises(InputError, match="has 3 slices"):
            read_image(tmp_path / "a.tif")


OBLIQUE = np.array([[0.2, 0.05, -0.1, 12.0], [-0.04, 0.3, 0.2, -7.0], [0.01, -0.06, 1.5, 33.0], [0, 0, 0, 1]])
AFFINES = {
    "identity": np.eye(4),
    "lps": LPS @ np.diag([0.3, 0.2, 1, 1]),
    "flipped": np.diag([0.3, -0.2, 2, 1]),
    "turned": np.array([[0, 0.2, 0, 5], [0, 0, 1, 6], [0.3, 0, 0, 7], [0, 0, 0, 1.0]]),
    "oblique": OBLIQUE,
}


class TestNifti:
    @pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
    @pytest.mark.parametrize("shape", [(17, 11), (17, 11, 1), (17, 11, 1, 1)], ids=str)
    def test_one_slice(self, tmp_path: Path, affine: np.ndarray, shape: tuple[int, ...]) -> None:
        path = tmp_path / "a.nii.gz"
        nib.save(nib.Nifti1Image(PIXELS.T.reshape(shape), affine), path)
        image = read_image(path)
        np.testing.assert_array_equal(image.pixels, PIXELS)
        assert image.pixels.dtype == np.uint8
        assert image.shape == shape
        np.testing.assert_allclose(image.affine, affine, atol=1e-6)
        steps = np.linalg.norm(affine[:3, :3], axis=0)
        np.testing.assert_allclose(image.spacing, (steps[1], steps[0]), rtol=1e-6)

    def test_slices_are_chosen(self, tmp_path: Path) -> None:
        path = tmp_path / "a.nii"
        volume = np.random.default_rng(2).random((17, 11, 5)).astype(np.float32)
        nib.save(nib.Nifti1Image(volume, OBLIQUE), path)
        np.testing.assert_array_equal(read_image(path, 3).pixels, volume[:, :, 3].T)
        with pytest.raises(InputError, match=r"a\.nii' has 5 slices: choose one with --slice 0 to --slice 4"):
            read_image(path)
        with pytest.raises(InputError, match="has 5 slices, and 5 is not one of them"):
            read_image(path, 5)

    def test_time_counts_as_slices_but_not_beside_them(self, tmp_path: Path) -> None:
        film = np.random.default_rng(3).integers(0, 9, (17, 11, 1, 4), np.int16)
        nib.save(nib.Nifti1Image(film, np.eye(4)), tmp_path / "film.nii")
        np.testing.assert_array_equal(read_image(tmp_path / "film.nii", 2).pixels, film[:, :, 0, 2].T)
        nib.save(nib.Nifti1Image(np.zeros((4, 4, 3, 2), np.int16), np.eye(4)), tmp_path / "both.nii")
        with pytest.raises(InputError, match="save one 2-D or 3-D image"):
            read_image(tmp_path / "both.nii", 0)

    def test_colours(self, tmp_path: Path) -> None:
        rgb = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
        packed = np.ascontiguousarray(COLOURS.transpose(1, 0, 2)).view(rgb).reshape(17, 11, 1)
        nib.save(nib.Nifti1Image(packed, np.eye(4)), tmp_path / "a.nii")
        np.testing.assert_array_equal(read_image(tmp_path / "a.nii").pixels, COLOURS)

    @pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("meter", 1000), ("micron", 0.001), (None, 1)])
    def test_units(self, tmp_path: Path, unit: str | None, factor: float) -> None:
        image = nib.Nifti1Image(PIXELS.T[..., None], np.diag([0.5, 0.25, 1, 1]))
        if unit:
            image.header.set_xyzt_units(unit)
        nib.save(image, tmp_path / "a.nii")
        np.testing.assert_allclose(read_image(tmp_path / "a.nii").spacing, (0.25 * factor, 0.5 * factor))


class TestItk:
    @pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nhdr", ".mhd"])
    def test_two_dimensions(self, tmp_path: Path, suffix: str) -> None:
        image = sitk.GetImageFromArray(PIXELS)
        image.SetSpacing((0.3, 0.2))
        image.SetOrigin((4.0, 5.0))
        image.SetDirection((0.0, -1.0, 1.0, 0.0))
        sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
        read = read_image(tmp_path / f"a{suffix}")
        np.testing.assert_array_equal(read.pixels, PIXELS)
        assert read.shape == (17, 11)
        np.testing.assert_allclose(read.spacing, (0.2, 0.3))
        np.testing.assert_allclose(LPS @ read.affine, sitk_affine(image), atol=1e-9)

    def test_three_dimensions(self, tmp_path: Path) -> None:
        volume = np.random.default_rng(4).integers(0, 60000, (3, 11, 17), np.uint16)
        image = sitk.GetImageFromArray(volume)
        image.SetSpacing((0.3, 0.2, 2.0))
        image.SetDirection((0, 0, 1, 1, 0, 0, 0, 1, 0))
        sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
        read = read_image(tmp_path / "a.nrrd", 2)
        np.testing.assert_array_equal(read.pixels, volume[2])
        np.testing.assert_allclose(LPS @ read.affine, sitk_affine(image), atol=1e-9)
        with pytest.raises(InputError, match="has 3 slices"):
            read_image(tmp_path / "a.nrrd")

    def test_colours(self, tmp_path: Path) -> None:
        sitk.WriteImage(sitk.GetImageFromArray(COLOURS, isVector=True), str(tmp_path / "a.nrrd"))
        read = read_image(tmp_path / "a.nrrd")
        np.testing.assert_array_equal(read.pixels, COLOURS)
        assert read.shape == (17, 11)
        deep = sitk.GetImageFromArray(COLOURS.astype(np.uint16), isVector=True)
        sitk.WriteImage(deep, str(tmp_path / "deep.mha"))
        np.testing.assert_array_equal(read_image(tmp_path / "deep.mha").pixels, COLOURS.astype(np.uint16))

    def test_a_spacing_that_nobody_stated_is_unknown(self, tmp_path: Path) -> None:
        head = b"NRRD0001\ntype: uchar\ndimension: 2\nsizes: 17 11\nencoding: raw\n\n"
        (tmp_path / "a.nrrd").write_bytes(head + PIXELS.tobytes())
        read = read_image(tmp_path / "a.nrrd")
        np.testing.assert_array_equal(read.pixels, PIXELS)
        assert np.isnan(read.spacing).all()


class TestDicom:
    def test_grey_and_colour_and_deep(self, tmp_path: Path) -> None:
        for name, pixels in {"grey": PIXELS, "colour": COLOURS, "deep": PIXELS.astype(np.uint16) * 9}.items():
            read = read_image(save_dicom(tmp_path / f"{name}.dcm", pixels))
            np.testing.assert_array_equal(read.pixels, pixels)
            assert read.shape == (17, 11, 1)
            assert np.isnan(read.spacing).all()
            np.testing.assert_array_equal(read.affine, LPS)

    def test_no_warning_about_what_ultrasound_never_has(self, tmp_path: Path) -> None:
        path = save_dicom(tmp_path / "a.dcm", PIXELS)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read_image(path)

    def test_without_a_suffix(self, tmp_path: Path) -> None:
        for name in ("IM_0001", "1.2.840.113619.2"):
            path = save_dicom(tmp_path / name, PIXELS)
            assert is_input(path)
            assert stem(path) == name
            np.testing.assert_array_equal(read_image(path).pixels, PIXELS)

    def test_frames(self, tmp_path: Path) -> None:
        film = np.random.default_rng(5).integers(0, 256, (4, 11, 17), np.uint8)
        path = save_dicom(tmp_path / "a.dcm", film, frames=4)
        read = read_image(path, 2)
        np.testing.assert_array_equal(read.pixels, film[2])
        assert read.shape == (17, 11, 4)
        with pytest.raises(InputError, match="has 4 slices"):
            read_image(path)
        film = np.random.default_rng(6).integers(0, 256, (2, 11, 17, 3), np.uint8)
        path = save_dicom(tmp_path / "b.dcm", film, frames=2)
        np.testing.assert_array_equal(read_image(path, 1).pixels, film[1])

    def test_spacing_and_orientation(self, tmp_path: Path) -> None:
        path = save_dicom(
            tmp_path / "a.dcm",
            PIXELS,
            PixelSpacing=[0.2, 0.3],
            ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
            ImagePositionPatient=[10, 20, 30],
        )
        read = read_image(path)
        assert read.spacing == (0.2, 0.3)
        np.testing.assert_allclose(LPS @ read.affine, sitk_affine(sitk.ReadImage(str(path))), atol=1e-6)

    def test_spacing_of_ultrasound_regions(self, tmp_path: Path) -> None:
        region = ultrasound_region(0.03, 0.02)
        doppler = ultrasound_region(0.5, 0.7, units=4, spatial_format=3)
        path = save_dicom(tmp_path / "a.dcm", PIXELS, SequenceOfUltrasoundRegions=[region, region, doppler])
        np.testing.assert_allclose(read_image(path).spacing, (0.2, 0.3))
        two_scales = [region, ultrasound_region(0.04, 0.02)]
        path = save_dicom(tmp_path / "b.dcm", PIXELS, SequenceOfUltrasoundRegions=two_scales)
        assert np.isnan(read_image(path).spacing).all()

    def test_white_may_be_the_lowest(self, tmp_path: Path) -> None:
        path = save_dicom(tmp_path / "a.dcm", PIXELS, PhotometricInterpretation="MONOCHROME1")
        np.testing.assert_array_equal(read_image(path).pixels, 255 - PIXELS)

    def test_compressed_as_scanners_do_it(self, tmp_path: Path) -> None:
        smooth = np.add.outer(np.arange(32), 3 * np.arange(48)).astype(np.uint8)
        colours = np.dstack([smooth, 255 - smooth, smooth // 2])
        stream = io.BytesIO()
        Image.fromarray(colours).save(stream, "JPEG", quality=95)
        path = save_dicom(tmp_path / "a.dcm", colours, PhotometricInterpretation="YBR_FULL_422")
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        dataset.PixelData = encapsulate([stream.getvalue()])
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(path)
        assert np.abs(read_image(path).pixels.astype(int) - colours)[2:-2, 2:-2].mean() < 8

    def test_palette(self, tmp_path: Path) -> None:
        table = np.random.default_rng(7).integers(0, 256, (3, 256), np.uint16)
        tables = {}
        for name, entries in zip(("Red", "Green", "Blue"), table, strict=True):
            tables[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
            tables[f"{name}PaletteColorLookupTableData"] = (entries << 8).astype("<u2").tobytes()
        path = save_dicom(tmp_path / "a.dcm", PIXELS, PhotometricInterpretation="PALETTE COLOR", **tables)
        np.testing.assert_array_equal(read_image(path).pixels, table[:, PIXELS].transpose(1, 2, 0))


class TestDamage:
    def test_each_format_says_so_in_one_sentence(self, tmp_path: Path) -> None:
        Image.fromarray(COLOURS).save(tmp_path / "a.png")
        nib.save(
            nib.Nifti1Image(np.random.default_rng(8).random((50, 50, 1)), np.eye(4)), tmp_path / "b.nii.gz"
        )
        sitk.WriteImage(
            sitk.GetImageFromArray(np.random.default_rng(9).random((50, 50))), str(tmp_path / "c.nrrd")
        )
        save_dicom(tmp_path / "d.dcm", PIXELS)
        for path in sorted(tmp_path.iterdir()):
            whole = path.read_bytes()
            for damaged in (whole[: len(whole) // 2], b"", b"nonsense" * 40):
                path.write_bytes(damaged)
                with pytest.raises(InputError, match=path.name) as caught:
                    read_image(path)
                assert "\n" not in str(caught.value)

    def test_a_damaged_gzip_stream(self, tmp_path: Path) -> None:
        (tmp_path / "a.nii.gz").write_bytes(gzip.compress(b"x" * 1000)[:-20])
        with pytest.raises(InputError, match="cannot be read as NIfTI"):
            read_image(tmp_path / "a.nii.gz")

    def test_unknown_files(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("no image")
        assert not is_input(tmp_path / "notes.txt")
        assert not is_input(tmp_path)
        with pytest.raises(InputError, match="no known format"):
            read_image(tmp_path / "notes.txt")


class TestLoadFileImaged:
    def test_the_tensor_and_its_metadata(self, tmp_path: Path) -> None:
        volume = np.random.default_rng(10).integers(0, 256, (17, 11, 5), np.uint8)
        nib.save(nib.Nifti1Image(volume, OBLIQUE), tmp_path / "a.nii")
        image = LoadFileImaged("image", slice_index=3)({"image": tmp_path / "a.nii", "name": "a.nii"})[
            "image"
        ]
        assert image.dtype == torch.uint8
        assert image.shape == (3, 11, 17)
        np.testing.assert_array_equal(image[2].numpy(), volume[:, :, 3].T)
        assert image.meta[SLICE] == 3
        assert image.meta["spatial_shape"].tolist() == [17, 11, 5]
        np.testing.assert_allclose(image.meta["original_affine"], OBLIQUE, atol=1e-6)
        np.testing.assert_allclose(
            image.meta[SPACING], np.linalg.norm(OBLIQUE[:3, [1, 0]], axis=0), rtol=1e-6
        )
        row, column = 4, 9
        place = image.affine.numpy() @ [row, column, 0, 1]
        np.testing.assert_allclose(place, OBLIQUE @ [column, row, 3, 1], atol=1e-5)

    def test_other_types_are_stretched(self, tmp_path: Path) -> None:
        nib.save(nib.Nifti1Image(np.array([[[-5.0], [0.0], [5.0]]]), np.eye(4)), tmp_path / "a.nii")
        image = LoadFileImaged("image")({"image": tmp_path / "a.nii"})["image"]
        assert image[0, :, 0].tolist() == [0, 128, 255]
