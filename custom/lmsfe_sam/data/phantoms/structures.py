"""Several structures an image, of shapes that lesions do not have: what a prompt may mean besides a lesion.

None has the shape or the look of those that ``benchmarks/unseen_shapes.py`` measures on: rings with a bright
wall, bent tubes, slabs, crescents and stars. So polygons are not long, lobes are shallow and rims faint.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from lmsfe_sam.data.phantoms.anatomy import Medium, Outline
from lmsfe_sam.data.phantoms.lesions import Lesion

FORMS = {"round": 0.3, "long": 0.25, "lobulated": 0.25, "polygon": 0.2}
"""Forms of structures and how often each is drawn."""

COUNTS = (2, 6)
"""At least and at most so many structures are drawn into an image, as far as there is room for them."""

CONTRAST = 8
"""Grey values, of 255, between a structure and what surrounds it, below which nobody sees it."""

_TRIES = 40


def draw_structures(medium: Medium, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw up to `COUNTS` structures into the tissue, none touching; return the label map, k in the k-th."""
    labels = np.zeros(medium.shape, np.uint8)
    wanted = int(rng.integers(COUNTS[0], COUNTS[1] + 1))
    for _ in range(_TRIES):
        drawn = int(labels.max())
        if drawn == wanted:
            break
        structure = draw_structure(draw_form(rng), medium.shape, rng)
        if structure.overlaps(labels > 0):
            continue
        mask = np.zeros(medium.shape, bool)
        structure.insert(medium, mask, rng)
        labels[mask] = drawn + 1
    return labels


def visible_structures(image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the label map without the structures that do not stand out in the image, numbered anew."""
    seen = np.zeros_like(labels)
    for label in range(1, int(labels.max()) + 1):
        mask = labels == label
        around = binary_dilation(mask, iterations=6) & (labels == 0)
        if abs(np.median(image[mask]) - np.median(image[around])) >= CONTRAST:
            seen[mask] = seen.max() + 1
    return seen


def draw_form(rng: np.random.Generator) -> str:
    """Draw one of `FORMS`."""
    return str(rng.choice(list(FORMS), p=list(FORMS.values())))


def draw_structure(form: str, shape: tuple[int, int], rng: np.random.Generator) -> Lesion:
    """Draw a structure's place, size, outline and appearance."""
    height, width = shape
    semi = min(shape) * np.exp(rng.uniform(np.log(0.045), np.log(0.24)))
    shortest, longest = {
        "round": (0.8, 1.0),
        "long": (0.22, 0.5),
        "lobulated": (0.55, 1.0),
        "polygon": (0.7, 1.0),
    }[form]
    semi_y = semi * rng.uniform(shortest, longest)
    waves: tuple[tuple[float, int, float], ...] = ()
    facets: tuple[tuple[float, float], ...] = ()
    if form == "lobulated":
        waves = tuple((rng.uniform(-0.18, 0.18) / k**0.5, k, rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4))
    elif form == "polygon":
        corners = int(rng.integers(4, 8))
        turn = 2 * np.pi / corners
        facets = tuple(
            (rng.uniform(0.85, 1.15), turn * (side + rng.uniform(-0.15, 0.15))) for side in range(corners)
        )
    outline = Outline(
        rng.uniform(0.1, 0.9) * height,
        rng.uniform(0.05, 0.95) * width,
        semi_y,
        semi,
        rng.uniform(-np.pi / 2, np.pi / 2) if form == "polygon" else rng.normal(0, 0.5),
        waves,
        facets=facets,
    )
    level = rng.choice([rng.uniform(-34, -18), rng.uniform(-16, -5), rng.uniform(5, 12)], p=[0.25, 0.5, 0.25])
    return Lesion(
        outline=outline,
        contrast=float(level),
        texture=rng.uniform(0.7, 3),
        blur=rng.uniform(0.04, 0.2),
        rim=float(rng.choice([0, rng.uniform(-6, 5)])),
        loss=rng.uniform(-8, 8),
        edge_loss=rng.uniform(0, 5),
    )
