"""From the objects' logits to one label map at the image's own size, and to what the table tells."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import MetaKeys
from torch import Tensor

from lmsfe_sam.inference.inferer import IOU, LOGITS
from lmsfe_sam.inference.reading import SPACING
from lmsfe_sam.inference.zooming import LABELS
from lmsfe_sam.predict.postprocessing import object_blocks, paint_objects
from lmsfe_sam.prompts.coordinates import Size

OBJECTS = "objects"
"""The key of the measured objects."""


class MergeObjectsd(MapTransform):
    """Turn an inferer's answer into a label map (1, H, W) at the image's original size.

    The answer of a `PromptInferer` is painted (`merge_objects`); a label map that an inferer has
    painted itself is taken as it is.

    Background is 0 and object k is k. ``predicted_iou`` (N,) is added to the data.

    Args:
        keys: of the answers.
        image_key: of the image, whose metadata tell the original size, and are kept.
        allow_missing_keys: as for every MONAI `MapTransform`.
    """

    def __init__(
        self, keys: KeysCollection, image_key: str = "image", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:  # noqa: D102
        result = dict(data)
        meta = result[self.image_key].meta
        width, height = (int(size) for size in meta[MetaKeys.SPATIAL_SHAPE][:2])
        for key in self.key_iterator(result):
            answer = result[key]
            labels = (
                answer[LABELS]
                if LABELS in answer
                else torch.from_numpy(merge_objects(answer[LOGITS], answer[IOU], (height, width)))[None]
            )
            result[key] = MetaTensor(labels, meta=meta)
            result[IOU] = answer[IOU]
        return result


def merge_objects(logits: Tensor, iou: Tensor, size: Size) -> np.ndarray:
    """Paint N objects into one label map, the best last, so that it wins where objects overlap.

    Args:
        logits: (N, S, S).
        iou: predicted IoU (N,); of equals the first wins.
        size: height and width of the map.

    Returns:
        (height, width), uint8, or uint16 from 256 objects on.
    """
    masks = [object_blocks(one, (0, 0), size) for one in logits]
    return paint_objects(masks, iou.tolist(), size)


class MeasureObjectsd(MapTransform):
    """Add ``objects``, a dictionary an object: label, area, bounding box and predicted IoU.

    Args:
        keys: of the label maps.
        allow_missing_keys: as for every MONAI `MapTransform`.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:  # noqa: D102
        result = dict(data)
        for key in self.key_iterator(result):
            labels = result[key][0].cpu().numpy()
            spacing = np.asarray(result[key].meta[SPACING], dtype=float)
            result[OBJECTS] = measure_objects(labels, result[IOU].tolist(), (spacing[0], spacing[1]))
        return result


def measure_objects(
    labels: np.ndarray, predicted_iou: list[float], spacing: tuple[float, float]
) -> list[dict[str, Any]]:
    """Measure the objects of a label map.

    Args:
        labels: (H, W), object k is k.
        predicted_iou: of each object.
        spacing: of rows and columns in mm, NaN where unknown.

    Returns:
        For each object ``object``, ``area_px``, ``area_mm2`` (None without a spacing), ``x0``,
        ``y0``, ``x1``, ``y1`` (x1 and y1 exclusive; None where nothing was segmented) and
        ``predicted_iou``.
    """
    from scipy.ndimage import find_objects

    areas = _areas(labels, len(predicted_iou))
    extents = find_objects(labels, max_label=len(predicted_iou))
    pixel_area = spacing[0] * spacing[1]
    rows = []
    for label, (extent, iou) in enumerate(zip(extents, predicted_iou, strict=True), 1):
        area = int(areas[label])
        y, x = extent or (slice(None), slice(None))
        rows.append(
            {
                "object": label,
                "area_px": area,
                "area_mm2": None if np.isnan(pixel_area) else area * pixel_area,
                "x0": x.start,
                "y0": y.start,
                "x1": x.stop,
                "y1": y.stop,
                "predicted_iou": iou,
            }
        )
    return rows


def _areas(labels: np.ndarray, count: int) -> np.ndarray:
    """Return how many pixels have each label 0..count, counted row by row: numpy counts in 64 bits."""
    areas = np.zeros(count + 1, dtype=np.int64)
    for row in labels:
        areas += np.bincount(row, minlength=count + 1)
    return areas
