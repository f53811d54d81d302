"""Objects in COCO's format."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from lmsfe_sam.inference.writers.contours import known, polygons
from lmsfe_sam.inference.writers.image_result import ImageResult
from lmsfe_sam.prompts.categories import CATEGORIES
from lmsfe_sam.version import __version__

CATEGORY_IDS = {name: number for number, name in enumerate(CATEGORIES, 1)}


def to_coco(result: ImageResult) -> str:
    """Return a COCO file of one image, also where nothing was found in it."""
    height, width = result.labels.shape
    image: dict[str, Any] = {"id": 1, "file_name": result.name, "width": width, "height": height}
    if result.frames > 1:
        image["frame"] = result.frame
    annotations: list[dict[str, Any]] = []
    for number, row, category in zip(result.numbers(), result.rows, result.categories, strict=True):
        mask = result.labels == number
        if mask.any():
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 1,
                    "category_id": CATEGORY_IDS[category],
                    "segmentation": segmentation(mask),
                    "area": int(mask.sum()),
                    "bbox": [row["x0"], row["y0"], row["x1"] - row["x0"], row["y1"] - row["y0"]],
                    "iscrowd": 0,
                    **({"score": row["predicted_iou"]} if known(row["predicted_iou"]) else {}),
                }
            )
    return json.dumps(_content([image], annotations), allow_nan=False)


def merge_coco(files: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Join COCO files, images and annotations numbered anew."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for file in files:
        ids = {}
        for image in file["images"]:
            ids[image["id"]] = len(images) + 1
            images.append({**image, "id": len(images) + 1})
        for annotation in file["annotations"]:
            numbers = {"id": len(annotations) + 1, "image_id": ids[annotation["image_id"]]}
            annotations.append({**annotation, **numbers})
    return _content(images, annotations)


def _content(images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    used = {annotation["category_id"] for annotation in annotations}
    return {
        "info": {"description": "Segmented by LMSFE-SAM", "version": __version__},
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name} for name, number in CATEGORY_IDS.items() if number in used
        ],
    }


def segmentation(mask: np.ndarray) -> list[list[float]] | dict[str, Any]:
    """Return polygons x, y, x, y, ...; run lengths where there are holes, which polygons here cannot have."""
    shapes = polygons(mask)
    if all(len(shape) == 1 for shape in shapes):
        return [outer[:-1].reshape(-1).tolist() for (outer,) in shapes]
    return {"counts": run_lengths(mask), "size": list(mask.shape)}


def run_lengths(mask: np.ndarray) -> Sequence[int]:
    """Return the lengths of a mask's runs, column after column, the first of zeros."""
    flat = mask.T.reshape(-1).tolist()
    counts = [len(list(run)) for _, run in groupby(flat)]
    return [0, *counts] if flat and flat[0] else counts
