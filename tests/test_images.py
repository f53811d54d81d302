"""Files as the field makes them: compressions, colours, windows, scales, orientations and frames."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from data_folders import speckle
from lmsfe_sam.data.masks.reading import record_mask
from lmsfe_sam.errors import InputError
from lmsfe_sam.images.image import NoImageError
from lmsfe_sam.images.reading import read_header, read_image
from medical_files import save_dicom, ultrasound_region

GREY = speckle(3)
RGB = np.dstack([GREY] * 3)
ROWS, COLUMNS = (part.ravel() for part in np.mgrid[20:30, 20:30])


def resave(path: Path, **attributes: object) -> Path:
    dataset = pydicom.dcmread(path)
    for name, value in attributes.items():
        setattr(dataset, name, value)
    dataset.save_as(path)
    return path


# --- DICOM: pixels --------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless], ids=lambda uid: uid.name)
@pytest.mark.parametrize("pixels", [GREY, RGB, GREY.astype(np.uint16) * 16], ids=["grey", "colour", "deep"])
def test_compressed_without_loss(tmp_path: Path, syntax: pydicom.uid.UID, pixels: np.ndarray) -> None:
    dataset = pydicom.dcmread(save_dicom(tmp_path / "a.dcm", pixels))
    dataset.compress(syntax, encoding_plugin="pydicom" if syntax == RLELossless else "")
    dataset.save_as(tmp_path / "a.dcm")
    np.testing.assert_array_equal(read_image(tmp_path / "a.dcm").pixels, pixels)


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize(("syntax", "colour"), [
    (pydicom.uid.RLELossless, False), (pydicom.uid.JPEGLSLossless, False), (pydicom.uid.JPEGLSLossless, True),
    (pydicom.uid.JPEG2000Lossless, True),
])  # fmt: skip
def test_gdcm_of_itk_decodes_what_no_plugin_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: pydicom.uid.UID, colour: bool, frames: int
) -> None:
    pixels = np.stack([np.roll(RGB if colour else GREY, 7 * frame, 1) for frame in range(frames)])
    dataset = pydicom.dcmread(save_dicom(tmp_path / "a.dcm", pixels if frames > 1 else pixels[0], frames))
    dataset.compress(syntax)
    dataset.save_as(tmp_path / "a.dcm")

    def fail(_: object) -> None:
        raise RuntimeError("no plugin")

    monkeypatch.setattr("pydicom.pixels.get_decoder", fail)
    np.testing.assert_array_equal(read_image(tmp_path / "a.dcm", frames - 1).pixels, pixels[-1])


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_in_either_byte_order(tmp_path: Path, bits: int) -> None:
    table = np.random.default_rng(1).integers(0, 256, (3, 256)).astype(np.uint16)
    for order in "<>":
        tables = {}
        for name, entries in zip(("Red", "Green", "Blue"), table, strict=True):
            words = (entries << 8) if bits == 16 else entries[::2] | (entries[1::2] << 8)
            tables[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
            tables[f"{name}PaletteColorLookupTableData"] = words.astype(f"{order}u2").tobytes()
        path = save_dicom(tmp_path / "a.dcm", GREY, PhotometricInterpretation="PALETTE COLOR", **tables)
        if order == ">":
            dataset = pydicom.dcmread(path)
            dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()  # OW
            pydicom.dcmwrite(path, dataset, implicit_vr=False, little_endian=False)
        np.testing.assert_array_equal(read_image(path).pixels, table[:, GREY].transpose(1, 2, 0))


def test_windows_of_deep_grey(tmp_path: Path) -> None:
    deep = GREY.astype(np.uint16) * 10
    deep[0, 0] = 65535
    path = save_dicom(tmp_path / "a.dcm", deep, WindowCenter=[1275, 9], WindowWidth=[2550, 1])
    shown = read_image(path).pixels
    assert shown.dtype == np.uint8 and np.abs(shown.astype(int) - GREY)[1:].max() <= 1
    path = resave(path, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(read_image(path).pixels, 255 - shown)
    path = resave(path, WindowWidth=0)
    assert read_image(path).pixels.dtype == np.uint16


def test_signed_values_and_rescaling(tmp_path: Path) -> None:
    signed = GREY.astype(np.int16) - 128
    path = save_dicom(tmp_path / "a.dcm", signed, PixelRepresentation=1, RescaleSlope=-1, RescaleIntercept=0)
    np.testing.assert_array_equal(read_image(path).pixels, -signed.astype(float))


def test_overlays_in_unused_bits_are_no_pixels(tmp_path: Path) -> None:
    stored = GREY.astype(np.uint16) | (np.uint16(1) << 14)
    path = save_dicom(tmp_path / "a.dcm", stored, BitsStored=8, HighBit=7)
    np.testing.assert_array_equal(read_image(path).pixels, GREY)


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("stated", ["RGB", "YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize("actual", ["RGB", "YBR_FULL"])
def test_colours_by_what_the_pixels_are(tmp_path: Path, stated: str, actual: str, planar: int) -> None:
    pixels = RGB.copy() if actual == "RGB" else np.dstack([GREY, np.full((*GREY.shape, 2), 128, np.uint8)])
    stored = pixels.transpose(2, 0, 1) if planar else pixels
    path = save_dicom(
        tmp_path / "a.dcm", pixels, PhotometricInterpretation=stated, PlanarConfiguration=planar
    )
    path = resave(path, PixelData=np.ascontiguousarray(stored).tobytes())
    assert np.abs(read_image(path).pixels.astype(int) - RGB).max() <= 1


def test_without_a_preamble_and_with_missing_tags(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "IM1", GREY)
    dataset = pydicom.dcmread(path)
    for key in (
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "SamplesPerPixel",
        "PhotometricInterpretation",
    ):
        del dataset[key]
    dataset.save_as(path)
    np.testing.assert_array_equal(read_image(path).pixels, GREY)
    path.write_bytes(path.read_bytes()[132:])
    np.testing.assert_array_equal(read_image(path).pixels, GREY)


def test_what_holds_no_image_says_so(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "a.dcm", GREY)
    dataset = pydicom.dcmread(path)
    for key in ("PixelData", "Rows", "Columns"):
        del dataset[key]
    dataset.SOPClassUID = pydicom.uid.ComprehensiveSRStorage
    dataset.save_as(path)
    with pytest.raises(NoImageError, match=r"a\.dcm' holds no image, but .*SR"):
        read_image(path)


# --- DICOM: scale ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stated", [b"0\\0", b"-1\\1", b"0,1\\0,1", b"nan\\nan", b"abc", b"0.1", b"\\", b""])
def test_a_spacing_that_is_none_is_unknown(tmp_path: Path, stated: bytes) -> None:
    path = save_dicom(tmp_path / "a.dcm", GREY, PixelSpacing=[0.25, 0.25])
    data = path.read_bytes()
    before, after = data.split(b"0.25\\0.25 ") if b"0.25\\0.25 " in data else data.split(b"0.25\\0.25")
    padded = stated.ljust(len(data) - len(before) - len(after), b" ")[: len(data) - len(before) - len(after)]
    path.write_bytes(before + padded + after)
    image = read_image(path)
    np.testing.assert_array_equal(image.pixels, GREY)
    assert np.isnan(image.spacing).all() and image.scale.source == ""


def _region(x0: int, y0: int, x1: int, y1: int, delta: float, **more: int) -> Dataset:
    region = ultrasound_region(delta, delta, **more)
    region.RegionLocationMinX0, region.RegionLocationMinY0 = x0, y0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = x1, y1
    return region


def test_each_object_has_the_scale_of_its_region(tmp_path: Path) -> None:
    regions = [
        _region(0, 0, 71, 59, 0.01),
        _region(15, 15, 40, 40, 0.02),
        _region(50, 0, 71, 59, 0.5, units=4, spatial_format=3),
    ]
    path = save_dicom(tmp_path / "a.dcm", GREY, SequenceOfUltrasoundRegions=regions, PixelSpacing=[1, 1])
    scale = read_image(path).scale
    assert scale.of_object(ROWS, COLUMNS) == ((0.2, 0.2), "region")
    assert scale.of_object(ROWS + 25, COLUMNS - 20) == ((0.1, 0.1), "region")
    assert scale.of_object(ROWS, COLUMNS + 35)[1] == ""


@pytest.mark.parametrize("lost", ["PhysicalDeltaX", "PhysicalUnitsYDirection", "RegionSpatialFormat"])
def test_regions_with_lost_tags(tmp_path: Path, lost: str) -> None:
    region = _region(0, 0, 71, 59, 0.01)
    del region[lost]
    path = save_dicom(tmp_path / "a.dcm", GREY, SequenceOfUltrasoundRegions=[region])
    assert read_image(path).scale.of_object(ROWS, COLUMNS)[1] == ("region" if "Format" in lost else "")


@pytest.mark.parametrize("key", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
def test_functional_groups_state_the_scale(tmp_path: Path, key: str) -> None:
    measures, group = Dataset(), Dataset()
    measures.PixelSpacing = [0.3, 0.2]
    group.PixelMeasuresSequence = Sequence([measures])
    film = np.stack([GREY, GREY])
    path = save_dicom(tmp_path / "a.dcm", film, frames=2, **{key: Sequence([group] * 2)})
    assert read_image(path, 1).scale.spacing == (0.3, 0.2)


# --- pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_exif_is_applied_to_pixels_and_sizes(tmp_path: Path, turned: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[274] = turned
    options = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(RGB).save(tmp_path / f"a{suffix}", exif=exif, **options)
    shown = {
        **{1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1], 5: RGB.transpose(1, 0, 2)},
        **{6: np.rot90(RGB, -1), 7: np.rot90(RGB, 2).transpose(1, 0, 2), 8: np.rot90(RGB)},
    }[turned]
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}").pixels, shown)
    header = read_header(tmp_path / f"a{suffix}")
    assert (header.rows, header.columns) == shown.shape[:2]


def test_a_mask_is_turned_as_its_image_or_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(GREY).save(tmp_path / "i.png", exif=exif)
    mask = GREY > 150
    record = {"image": str(tmp_path / "i.png"), "label": [str(tmp_path / "m.png")]}
    for drawn in (mask, np.rot90(mask, -1)):
        Image.fromarray(drawn).save(tmp_path / "m.png")
        np.testing.assert_array_equal(record_mask(record, mask.shape[::-1]), np.rot90(mask, -1))
    exif[274] = 3
    Image.fromarray(GREY).save(tmp_path / "i.png", exif=exif)
    Image.fromarray(mask).save(tmp_path / "m.png")
    with pytest.raises(InputError, match=r"i\.png' has the EXIF orientation 3, and its mask '.*m\.png'"):
        record_mask(record, mask.shape)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".apng", ".tif"])
def test_frames_of_pictures(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(np.full((20, 30), level, np.uint8)) for level in (10, 120, 250)]
    options = {} if suffix == ".tif" else {"lossless": True} if suffix == ".webp" else {"duration": 50}
    kind = "PNG" if suffix == ".apng" else None
    frames[0].save(tmp_path / f"a{suffix}", kind, save_all=True, append_images=frames[1:], **options)
    assert read_header(tmp_path / f"a{suffix}").frames == 3
    assert abs(float(read_image(tmp_path / f"a{suffix}", 1).pixels[..., :1].mean()) - 120) <= 3
    with pytest.raises(InputError, match="has 3 slices, and 9 is not one of them"):
        read_image(tmp_path / f"a{suffix}", 9)


def test_the_still_picture_of_an_apng_is_no_frame(tmp_path: Path) -> None:
    still, *frames = [Image.fromarray(np.full((20, 30), level, np.uint8)) for level in (10, 120, 250)]
    still.save(tmp_path / "a.png", save_all=True, append_images=frames, default_image=True, duration=50)
    assert read_header(tmp_path / "a.png").frames == 2
    assert read_image(tmp_path / "a.png", 0).pixels.mean() == 120


def test_a_slice_of_a_file_of_one_is_refused(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png' has one slice alone, and 3 is not it"):
        read_image(tmp_path / "a.png", 3)


@pytest.mark.parametrize("deep", [False, True])
def test_a_tiff_whose_lowest_value_is_white(tmp_path: Path, deep: bool) -> None:
    stored = (255 - GREY).astype(np.uint16) * 257 if deep else 255 - GREY
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, GREY)


def test_tiffs_that_pillow_does_not_read(tmp_path: Path) -> None:
    deep = RGB.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "deep.tif", deep, photometric="rgb")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.tif").pixels, deep)
    stack = np.stack([GREY, GREY.T[:60, :60].repeat(2, 1)[:, :72]])
    tifffile.imwrite(tmp_path / "stack.tif", stack, imagej=True)
    np.testing.assert_array_equal(read_image(tmp_path / "stack.tif", 1).pixels, stack[1])


def test_nan_is_the_lowest_value_and_the_file_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    real = GREY.astype(np.float32)
    real[:5] = np.nan
    Image.fromarray(real).save(tmp_path / "b.tif")
    assert read_image(tmp_path / "b.tif").pixels[0, 0] == np.nanmin(real)
    assert "b.tif" in caplog.text


# --- volumes --------------------------------------------------------------------------------------


def test_colours_of_nifti_in_its_fifth_axis(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(RGB, isVector=True), str(tmp_path / "a.nii.gz"))
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii.gz").pixels, RGB)


@pytest.mark.parametrize("ones", [0, 1, 2])
@pytest.mark.parametrize("intent", [1007, 2003])
def test_colours_of_nifti_by_its_intent(tmp_path: Path, ones: int, intent: int) -> None:
    turned = RGB.swapaxes(0, 1)
    volume = nib.Nifti1Image(turned.reshape(*turned.shape[:2], *[1] * ones, 3), np.eye(4))
    volume.header.set_intent(intent)
    nib.save(volume, tmp_path / "a.nii.gz")
    assert read_header(tmp_path / "a.nii.gz").frames == 1
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii.gz").pixels, RGB)


@pytest.mark.parametrize("step", [0.0, -0.1, np.nan])
def test_a_spacing_of_nifti_that_is_none(tmp_path: Path, step: float) -> None:
    image = nib.Nifti1Image(GREY.T[..., None], np.diag([0.1, 0.1, 1, 1]))
    nib.save(image, tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    data[80:88] = np.array([step, step], "<f4").tobytes()  # pixdim[1:3]
    (tmp_path / "a.nii").write_bytes(data)
    read = read_image(tmp_path / "a.nii")
    np.testing.assert_array_equal(read.pixels, GREY)
    assert np.isnan(read.spacing).all() and np.isfinite(read.affine).all()


@pytest.mark.parametrize("first", [True, False])
def test_the_list_axis_of_a_sequence(tmp_path: Path, first: bool) -> None:
    film = np.random.default_rng(2).integers(0, 256, (5, *GREY.shape), np.uint8)
    height, width = GREY.shape
    axes = [("5", "list", "none"), (str(width), "domain", "(0.1,0,0)"), (str(height), "domain", "(0,0.2,0)")]
    axes.append(("1", "domain", "(0,0,1)"))
    order = axes if first else [*axes[1:], axes[0]]
    head = (
        "NRRD0005\ntype: uint8\ndimension: 4\nspace: left-posterior-superior\n"
        f"sizes: {' '.join(one[0] for one in order)}\nkinds: {' '.join(one[1] for one in order)}\n"
        f"space directions: {' '.join(one[2] for one in order)}\nencoding: raw\nspace origin: (0,0,0)\n\n"
    )
    pixels = film.transpose(1, 2, 0) if first else film
    (tmp_path / "a.seq.nrrd").write_bytes(head.encode() + np.ascontiguousarray(pixels).tobytes())
    read = read_image(tmp_path / "a.seq.nrrd", 3)
    np.testing.assert_array_equal(read.pixels, film[3])
    assert (read.shape, read.spacing) == ((width, height, 5), (0.2, 0.1))


@pytest.mark.parametrize("stated", ["0 0", "nan nan", "-0.1 0.1", "0,1 0,1"])
@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_spacing_of_nrrd_or_metaimage_that_is_none(tmp_path: Path, suffix: str, stated: str) -> None:
    height, width = GREY.shape
    if suffix == ".mha":
        head = f"NDims = 2\nDimSize = {width} {height}\nElementType = MET_UCHAR\nElementSpacing = {stated}\n"
        head += "ElementDataFile = LOCAL\n"
    else:
        if "," in stated:
            pytest.skip("a field of NRRD that is no number is a damaged header")
        head = f"NRRD0004\ntype: uchar\ndimension: 2\nsizes: {width} {height}\nspacings: {stated}\n"
        head += "encoding: raw\n\n"
    (tmp_path / f"a{suffix}").write_bytes(head.encode() + GREY.tobytes())
    read = read_image(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read.pixels, GREY)
    assert np.isnan(read.spacing).all()
