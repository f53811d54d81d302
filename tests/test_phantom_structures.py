"""Phantoms of several structures: label maps of what can be seen, in shapes that no benchmark measures on."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.measure import label, regionprops

from lmsfe_sam.data.combined import find_records
from lmsfe_sam.data.masks.objects import record_objects
from lmsfe_sam.data.phantoms.__main__ import main
from lmsfe_sam.data.phantoms.anatomy import Outline
from lmsfe_sam.data.phantoms.rendering import render_phantom, render_structures
from lmsfe_sam.data.phantoms.structures import COUNTS, FORMS, draw_form, draw_structure, visible_structures
from lmsfe_sam.errors import InputError

BENCHMARK = Path(__file__).resolve().parents[1] / "benchmarks" / "unseen_shapes.py"
SHAPE = (256, 320)


@pytest.fixture(scope="module")
def some() -> list[tuple[np.ndarray, np.ndarray]]:
    return [render_structures(number) for number in range(30)]


def test_an_image_holds_several_structures_that_do_not_touch(some) -> None:
    counts = [int(labels.max()) for _, labels in some]
    assert min(counts) == COUNTS[0] and max(counts) == COUNTS[1]
    for image, labels in some:
        assert image.dtype == labels.dtype == np.uint8 and image.shape == labels.shape
        assert list(np.unique(labels)) == list(range(labels.max() + 1))
        assert label(labels > 0, connectivity=2).max() == labels.max()


def test_every_structure_stands_out_and_they_differ_in_look_and_size(some) -> None:
    contrasts, areas = [], []
    for image, labels in some:
        assert np.array_equal(visible_structures(image, labels), labels)
        for one in range(1, labels.max() + 1):
            contrasts.append(image[labels == one].mean() - image[labels == 0].mean())
            areas.append((labels == one).mean())
    assert np.mean(np.array(contrasts) < 0) > 0.5 and np.mean(np.array(contrasts) > 10) > 0.1
    assert min(areas) < 0.005 and max(areas) > 0.06


def test_what_does_not_stand_out_is_no_structure() -> None:
    image, labels = np.full((40, 40), 90, np.uint8), np.zeros((40, 40), np.uint8)
    labels[5:12, 5:12], labels[20:30, 5:12], labels[20:30, 25:35] = 1, 2, 3
    image[labels == 1], image[labels == 2], image[labels == 3] = 70, 86, 110
    seen = visible_structures(image, labels)
    assert np.array_equal(seen == 1, labels == 1) and np.array_equal(seen == 2, labels == 3)
    assert seen.max() == 2


def test_a_phantom_of_structures_is_fixed_by_its_number_and_is_no_lesions_phantom() -> None:
    first, again, other = (render_structures(number, (128, 160)) for number in (4, 4, 5))
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[0], render_phantom(4, (128, 160))[0])


@pytest.mark.parametrize("size", [(64, 64), (64, 200), (300, 70)])
def test_a_given_size(size: tuple[int, int]) -> None:
    for number in range(10):
        image, labels = render_structures(number, size)
        assert image.shape == labels.shape == size and labels.max() >= COUNTS[0]
    with pytest.raises(InputError, match="64 x 64"):
        render_structures(0, (63, 100))


def shapes(form: str, count: int = 40) -> list[tuple[float, float]]:
    """Solidity and aspect of structures of a form, as far as they lie inside of the image."""
    rng, found = np.random.default_rng(0), []
    while len(found) < count:
        window, radius = (outline := draw_structure(form, SHAPE, rng).outline).level(SHAPE)
        mask = np.zeros(SHAPE, np.uint8)
        mask[window] = radius < 1
        reach = outline.semi_x
        if reach < min(outline.x, SHAPE[1] - outline.x, outline.y, SHAPE[0] - outline.y) and reach > 20:
            (region,) = regionprops(mask)
            found.append((region.solidity, region.axis_major_length / region.axis_minor_length))
    return found


def test_no_structure_has_a_shape_that_the_benchmark_measures_on() -> None:
    """Stars and crescents are less convex, tubes longer, slabs long and straight, rings brightly walled."""
    kept = runpy.run_path(str(BENCHMARK))["SHAPES"]
    assert set(kept) == {"ring", "tube", "slab", "crescent", "star"}, "another shape: keep it unseen, too"
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:201j, -1:1:201j]
    names = ("star", "crescent")
    hollow = [regionprops(kept[n](x, y, rng).astype(np.uint8))[0] for n in names for _ in range(20)]
    drawn = {form: np.array(shapes(form)) for form in FORMS}
    assert max(region.solidity for region in hollow) < min(found[:, 0].min() for found in drawn.values())
    assert 2 < drawn["long"][:, 1].min() < drawn["long"][:, 1].max() < 5
    assert drawn["polygon"][:, 1].max() < 1.9 and drawn["round"][:, 1].max() < 1.3
    assert max(draw_structure(draw_form(rng), SHAPE, rng).rim for _ in range(200)) < 8


def test_facets_are_a_polygon_with_its_farthest_corner_on_the_ellipse() -> None:
    facets = tuple((1.0, np.pi / 2 * side) for side in range(4))
    window, radius = Outline(y=100, x=120, semi_y=50, semi_x=50, facets=facets).level((200, 240))
    mask = np.zeros((200, 240), bool)
    mask[window] = radius < 1
    rows, columns = np.nonzero(mask)
    side = np.ptp(columns) + 1
    assert side == np.ptp(rows) + 1 == pytest.approx(100 / 2**0.5, rel=0.06)
    assert 0.96 * side**2 < mask.sum() < side**2, "but for its rounded corners a square"
    corner = np.hypot(rows - 99.5, columns - 119.5).max()
    assert corner == pytest.approx(50, abs=1)


def test_the_command_writes_label_maps_whose_labels_are_the_objects(tmp_path, capsys) -> None:
    main(["--output", str(tmp_path / "set"), "--count", "10", "--seed", "2", "--kind", "structures"])
    assert "--objects labels" in capsys.readouterr().out
    found = find_records(str(tmp_path / "set"), "auto", "group", seed=0, phantoms=8, objects="labels")
    for record in found.select("all"):
        labels = np.asarray(Image.open(record["label"][0]))
        objects = record_objects(record, labels.shape)
        assert len(objects) == labels.max() >= COUNTS[0]
        assert all(np.array_equal(one.mask, labels == one.label) for one in objects)
