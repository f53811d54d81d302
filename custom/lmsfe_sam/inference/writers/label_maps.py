"""Label maps as files, in the size and the geometry of the file that was segmented."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from monai.data import ITKWriter
from monai.utils import MetaKeys
from PIL import Image

from lmsfe_sam.files import atomic_write
from lmsfe_sam.inference.transforms import SLICE

OUTPUT_SUFFIXES = (".png", ".nii.gz", ".nii", ".nrrd", ".mha")
DICOM_SUFFIX = ".dcm"
"""Of masks that are DICOM segmentations; `lmsfe_sam.inference.writers.exporting` writes them."""


def to_file_axes(labels: np.ndarray, meta: Mapping[str, Any]) -> np.ndarray:
    """Bring labels (H, W) into the axes of the file, (x, y) or (x, y, slices); other slices are 0.

    Args:
        labels: of one slice.
        meta: as `LoadFileImaged` makes it.
    """
    shape = tuple(int(size) for size in meta[MetaKeys.SPATIAL_SHAPE])
    volume = np.zeros((*shape[:2], int(np.prod(shape[2:]))), dtype=labels.dtype)
    volume[:, :, int(meta[SLICE])] = labels.T
    return volume.reshape(shape)


def write_label_map(path: str | os.PathLike[str], labels: np.ndarray, meta: Mapping[str, Any]) -> None:
    """Write labels (H, W) in the format that the suffix of ``path`` names.

    A PNG holds the slice alone; the other formats the whole volume with the file's affine.

    Raises:
        InputError: the file cannot be written.
    """
    if str(path).endswith(".png"):
        with atomic_write(path) as temporary:
            Image.fromarray(labels).save(temporary)
        return
    write_volume(path, {int(meta[SLICE]): labels}, meta)


def write_volume(
    path: str | os.PathLike[str], frames: Mapping[int, np.ndarray], meta: Mapping[str, Any]
) -> None:
    """Write the labels (H, W) of some frames as a volume with the file's affine; other frames are 0.

    Raises:
        InputError: the file cannot be written.
    """
    volume = sum(to_file_axes(labels, {**meta, SLICE: frame}) for frame, labels in frames.items())
    with atomic_write(path) as temporary:
        write = _write_nifti if temporary.name.endswith((".nii", ".nii.gz")) else _write_itk
        write(temporary, np.asarray(volume), np.asarray(meta[MetaKeys.ORIGINAL_AFFINE], dtype=np.float64))


def _write_nifti(path: Path, volume: np.ndarray, affine: np.ndarray) -> None:
    image = nibabel.Nifti1Image(volume, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    nibabel.save(image, path)


def _write_itk(path: Path, volume: np.ndarray, affine: np.ndarray) -> None:
    import itk

    in_plane = not affine[2, :2].any() and affine[2, 3] == 0
    if volume.ndim > 3 or not in_plane:  # ITK turns and shifts a 2-D image within its plane only
        volume = volume.reshape(*volume.shape[:2], -1)
    image = ITKWriter.create_backend_obj(
        volume, channel_dim=None, affine=affine, dtype=volume.dtype, affine_lps_to_ras=True
    )
    try:
        itk.imwrite(image, str(path), compression=True)
    except RuntimeError as error:
        raise OSError(str(error).strip().splitlines()[-1]) from error
