"""Near-duplicate pictures: the same scene saved twice, cropped, with calipers, or a frame later.

Public ultrasound sets hold many (BUSI about 155 pairs, some labelled benign in one file and
malignant in the other), and a split that parts them measures memory. Each picture is reduced to a
thumbnail of 32 x 32, and two pictures are near-duplicates where three measures agree:

- the fine structure of the whole thumbnail correlates (each pixel minus its surroundings, over
  their local contrast, so that depth gain and brightness do not count);
- the central part correlates as it is (so that a scanner's frame, scale bar and text, alike on all
  its pictures, do not count);
- their perceptual hashes, the signs of the 63 lowest cosine frequencies about their median, differ
  in few bits.

The thresholds were set on BUSI, and tried on BUS-BRA, where no pair of two patients passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from lmsfe_sam.errors import InputError
from lmsfe_sam.images.limits import MAX_PIXELS
from lmsfe_sam.images.reading import read_image
from lmsfe_sam.predict.preprocessing import to_rgb_uint8

SIDE = 32
"""The thumbnail's side in pixels."""

MIN_FINE, MIN_CENTRE, MAX_BITS = 0.55, 0.80, 18
"""What a pair of near-duplicates reaches: the two correlations, and the hash's differing bits."""

_SURROUNDINGS = 4.0  # standard deviation, in thumbnail pixels, of what a pixel is compared to
_FLAT = 4.0  # local contrast, in grey levels, below which fine structure is not blown up
_CENTRE = slice(SIDE // 5, SIDE - SIDE // 5)
_HASH_SIDE = 8
_ROWS_AT_ONCE = 1024  # of the pair tables, to bound memory


class Pair(NamedTuple):
    """Two near-duplicates by their indices in the list, the first before the second."""

    first: int
    second: int
    similarity: float
    """The correlation of their fine structure, MIN_FINE to 1."""


def find_pairs(paths: Sequence[str | Path], max_pixels: int = MAX_PIXELS) -> list[Pair]:
    """Find the near-duplicates among picture files, the most alike first."""
    return compare(thumbnails(paths, max_pixels))


def thumbnails(paths: Sequence[str | Path], max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read pictures as grey thumbnails, (N, 32, 32) float32 in 0..255, on a few threads.

    An unreadable file, or one of more than ``max_pixels``, gives a black one, which is like no other: naming
    bad files is the task of `lmsfe_sam.data.checking.check_records`.
    """
    read = partial(_thumbnail, max_pixels=max_pixels)
    with ThreadPoolExecutor() as pool:
        return np.array(list(pool.map(read, paths)), dtype=np.float32).reshape(-1, SIDE, SIDE)


def _thumbnail(path: str | Path, max_pixels: int) -> np.ndarray:
    try:
        grey = Image.fromarray(to_rgb_uint8(read_image(path, max_pixels=max_pixels).pixels)).convert("L")
    except InputError:
        return np.zeros((SIDE, SIDE), np.float32)
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32)


def compare(pictures: np.ndarray) -> list[Pair]:
    """Compare every two thumbnails (N, 32, 32); return the near-duplicates, the most alike first."""
    if len(pictures) < 2:
        return []
    fine = _unit_rows(_fine_structure(pictures))
    centre = _unit_rows(pictures[:, _CENTRE, _CENTRE])
    signs = _hash_signs(pictures)
    pairs: list[Pair] = []
    for start in range(0, len(pictures), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        similarity = fine[rows] @ fine.T
        # Two hashes of K signs differ in (K - their product) / 2 places.
        bits = (signs.shape[1] - signs[rows] @ signs.T) / 2
        alike = (similarity > MIN_FINE) & (centre[rows] @ centre.T > MIN_CENTRE) & (bits <= MAX_BITS)
        for row, second in zip(*np.nonzero(alike), strict=True):
            if start + row < second:
                # Rounded, since the last digits of equals depend on the processor and would order them.
                pairs.append(Pair(int(start + row), int(second), round(float(similarity[row, second]), 5)))
    return sorted(pairs, key=lambda pair: (-pair.similarity, pair.first, pair.second))


def groups_of(names: Sequence[str], pairs: Sequence[Pair]) -> list[str]:
    """Join near-duplicates, and their near-duplicates, into groups.

    Returns:
        For each name its group's identity: the group's first name in alphabetical order, so that neither the
        order of the files nor the rest of the folder changes it.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not names:
        return []
    links = coo_array(
        (np.ones(len(pairs)), ([pair.first for pair in pairs], [pair.second for pair in pairs])),
        shape=(len(names), len(names)),
    )
    _, labels = connected_components(links, directed=False)
    first: dict[int, str] = {}
    for label, name in zip(labels, names, strict=True):
        first[label] = min(name, first.get(label, name))
    return [first[label] for label in labels]


def _fine_structure(pictures: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    blur = (0, _SURROUNDINGS, _SURROUNDINGS)
    detail = pictures - gaussian_filter(pictures, blur)
    contrast = np.sqrt(gaussian_filter(detail * detail, blur))
    return detail / (contrast + _FLAT)


def _hash_signs(pictures: np.ndarray) -> np.ndarray:
    """(N, 63) float32 of -1 and 1."""
    from scipy.fft import dctn

    low = dctn(pictures, axes=(1, 2), norm="ortho")[:, :_HASH_SIDE, :_HASH_SIDE]
    values = low.reshape(len(pictures), -1)[:, 1:]  # without the mean brightness
    return np.where(values > np.median(values, axis=1, keepdims=True), 1, -1).astype(np.float32)


def _unit_rows(pictures: np.ndarray) -> np.ndarray:
    """Flatten, centre and scale each picture, so that a product of two is their correlation."""
    rows = pictures.reshape(len(pictures), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
