"""Calipers, letters and colour near a lesion are found; bright tissue and far text are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_folders import disc, speckle
from lmsfe_sam.data.layouts.registry import LAYOUTS
from lmsfe_sam.data.masks.reading import record_mask
from lmsfe_sam.data.transforms.markings import find_markings
from lmsfe_sam.images.reading import read_image
from lmsfe_sam.predict.preprocessing import to_rgb_uint8

SIZE = (300, 400)
LESION = disc(SIZE, 50)  # its border passes (150, 150) and (150, 250)


def _tissue() -> np.ndarray:
    return np.dstack([np.uint8(speckle(3, SIZE) * 0.6)] * 3)


def _cross(image: np.ndarray, row: int, column: int) -> None:
    image[row, column - 4 : column + 5] = image[row - 4 : row + 5, column] = 255


def _letters(image: np.ndarray, row: int, column: int) -> None:
    for k in range(0, 30, 10):  # three letters H
        image[row : row + 9, [column + k, column + k + 5]] = 250
        image[row + 4, column + k : column + k + 6] = 250


def test_clean_tissue_has_none() -> None:
    assert find_markings(_tissue(), LESION) == []


def test_four_calipers_are_found_where_they_are() -> None:
    image = _tissue()
    places = [(98, 200), (150, 148), (150, 252), (203, 200)]
    for row, column in places:
        _cross(image, row, column)
    found = find_markings(image, LESION)
    assert [(mark.y0 + 4, mark.x0 + 4) for mark in found] == places
    assert all((mark.x1 - mark.x0, mark.y1 - mark.y0) == (9, 9) for mark in found)


@pytest.mark.parametrize("channel", [0, 2])
def test_colour_counts(channel: int) -> None:
    image = _tissue()
    image[95:101, 198:206, channel] = 220
    assert len(find_markings(image, LESION)) == 1


def test_letters_count_near_and_not_far() -> None:
    image = _tissue()
    _letters(image, 205, 185)
    assert len(find_markings(image, LESION)) == 3
    image = _tissue()
    _letters(image, 280, 10)
    assert find_markings(image, LESION) == []


def _streak(image: np.ndarray) -> None:
    image[97:99, 150:250] = 255


def _speck(image: np.ndarray) -> None:
    image[97:99, 200:202] = 255


def _blob(image: np.ndarray) -> None:
    image[85:99, 190:206] = 230


@pytest.mark.parametrize("paint", [_streak, _speck, _blob])
def test_bright_tissue_does_not_count(paint: Callable[[np.ndarray], None]) -> None:
    image = _tissue()
    paint(image)
    assert find_markings(image, LESION) == []


def test_a_lesion_at_the_pictures_corner() -> None:
    image = _tissue()
    _cross(image, 8, 44)
    mask = disc(SIZE, 40, (0, 0))
    assert [mark[:2] for mark in find_markings(image, mask)] == [(40, 4)]


def test_calipers_are_known_to_be_common_in_busbra(shared_data: Path) -> None:
    records = LAYOUTS["busbra"].find(shared_data / "busbra").records[::20]
    marked = 0
    for record in records:
        image = to_rgb_uint8(read_image(record["image"]).pixels)
        marked += bool(find_markings(image, record_mask(record, (image.shape[0], image.shape[1]))))
    assert 0.4 < marked / len(records) < 0.8
