"""Outlines of objects as polygons, in GeoJSON and SVG."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lmsfe_sam.inference.writers.image_result import ImageResult
from lmsfe_sam.inference.writers.overlay import COLOURS

Ring = np.ndarray
"""(P, 2): x, y, the last point being the first; pixel (0, 0) reaches from 0 to 1."""


def polygons(mask: np.ndarray) -> list[list[Ring]]:
    """Return the polygons of a mask, each as its outer ring and the rings of its holes.

    The rings run half way between the centres of pixels inside and outside, as scikit-image's
    `find_contours` has them, so whatever fills the pixels whose centre lies inside gets the mask again.
    Parts that touch at a corner alone are two polygons. Outer rings have a positive area by the shoelace
    formula on x and y, as RFC 7946 has it, and holes a negative one.

    Args:
        mask: (H, W) bool.
    """
    from scipy.ndimage import find_objects, label
    from skimage.measure import approximate_polygon, find_contours

    parts, _ = label(mask)
    found = []
    for number, (rows, columns) in enumerate(find_objects(parts), 1):
        window = np.pad(parts[rows, columns] == number, 1)
        rings = [
            approximate_polygon(contour, 1e-6)[:, ::-1] + (columns.start - 0.5, rows.start - 0.5)
            for contour in find_contours(window.astype(np.uint8), 0.5)
        ]
        outer = max(range(len(rings)), key=lambda ring: np.ptp(rings[ring], axis=0).sum())
        found.append(
            [
                _turned(rings[outer], 1),
                *(_turned(ring, -1) for index, ring in enumerate(rings) if index != outer),
            ]
        )
    return found


def to_geojson(result: ImageResult) -> str:
    """Return the objects of an image as a GeoJSON feature collection, in pixels, as QuPath reads it."""
    features = []
    for number, row, category, shapes in _objects(result):
        lists = [[ring.tolist() for ring in shape] for shape in shapes]
        geometry = (
            {"type": "Polygon", "coordinates": lists[0]}
            if len(lists) == 1
            else {"type": "MultiPolygon", "coordinates": lists}
        )
        properties = {
            "objectType": "annotation",
            "name": f"{category} {number}",
            "classification": {"name": category, "color": _colour(number)},
            "image": result.name,
            "object": number,
            **({"frame": result.frame} if result.frames > 1 else {}),
            **{key: row[key] for key in ("area_px", "area_mm2", "predicted_iou") if known(row.get(key))},
        }
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    return json.dumps({"type": "FeatureCollection", "features": features}, allow_nan=False)


def to_svg(result: ImageResult) -> str:
    """Return the outlines of an image's objects as an SVG of its size, to lay over the image."""
    height, width = result.labels.shape
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">'
    ]
    for number, _, category, shapes in _objects(result):
        rings = (ring[:-1] for shape in shapes for ring in shape)
        path = "".join("M" + "L".join(f"{x:g},{y:g}" for x, y in ring) + "Z" for ring in rings)
        colour = "#" + "".join(f"{value:02x}" for value in _colour(number))
        lines.append(
            f'<path id="object-{number}" class="{category}" d="{path}" fill="{colour}" fill-opacity="0.25" '
            f'fill-rule="evenodd" stroke="{colour}" vector-effect="non-scaling-stroke"/>'
        )
    return "\n".join([*lines, "</svg>", ""])


def known(value: Any) -> bool:
    """Whether a value of ``objects.csv`` is there."""
    return value is not None and value == value  # NaN is not


def _objects(result: ImageResult) -> Iterator[tuple[int, Mapping[str, Any], str, list[list[Ring]]]]:
    """Yield number, row, category and polygons of each object of which something was found."""
    for number, row, category in zip(result.numbers(), result.rows, result.categories, strict=True):
        shapes = polygons(result.labels == number)
        if shapes:
            yield number, row, category, shapes


def _turned(ring: Ring, sign: int) -> Ring:
    x, y = ring.T
    return ring if sign * float(x[:-1] @ y[1:] - x[1:] @ y[:-1]) > 0 else ring[::-1]


def _colour(number: int) -> list[int]:
    return list(COLOURS[(number - 1) % len(COLOURS)].tolist())
