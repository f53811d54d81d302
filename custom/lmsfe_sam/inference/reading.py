"""The image of a file as a MONAI tensor, with what it takes to write a mask beside it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import MetaKeys, SpaceKeys

from lmsfe_sam.images.image import FileImage, choose_frame
from lmsfe_sam.images.limits import MAX_PIXELS
from lmsfe_sam.images.reading import open_image
from lmsfe_sam.images.scale import Scale
from lmsfe_sam.predict.preprocessing import to_rgb_uint8

SLICE = "slice"
"""Metadata key: the index of the image among its file's slices."""

SPACING = "spacing"
"""Metadata key: row and column spacing in mm, NaN where it is unknown."""

SPACING_SOURCE, REGIONS, OUTSIDE = "spacing_source", "regions", "spacing_outside_of_regions"
"""Metadata keys: the rest of a `Scale`."""


class LoadFileImaged(MapTransform):
    """Load the image of a file as (3, H, W) uint8, RGB, a `MetaTensor`.

    Pictures (PNG, JPEG, BMP, TIFF, ...), NIfTI, NRRD, MetaImage and DICOM are read. Its metadata
    hold the file's ``spatial_shape`` and ``original_affine``, the ``slice``, and the ``spacing``
    (rows, columns; mm); ``affine`` is that of the tensor's own axes.

    Args:
        keys: of the paths.
        slice_index: which slice or frame of a file that has several, from 0; a record's own ``slice``
            comes first, and must be there in any file.
        allow_missing_keys: as for every MONAI `MapTransform`.
        max_pixels: see `lmsfe_sam.images.reading.open_image`.

    Raises:
        InputError: when called, on a file that cannot be read, has several slices and ``slice_index`` is
            None, or has no such slice.
    """

    def __init__(
        self,
        keys: KeysCollection,
        slice_index: int | None = None,
        allow_missing_keys: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.slice_index = slice_index
        self.max_pixels = max_pixels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:  # noqa: D102
        result = dict(data)
        for key in self.key_iterator(result):
            path = result[key]
            file = open_image(path, self.max_pixels)
            asked = result.get(SLICE, self.slice_index if file.header.frames > 1 else None)
            image = file.read(choose_frame(file.header.frames, asked, Path(path)))
            result[key] = to_tensor(image, path)
        return result


def to_tensor(image: FileImage, path: str | Path) -> MetaTensor:
    """Return an image of a file as (3, H, W) uint8, RGB, with the metadata of `LoadFileImaged`."""
    rows_first = np.eye(4)[[1, 0, 2, 3]]
    rows_first[2, 3] = image.index
    return MetaTensor(
        torch.from_numpy(to_rgb_uint8(image.pixels)).permute(2, 0, 1).contiguous(),
        affine=torch.from_numpy(image.affine @ rows_first),
        meta={**_metadata(image), "filename_or_obj": str(path)},
    )


def _metadata(image: FileImage) -> dict[str, Any]:
    """Return what MONAI can collate of an image."""
    return {
        MetaKeys.ORIGINAL_AFFINE: image.affine,
        MetaKeys.SPATIAL_SHAPE: np.array(image.shape),
        MetaKeys.SPACE: SpaceKeys.RAS,
        SLICE: image.index,
        SPACING: np.array(image.scale.spacing),
        SPACING_SOURCE: image.scale.source,
        REGIONS: image.scale.regions,
        OUTSIDE: np.array(image.scale.outside),
    }


def scale_of(meta: Mapping[str, Any]) -> Scale:
    """Return the scale of an image by its metadata."""
    spacing, outside = ((float(pair[0]), float(pair[1])) for pair in (meta[SPACING], meta[OUTSIDE]))
    return Scale(spacing, str(meta[SPACING_SOURCE]), np.asarray(meta[REGIONS], dtype=float), outside)
