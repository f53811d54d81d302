"""Contours in GeoJSON, SVG and COCO give their masks again; measures of shapes."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lmsfe_sam.data.layouts.coco import read
from lmsfe_sam.images.scale import UNKNOWN_SCALE
from lmsfe_sam.inference.transforms import measure_objects
from lmsfe_sam.inference.writers.coco import merge_coco, segmentation, to_coco
from lmsfe_sam.inference.writers.contours import polygons, to_geojson, to_svg
from lmsfe_sam.inference.writers.image_result import ImageResult
from lmsfe_sam.inference.writers.shapes import measure_shape
from lmsfe_sam.prompts.categories import CATEGORIES

SIZE = (48, 64)


def blobs(seed: int) -> np.ndarray:
    """Two objects with holes, parts, single pixels and pixels at the border."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    labels = np.zeros(SIZE, np.uint8)
    labels[np.hypot(y - 20, x - 20) < 15] = 1
    labels[np.hypot(y - 20, x - 24) < 5] = 0
    labels[rng.random(SIZE) < 0.03] = 1
    labels[30:48, 44:64] = 2
    labels[rng.random(SIZE) < 0.03] = 2
    return labels


def result(labels: np.ndarray, name: str = "a.png", frames: int = 1) -> ImageResult:
    rows = measure_objects(labels, [0.9, math.nan, 0.5], UNKNOWN_SCALE)
    categories = ["lesion", "nerve", "lesion"]
    return ImageResult(Path(name), name, Path(name).stem, labels, rows, categories, frames=frames, frame=2)


def fill(rings: list[list[list[float]]]) -> np.ndarray:
    """Pixels whose centre lies inside by the even-odd rule, computed point by point."""
    y, x = (np.mgrid[: SIZE[0], : SIZE[1]] + 0.5).astype(float)
    inside = np.zeros(SIZE, bool)
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True):
            crosses = (y0 > y) != (y1 > y)
            if y0 != y1:
                inside ^= crosses & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside


@pytest.mark.parametrize("seed", range(3))
def test_geojson_and_svg_give_the_mask_again(seed: int) -> None:
    labels = blobs(seed)
    given = result(labels)
    features = json.loads(to_geojson(given))["features"]
    assert [feature["properties"]["object"] for feature in features] == [1, 2]
    assert features[0]["properties"]["predicted_iou"] == 0.9
    assert "predicted_iou" not in features[1]["properties"]
    assert "area_mm2" not in features[0]["properties"]
    for feature in features:
        geometry = feature["geometry"]
        parts = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        mask = labels == feature["properties"]["object"]
        np.testing.assert_array_equal(fill([ring for part in parts for ring in part]), mask)
        for outer, *holes in parts:
            assert outer[0] == outer[-1]
            assert signed_area(outer) > 0
            assert all(signed_area(hole) < 0 for hole in holes)
    root = ElementTree.fromstring(to_svg(given))
    assert root.attrib["viewBox"] == f"0 0 {SIZE[1]} {SIZE[0]}"
    for number, path in enumerate(root, 1):
        rings = [
            [[float(value) for value in point.split(",")] for point in ring.split("L")]
            for ring in re.findall(r"M([^Z]*)Z", path.attrib["d"])
        ]
        np.testing.assert_array_equal(fill(rings), labels == number)


def signed_area(ring: list[list[float]]) -> float:
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in itertools.pairwise(ring)) / 2


def test_coco_comes_back_by_the_projects_own_reader(tmp_path: Path) -> None:
    labels = blobs(0)
    solid = np.zeros(SIZE, np.uint8)
    solid[10:30, 12:40] = 3
    files = []
    for name, one in (("a.png", labels), ("b.png", solid), ("none.png", np.zeros(SIZE, np.uint8))):
        Image.fromarray(one).save(tmp_path / name)
        files.append(json.loads(to_coco(result(one, name))))
    content = merge_coco(files)
    (tmp_path / "coco.json").write_text(json.dumps(content))
    assert [image["file_name"] for image in content["images"]] == ["a.png", "b.png", "none.png"]
    assert [item["area"] for item in content["annotations"]] == [
        int((labels == 1).sum()), int((labels == 2).sum()), 560
    ]  # fmt: skip
    assert content["annotations"][2]["bbox"] == [12, 10, 28, 20]
    assert {item["name"] for item in content["categories"]} == {"lesion", "nerve"}
    entries, skipped = read(tmp_path)
    assert [path.name for _, path, _ in entries] == ["a.png", "b.png"]
    assert skipped == {"images without an annotation": 1}


@pytest.mark.parametrize("seed", range(3))
def test_coco_segmentations_give_the_mask_again(seed: int) -> None:
    for number in (1, 2):
        mask = blobs(seed) == number
        np.testing.assert_array_equal(decode(segmentation(mask)), mask)
    square = np.zeros(SIZE, bool)
    square[3:9, 4:11] = True
    polygon = segmentation(square)
    assert isinstance(polygon, list)
    np.testing.assert_array_equal(decode(polygon), square)


def decode(given: Any) -> np.ndarray:
    if isinstance(given, list):
        return fill([np.reshape(one, (-1, 2)).tolist() for one in given])
    values = np.repeat(np.arange(len(given["counts"])) % 2, given["counts"])
    return values.reshape(SIZE[::-1]).T.astype(bool)


def test_the_page_has_the_categories() -> None:
    page = (Path(__file__).parents[1] / "docs" / "outputs.md").read_text(encoding="utf-8")
    for name, category in CATEGORIES.items():
        group, kind = (f"{code[2]} ({code[0]})" for code in category)
        assert f"| `{name}` | {group} | {kind} |" in page


def test_parts_that_touch_at_a_corner_are_two() -> None:
    mask = np.zeros(SIZE, bool)
    mask[2:4, 2:4] = mask[4:6, 4:6] = True
    assert len(polygons(mask)) == 2


def test_shape_of_a_disc_a_rectangle_and_nothing() -> None:
    disc = Image.new("1", (200, 200))
    ImageDraw.Draw(disc).ellipse((20, 20, 180, 180), fill=1)
    shape = measure_shape(np.array(disc), (0.1, 0.1))
    assert shape is not None
    assert shape.long_axis == pytest.approx(16.1, rel=0.01)
    assert shape.short_axis == pytest.approx(16.1, rel=0.01)
    assert shape.circularity == pytest.approx(1, abs=0.03)
    bar = np.zeros((20, 50), bool)
    bar[5:8, 10:40] = True
    shape = measure_shape(bar, (2.0, 1.0))
    assert shape is not None
    assert shape.area == 180
    assert shape.long_axis == pytest.approx(math.hypot(6, 30))
    assert shape.short_axis == pytest.approx(2 * 6 * 30 / math.hypot(6, 30))
    assert shape.circularity < 0.5
    assert measure_shape(np.zeros((5, 5), bool)) is None
    single = np.zeros((5, 5), bool)
    single[2, 2] = True
    shape = measure_shape(single)
    assert shape is not None
    assert shape.long_axis == pytest.approx(math.sqrt(2))
