"""One 2-D image out of a file of any format, with what it takes to write a mask beside it.

Volumes are in the axes of their file, x (columns) before y (rows) before slices or frames, as
nibabel and ITK give them; the image that is segmented is (rows, columns).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import ITKReader, MetaTensor, NibabelReader, PydicomReader
from monai.data.utils import to_affine_nd
from monai.transforms import MapTransform
from monai.utils import MetaKeys, SpaceKeys
from PIL import Image

from lmsfe_sam.data.pictures import PICTURE_SUFFIXES, read_picture
from lmsfe_sam.errors import InputError
from lmsfe_sam.inference.formats import ITK_SUFFIXES, NIFTI_SUFFIXES, is_dicom, known_suffix
from lmsfe_sam.predict.preprocessing import to_rgb_uint8

SLICE = "slice"
"""Metadata key: the index of the image among its file's slices."""

SPACING = "spacing"
"""Metadata key: row and column spacing in mm, NaN where it is unknown."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_UNKNOWN = (math.nan, math.nan)
_MILLIMETRES = {1: 1000.0, 2: 1.0, 3: 0.001}
"""NIfTI's codes for metre, millimetre and micrometre."""

_CENTIMETRES = 3
"""DICOM's code for a physical unit of cm in an ultrasound region."""


@dataclass(frozen=True)
class FileImage:
    """A file's image, or one slice of it.

    Attributes:
        pixels: (H, W) or (H, W, C), of any type.
        affine: (4, 4), from the file's voxels (x, y, slice) to RAS mm.
        shape: the file's spatial axes, (W, H) or (W, H, slices, ...).
        index: of the slice.
        spacing: rows and columns in mm, NaN where unknown.
    """

    pixels: np.ndarray
    affine: np.ndarray
    shape: tuple[int, ...]
    index: int = 0
    spacing: tuple[float, float] = _UNKNOWN


class LoadFileImaged(MapTransform):
    """Load the image of a file as (3, H, W) uint8, RGB, a `MetaTensor`.

    Pictures (PNG, JPEG, BMP, TIFF, ...), NIfTI, NRRD, MetaImage and DICOM are read. Its metadata
    hold the file's ``spatial_shape`` and ``original_affine``, the ``slice``, and the ``spacing``
    (rows, columns; mm); ``affine`` is that of the tensor's own axes.

    Args:
        keys: of the paths.
        slice_index: which slice or frame of a file that has several, from 0; a record's own ``slice``
            comes first.
        allow_missing_keys: as for every MONAI `MapTransform`.

    Raises:
        InputError: when called, on a file that cannot be read, or has several slices and
            ``slice_index`` is None or too large.
    """

    def __init__(
        self, keys: KeysCollection, slice_index: int | None = None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.slice_index = slice_index

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:  # noqa: D102
        result = dict(data)
        for key in self.key_iterator(result):
            path = result[key]
            index = result.get(SLICE, self.slice_index)
            image = read_image(path, index)
            if SLICE in result and image.index != index:
                raise InputError(
                    f"'{path}' has one slice alone, and {index} is not it: give slice 0 or none."
                )
            rows_first = np.eye(4)[[1, 0, 2, 3]]
            rows_first[2, 3] = image.index
            result[key] = MetaTensor(
                torch.from_numpy(to_rgb_uint8(image.pixels)).permute(2, 0, 1).contiguous(),
                affine=torch.from_numpy(image.affine @ rows_first),
                meta={
                    MetaKeys.ORIGINAL_AFFINE: image.affine,
                    MetaKeys.SPATIAL_SHAPE: np.array(image.shape),
                    MetaKeys.SPACE: SpaceKeys.RAS,
                    SLICE: image.index,
                    SPACING: np.array(image.spacing),
                    "filename_or_obj": str(path),
                },
            )
        return result


def read_image(path: str | os.PathLike[str], slice_index: int | None = None) -> FileImage:
    """Read the image of a file.

    Args:
        path: a picture, NIfTI, NRRD, MetaImage or DICOM file.
        slice_index: which slice or frame of a file that has several, from 0.

    Raises:
        InputError: see `LoadFileImaged`.
    """
    file = Path(path)
    read, form = _reader(file)
    try:
        return read(file, slice_index)
    except InputError:
        raise
    except Exception as error:  # the libraries raise whatever they like on a damaged file
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1][:160].rstrip(".")
        raise InputError(
            f"'{file}' cannot be read as {form} ({reason}): "
            "copy it again from its source, or take it out of the folder."
        ) from error


def _reader(file: Path) -> tuple[Callable[[Path, int | None], FileImage], str]:
    suffix = known_suffix(file)
    if suffix in NIFTI_SUFFIXES:
        return _read_nifti, "NIfTI"
    if suffix in ITK_SUFFIXES:
        return _read_itk, "NRRD or MetaImage"
    if suffix in PICTURE_SUFFIXES:
        return _read_picture_file, "a picture"
    if is_dicom(file):
        return _read_dicom, "DICOM"
    raise InputError(f"'{file}' is of no known format: give a picture, NIfTI, NRRD, MetaImage or DICOM file.")


def _read_picture_file(file: Path, slice_index: int | None) -> FileImage:
    if known_suffix(file) in (".tif", ".tiff"):
        with Image.open(file) as pages:
            count = getattr(pages, "n_frames", 1)
            if count > 1:
                index = _choose(count, slice_index, file)
                pages.seek(index)
                pixels = np.array(pages.convert("RGB") if pages.mode == "P" else pages)
                return FileImage(pixels, LPS_TO_RAS, (pages.width, pages.height, count), index)
    pixels = read_picture(file)
    return FileImage(pixels, LPS_TO_RAS, (pixels.shape[1], pixels.shape[0]))


def _read_nifti(file: Path, slice_index: int | None) -> FileImage:
    reader = NibabelReader()
    volume, meta = reader.get_data(reader.read(file))
    if volume.dtype.fields:  # RGB24 and RGBA32 are structures of bytes
        volume = np.stack([volume[name] for name in volume.dtype.fields], axis=-1)
        spatial = volume.shape[:-1]
    else:
        spatial = volume.shape
    pixels, index = _cut(volume, spatial, slice_index, file)
    affine = meta[MetaKeys.AFFINE]
    unit = _MILLIMETRES.get(int(meta["xyzt_units"]) & 7, 1.0)
    return FileImage(pixels, affine, spatial, index, _spacing(affine, unit))


def _read_itk(file: Path, slice_index: int | None) -> FileImage:
    reader = ITKReader(**_itk_pixels(file))
    volume, meta = reader.get_data(reader.read(file))
    spatial = volume.shape[: len(meta[MetaKeys.SPATIAL_SHAPE])]
    pixels, index = _cut(volume, spatial, slice_index, file)
    affine = to_affine_nd(3, meta[MetaKeys.AFFINE])
    return FileImage(pixels, affine, spatial, index, _spacing(affine) if _states_spacing(file) else _UNKNOWN)


def _itk_pixels(file: Path) -> dict[str, Any]:
    """Name the pixel type of a colour image; ITK's Python reads it only if told."""
    import itk

    header = itk.ImageIOFactory.CreateImageIO(str(file), itk.CommonEnums.IOFileMode_ReadMode)
    if header is None:
        raise InputError(f"'{file}' is no NRRD or MetaImage: copy it again, or take it out of the folder.")
    header.SetFileName(str(file))
    header.ReadImageInformation()
    channels = header.GetNumberOfComponents()
    kind = header.GetComponentTypeAsString(header.GetComponentType())
    if channels == 1:
        return {}
    if channels not in (3, 4) or kind != "unsigned_char":
        raise InputError(f"'{file}' has {channels} values ({kind}) a pixel: save it grey or as 8-bit RGB.")
    return {"pixel_type": itk.RGBPixel[itk.UC] if channels == 3 else itk.RGBAPixel[itk.UC]}


def _read_dicom(file: Path, slice_index: int | None) -> FileImage:
    from pydicom.pixels import pixel_array

    dataset = PydicomReader().read(file)
    frames = int(dataset.get("NumberOfFrames") or 1)
    index = _choose(frames, slice_index, file)
    pixels = _as_shown(pixel_array(dataset, index=index), dataset)
    shape = (pixels.shape[1], pixels.shape[0], frames)
    spacing = _dicom_spacing(dataset)
    return FileImage(pixels, _dicom_affine(dataset, spacing), shape, index, spacing)


def _choose(count: int, slice_index: int | None, file: Path) -> int:
    if count == 1:
        return 0
    if slice_index is None or slice_index >= count:
        given = "" if slice_index is None else f", and {slice_index} is not one of them"
        raise InputError(
            f"'{file}' has {count} slices{given}: choose one with --slice 0 to --slice {count - 1}."
        )
    return slice_index


def _cut(
    volume: np.ndarray, spatial: tuple[int, ...], slice_index: int | None, file: Path
) -> tuple[np.ndarray, int]:
    """One slice of ``volume`` (x, y, ...), colours last, as (rows, columns[, colours]); and its index."""
    stacked = [size for size in spatial[2:] if size > 1]
    if len(spatial) < 2 or len(stacked) > 1:
        raise InputError(f"'{file}' has the shape {spatial}: save one 2-D or 3-D image of it.")
    index = _choose(stacked[0] if stacked else 1, slice_index, file)
    flat = volume.reshape(*spatial[:2], -1, *volume.shape[len(spatial) :])
    return np.swapaxes(flat[:, :, index], 0, 1), index


def _spacing(affine: np.ndarray, unit: float = 1.0) -> tuple[float, float]:
    """Row and column spacing, which belong to the file's second and first axis."""
    columns, rows = np.linalg.norm(affine[:3, :2], axis=0) * unit
    return float(rows), float(columns)


def _states_spacing(file: Path) -> bool:
    """Whether the header of a NRRD or MetaImage file states a spacing; ITK takes 1 where it does not."""
    with file.open("rb") as stream:
        header = stream.read(65536).split(b"\n\n")[0].lower()
    return any(
        key in header for key in (b"space directions:", b"spacings:", b"elementspacing", b"elementsize")
    )


def _as_shown(pixels: np.ndarray, dataset: Any) -> np.ndarray:
    """Apply a DICOM palette, and turn images whose lowest value is white."""
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        colours = apply_color_lut(pixels, dataset)
        return colours if colours.dtype == np.uint8 else (colours >> 8).astype(np.uint8)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        return (2 ** int(dataset.BitsStored) - 1 - pixels.astype(np.int64)).astype(pixels.dtype)
    return pixels


def _dicom_spacing(dataset: Any) -> tuple[float, float]:
    """PixelSpacing, or else what all calibrated 2-D ultrasound regions agree on."""
    if dataset.get("PixelSpacing"):
        rows, columns = dataset.PixelSpacing
        return float(rows), float(columns)
    found = {
        (10 * abs(float(region.PhysicalDeltaY)), 10 * abs(float(region.PhysicalDeltaX)))
        for region in dataset.get("SequenceOfUltrasoundRegions") or []
        if region.get("PhysicalUnitsXDirection") == region.get("PhysicalUnitsYDirection") == _CENTIMETRES
        and region.get("RegionSpatialFormat", 1) == 1
    }
    return found.pop() if len(found) == 1 else _UNKNOWN


def _dicom_affine(dataset: Any, spacing: tuple[float, float]) -> np.ndarray:
    rows, columns = (1.0 if math.isnan(step) else step for step in spacing)
    along_row, along_column = np.eye(3)[0], np.eye(3)[1]
    lps = np.eye(4)
    if dataset.get("ImageOrientationPatient") and dataset.get("ImagePositionPatient"):
        along_row, along_column = np.array(dataset.ImageOrientationPatient, dtype=float).reshape(2, 3)
        lps[:3, 3] = dataset.ImagePositionPatient
    lps[:3, 0], lps[:3, 1] = along_row * columns, along_column * rows
    lps[:3, 2] = np.cross(along_row, along_column)
    return LPS_TO_RAS @ lps
