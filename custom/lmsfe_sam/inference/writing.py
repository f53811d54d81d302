"""Label maps as files, in the size and the geometry of the file that was segmented."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from monai.data import ITKWriter, NibabelWriter
from monai.utils import MetaKeys
from PIL import Image

from lmsfe_sam.files import atomic_write
from lmsfe_sam.inference.reading import SLICE

OUTPUT_SUFFIXES = (".png", ".nii.gz", ".nii", ".nrrd", ".mha")


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

    A picture holds the slice alone; the other formats the whole volume with the file's affine.

    Raises:
        InputError: the file cannot be written.
    """
    with atomic_write(path) as temporary:
        if temporary.suffix == ".png":
            Image.fromarray(labels).save(temporary, optimize=False)
            return
        is_nifti = temporary.name.endswith((".nii", ".nii.gz"))
        writer = (NibabelWriter if is_nifti else ITKWriter)(output_dtype=labels.dtype)
        affine = np.asarray(meta[MetaKeys.ORIGINAL_AFFINE], dtype=np.float64)
        writer.set_data_array(to_file_axes(labels, meta), channel_dim=None, squeeze_end_dims=False)
        writer.set_metadata({MetaKeys.AFFINE: affine, MetaKeys.ORIGINAL_AFFINE: affine}, resample=False)
        writer.write(temporary) if is_nifti else writer.write(temporary, compression=True)
