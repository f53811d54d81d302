"""The transforms of ``inference.json``: load a file, attach its prompts, merge its objects, measure them."""

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
from torch import Tensor

from lmsfe_sam.errors import InputError
from lmsfe_sam.images.image import FileImage, choose_frame
from lmsfe_sam.images.limits import MAX_PIXELS
from lmsfe_sam.images.reading import open_image
from lmsfe_sam.images.scale import Scale
from lmsfe_sam.inference.inferers import IOU, LABELS, PROBABILITIES, PROMPTS
from lmsfe_sam.model.mask_decoder import expected_iou
from lmsfe_sam.predict.postprocessing import mask_parts, paint_objects, probability_map
from lmsfe_sam.predict.preprocessing import to_rgb_uint8
from lmsfe_sam.prompts.coordinates import Size, full_window
from lmsfe_sam.prompts.prompt import Prompts

SLICE = "slice"
"""Metadata key: the index of the image among its file's slices."""

SPACING = "spacing"
"""Metadata key: row and column spacing in mm, NaN where it is unknown."""

SPACING_SOURCE, REGIONS, OUTSIDE = "spacing_source", "regions", "spacing_outside_of_regions"
"""Metadata keys: the rest of a `Scale`."""

CATEGORY = "category"
"""The key of the objects' categories, joined by commas; "" where the prompts name none."""

OBJECTS = "objects"
"""The key of the measured objects."""


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


class AttachPromptsd(MapTransform):
    """Put the prompts into the metadata of the image, in its pixels.

    A MONAI inferer sees nothing but the image, so they travel with it, as a dictionary of tensors, which
    MONAI can collate. The record's ``prompts``, a list of `ObjectPrompt` in pixels of the image, becomes
    such a dictionary, too; a record without it is unprompted.

    Args:
        keys: the image, (C, H, W) at its original size.
        allow_missing_keys: as for every MONAI `MapTransform`.

    Raises:
        InputError: when called, on a prompt outside the image; it names the image and the object.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:  # noqa: D102
        result = dict(data)
        objects = result.get(PROMPTS) or []
        tensors = Prompts.of(objects).given()
        for key in self.key_iterator(result):
            height, width = result[key].shape[-2:]
            for number, prompt in enumerate(objects, 1):
                try:
                    prompt.check_inside(height, width)
                except InputError as error:
                    name = result[key].meta["filename_or_obj"]
                    raise InputError(f"object {number} of '{name}' in the prompts: {error}") from error
            result[key].meta[PROMPTS] = tensors
        result[PROMPTS] = tensors
        result[CATEGORY] = ",".join(prompt.category or "" for prompt in objects)
        return result


class MergeObjectsd(MapTransform):
    """Turn an inferer's output into a label map (1, H, W) at the image's original size.

    The label map of a `PromptedInferer` is taken as it is. Logits (1, h, w) of any other inferer are
    resized and thresholded at 0: object 1 is what is positive, and its predicted IoU is what its own
    probabilities say.

    Background is 0 and object k is k. ``predicted_iou`` (N,) is added to the data, and ``probabilities``
    (N, H, W) uint8 where the inferer keeps them or ``probabilities`` asks for those of logits.

    Args:
        keys: of the outputs.
        image_key: of the image, whose metadata have the original size, and are kept.
        probabilities: make them of logits, too.
        allow_missing_keys: as for every MONAI `MapTransform`.

    Raises:
        InputError: when called, on the logits of an inferer that takes no prompts where some were given.
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        probabilities: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.probabilities = probabilities

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:  # noqa: D102
        result = dict(data)
        meta = result[self.image_key].meta
        width, height = (int(size) for size in meta[MetaKeys.SPATIAL_SHAPE][:2])
        for key in self.key_iterator(result):
            output = result[key]
            if isinstance(output, Tensor):
                output = _from_logits(output, (height, width), result.get(PROMPTS), self.probabilities)
            result[key] = MetaTensor(output[LABELS], meta=meta)
            result[IOU] = output[IOU]
            if PROBABILITIES in output:
                result[PROBABILITIES] = output[PROBABILITIES]
        return result


def _from_logits(
    logits: Tensor, size: Size, prompts: Mapping[str, Tensor] | None, probabilities: bool
) -> dict[str, Tensor]:
    """Return the label map (1, height, width) and predicted IoU (1,) of logits (1, h, w)."""
    given = Prompts(**prompts) if prompts else Prompts.of([])
    if bool((given.has_box() | (given.clicks() > 0)).any()):
        raise InputError("inferer takes no prompts: leave out --prompts, or leave out --inferer.")
    logits = logits.as_subclass(Tensor).float().cpu()
    labels = paint_objects([mask_parts(logits[0], (0, 0), size)], [0.0], size)
    result = {LABELS: torch.from_numpy(labels)[None], IOU: expected_iou(logits)}
    if probabilities:
        result[PROBABILITIES] = probability_map(logits[0], full_window(size), size)[None]
    return result


class MeasureObjectsd(MapTransform):
    """Add ``objects``, a dictionary an object: label, area, bounding box, predicted IoU and, if any, frame.

    Args:
        keys: of the label maps.
        allow_missing_keys: as for every MONAI `MapTransform`.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:  # noqa: D102
        result = dict(data)
        for key in self.key_iterator(result):
            labels = result[key][0].cpu().numpy()
            meta = result[key].meta
            rows = measure_objects(labels, result[IOU].tolist(), scale_of(meta))
            several = np.prod(np.asarray(meta[MetaKeys.SPATIAL_SHAPE])[2:], dtype=int) > 1
            frame = {"frame": int(meta[SLICE])} if several else {}
            result[OBJECTS] = [{**row, **frame} for row in rows]
        return result


def measure_objects(labels: np.ndarray, predicted_iou: list[float], scale: Scale) -> list[dict[str, Any]]:
    """Measure the objects of a label map.

    Args:
        labels: (H, W), object k is k.
        predicted_iou: of each object.
        scale: of the image.

    Returns:
        For each object ``object``, ``area_px``, ``area_mm2`` (None where the scale is unknown), ``x0``,
        ``y0``, ``x1``, ``y1`` (x1 and y1 exclusive; None where nothing was segmented), ``predicted_iou``
        and ``spacing_source`` (see `lmsfe_sam.images.scale`; "" where unknown).
    """
    from scipy.ndimage import find_objects

    areas = _areas(labels, len(predicted_iou))
    extents = find_objects(labels, max_label=len(predicted_iou))
    rows = []
    for label, (extent, iou) in enumerate(zip(extents, predicted_iou, strict=True), 1):
        area = int(areas[label])
        y, x = extent or (slice(None), slice(None))
        spacing, source = _object_scale(labels, label, extent, scale)
        rows.append(
            {
                "object": label,
                "area_px": area,
                "area_mm2": area * spacing[0] * spacing[1] if source else None,
                "x0": x.start,
                "y0": y.start,
                "x1": x.stop,
                "y1": y.stop,
                "predicted_iou": iou,
                "spacing_source": source,
            }
        )
    return rows


def _object_scale(
    labels: np.ndarray, label: int, extent: tuple[slice, slice] | None, scale: Scale
) -> tuple[tuple[float, float], str]:
    if extent is None or not len(scale.regions):
        return scale.spacing, scale.source
    rows, columns = np.nonzero(labels[extent] == label)
    return scale.of_object(rows + extent[0].start, columns + extent[1].start)


def _areas(labels: np.ndarray, count: int) -> np.ndarray:
    """Return how many pixels have each label 0..count, counted row by row: numpy counts in 64 bits."""
    areas = np.zeros(count + 1, dtype=np.int64)
    for row in labels:
        areas += np.bincount(row, minlength=count + 1)
    return areas
