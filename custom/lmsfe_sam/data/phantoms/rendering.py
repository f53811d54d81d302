"""Synthetic B-mode phantoms with exactly known lesions, each fixed by its number.

Two regions are imitated, breast (skin, fat with lobules and septa, gland, muscle, now and then a rib) and
neck (skin, strap muscles, thyroid, carotid, windpipe): `anatomy`. In it lie one or two lesions (`lesions`)
among things that look a little like one: fat lobules, vessels, shadows from the skin. Instead, there may be
several `structures` anywhere, each an object. `bmode` turns the maps of echogenicity and attenuation into an
image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmsfe_sam.data.phantoms.anatomy import Medium, breast, neck
from lmsfe_sam.data.phantoms.bmode import Scanner
from lmsfe_sam.data.phantoms.lesions import draw_kind, draw_lesion
from lmsfe_sam.data.phantoms.structures import COUNTS, draw_structures, visible_structures
from lmsfe_sam.errors import InputError

_SEEDS = 2**20
"""Phantoms of one seed; phantom i of seed s has the number s * _SEEDS + i."""

_HEIGHTS, _WIDTHS = (256, 384), (280, 460)
"""Sizes in pixels that a phantom without a given size is drawn from."""

_STRUCTURES = 2**16
"""Keeps the random numbers of a phantom of structures apart from those of a lesion's of the same number."""

Picture = NDArray[np.uint8]


def phantom_records(count: int, seed: int, start: int = 0) -> list[dict[str, Any]]:
    """Return the records of phantoms ``start`` to ``start + count`` of ``seed``, in datalist form.

    Different seeds and different ranges never share a phantom.

    Raises:
        InputError: a number is negative or too large.
    """
    if min(count, seed, start) < 0 or start + count > _SEEDS or seed >= 2**40:
        raise InputError(
            f"There are no {count} phantoms from number {start} on of seed {seed}: "
            f"numbers go from 0 to {_SEEDS}, seeds from 0 to 2**40."
        )
    records = []
    for index in range(start, start + count):
        number, name = seed * _SEEDS + index, f"phantom_{index:05d}"
        kind = draw_kind(np.random.default_rng(number))
        group = f"phantom_{number}"  # other than the name, different for different seeds too
        records.append({"phantom": number, "name": name, "group": group, "subgroup": {"kind": kind}})
    return records


def render_record(record: Mapping[Any, Any]) -> tuple[Picture, Picture]:
    """Return image and mask, (H,W) uint8 and (H,W) uint8 of 0 and 1, of a record of `phantom_records`."""
    return render_phantom(int(record["phantom"]))


def render_phantom(seed: int, size: tuple[int, int] | None = None) -> tuple[Picture, Picture]:
    """Render the phantom number ``seed``.

    Args:
        seed: what everything is drawn from.
        size: height and width in pixels, 64 at least; None draws them too.

    Returns:
        The image (H,W) uint8 and the mask (H,W) uint8, 1 inside a lesion.

    Raises:
        InputError: the size is too small.
    """
    rng = np.random.default_rng(seed)
    kind = draw_kind(rng)
    medium, site = _draw_tissue(size, rng)
    mask = np.zeros(medium.shape, dtype=bool)
    draw_lesion(kind, mask.shape, site, rng).insert(medium, mask, rng)
    if rng.random() < 0.12:
        second = draw_lesion(draw_kind(rng), mask.shape, site, rng)
        if not second.overlaps(mask):
            second.insert(medium, mask, rng)
    image = Scanner.random(rng).scan(medium.echogenicity, medium.loss, rng)
    return image, mask.astype(np.uint8)


def render_structures(seed: int, size: tuple[int, int] | None = None) -> tuple[Picture, Picture]:
    """Render a phantom of several structures, none of them a lesion; arguments as for `render_phantom`.

    Returns:
        The image (H,W) uint8 and the label map (H,W) uint8, k in the k-th structure that can be seen: two at
        least.

    Raises:
        InputError: the size is too small.
    """
    rng = np.random.default_rng([seed, _STRUCTURES])
    while True:
        medium, _ = _draw_tissue(size, rng)
        drawn = draw_structures(medium, rng)
        image = Scanner.random(rng).scan(medium.echogenicity, medium.loss, rng)
        labels = visible_structures(image, drawn)
        if labels.max() >= COUNTS[0]:
            return image, labels


def _draw_tissue(
    size: tuple[int, int] | None, rng: np.random.Generator
) -> tuple[Medium, tuple[float, float]]:
    """Draw a region of a given or a drawn size; return also the depths that its lesions lie in."""
    drawn = int(rng.integers(*_HEIGHTS)), int(rng.integers(*_WIDTHS))
    height, width = drawn if size is None else size
    if min(height, width) < 64:
        raise InputError(f"A phantom of {height} x {width} pixels is too small: give 64 x 64 or more.")
    region = neck if rng.random() < 0.4 else breast
    return region((height, width), rng)
