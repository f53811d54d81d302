"""From a label map to what MONAI Label's writer makes a file of."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import MetaKeys

from lmsfe_sam.data.pictures import PICTURE_SUFFIXES
from lmsfe_sam.inference.formats import known_suffix
from lmsfe_sam.inference.merging import OBJECTS
from lmsfe_sam.inference.reading import SLICE
from lmsfe_sam.inference.writing import OUTPUT_SUFFIXES, to_file_axes
from lmsfe_sam.label.request import EXTENSION, REQUEST

RESULT = "result"
"""The key of what the server returns beside the file."""


class AnswerRequestd(MapTransform):
    """Bring the label map of a MONAI Label request into the axes of its file.

    MONAI Label's writer wants (x, y) for pictures and (x, y, slices) for volumes, without a channel,
    and what it takes for the file's shape in the image's metadata. It would write the labels of a
    JPEG as a JPEG, which blurs them, and those of DICOM as DICOM: these become PNG and NIfTI. The
    predicted IoU, the area and the extent are returned beside the file.

    Records of the command line pass through as they are.

    Args:
        keys: of the label maps, (1, H, W).
        image_key: of the image.
        allow_missing_keys: as for every MONAI `MapTransform`.
    """

    def __init__(
        self, keys: KeysCollection = "pred", image_key: str = "image", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:  # noqa: D102
        result = dict(data)
        if REQUEST not in result:
            return result
        meta = result[self.image_key].meta
        result[EXTENSION] = result.get(EXTENSION) or label_suffix(result[REQUEST])
        for key in self.key_iterator(result):
            labels = result[key][0].cpu().numpy().astype(np.uint8)
            result[key] = in_file_axes(labels, meta, result[EXTENSION])
            meta[MetaKeys.SPATIAL_SHAPE] = np.array(result[key].shape)
        result[RESULT] = {**result[OBJECTS][0], SLICE: int(meta[SLICE])}
        return result


def in_file_axes(labels: np.ndarray, meta: Mapping[str, Any], suffix: str) -> np.ndarray:
    """Bring labels (H, W) into (x, y) for a picture, or into (x, y, slices) with the others 0."""
    if suffix == ".png":
        return np.ascontiguousarray(labels.T)
    volume = to_file_axes(labels, meta)
    return volume.reshape(*volume.shape[:2], -1)


def label_suffix(image: str) -> str:
    """Return the format for the labels of an image: the image's own, where that keeps labels as they are."""
    suffix = known_suffix(Path(image))
    if suffix in PICTURE_SUFFIXES:
        return ".png"
    return suffix if suffix in OUTPUT_SUFFIXES else ".nii.gz"
