"""The lesions of phantoms: how each kind looks, and drawing one into tissue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmsfe_sam.data.phantoms.anatomy import Medium, Outline, smooth_step
from lmsfe_sam.data.phantoms.bmode import Map, smooth_field

KINDS = {"solid": 0.32, "spiculated": 0.26, "cyst": 0.2, "isoechoic": 0.12, "complex": 0.1}
"""Kinds of lesions and how often each is drawn."""


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """A lesion: its outline and how it differs from what surrounds it.

    Attributes:
        outline: the border.
        contrast: its level against the surroundings, in dB.
        texture: standard deviation of the level inside, in dB.
        blur: width of the transition at the border, relative to the radius.
        rim: level of a thin capsule (positive) or halo (negative), in dB.
        surround: level added to the tissue close around, in dB.
        loss: attenuation of a ray through its middle, in dB: shadow, or negative for enhancement.
        edge_loss: attenuation of a ray that grazes its side, in dB.
        specks: number of calcifications.
        cavity: share of the inside that is fluid.
    """

    outline: Outline
    contrast: float
    texture: float = 2.0
    blur: float = 0.08
    rim: float = 0.0
    surround: float = 0.0
    loss: float = 0.0
    edge_loss: float = 0.0
    specks: int = 0
    cavity: float = 0.0

    def overlaps(self, mask: NDArray[np.bool_]) -> bool:
        """Tell whether the lesion overlaps or adjoins a mask (H,W)."""
        window, radius = self.outline.level((mask.shape[0], mask.shape[1]))
        return bool(np.any(mask[window] & (radius < 1.15)))

    def insert(self, medium: Medium, mask: NDArray[np.bool_], rng: np.random.Generator) -> None:
        """Draw the lesion into the tissue and add it to ``mask (H,W)``."""
        window, radius = self.outline.level(medium.shape)
        target = medium.echogenicity[window]
        cells = (max(2, target.shape[0] // 14), max(2, target.shape[1] // 14))
        own = np.median(target) + self.contrast + self.texture * smooth_field(target.shape, cells, rng)
        if self.cavity:
            own -= 20 * self._fluid(radius, rng)
        target += self.surround * np.exp(-np.square(np.maximum(radius - 1, 0) / np.float32(0.25)))
        target += smooth_step((1 - radius) / self.blur + 0.5) * (own - target)  # half way on the outline
        target += self.rim * np.exp(-np.square((radius - 1) / np.float32(0.05)))
        if self.specks:
            core = np.argwhere(radius < 0.75)
            for y, x in core[rng.integers(len(core), size=self.specks)]:
                target[y, x] += rng.uniform(22, 30)
        medium.cast(self.outline, self.loss)
        medium.add_edge_shadows(window, radius, self.edge_loss)
        mask[window] |= radius < 1

    def _fluid(self, radius: Map, rng: np.random.Generator) -> Map:
        """Return 1 in the cavities and 0 in the solid parts."""
        level = smooth_field((radius.shape[0], radius.shape[1]), (5, 5), rng) + 2 * (1 - radius)
        threshold = np.quantile(level[radius < 1], 1 - self.cavity)
        return smooth_step((level - threshold) / 0.3 + 0.5)


def draw_kind(rng: np.random.Generator) -> str:
    """Draw one of `KINDS`."""
    return str(rng.choice(list(KINDS), p=list(KINDS.values())))


def draw_lesion(
    kind: str, shape: tuple[int, int], site: tuple[float, float], rng: np.random.Generator
) -> Lesion:
    """Draw a lesion's place, between two depths, its form and its appearance."""
    height, width = shape
    top, bottom = site[0] * height, min(site[1], 0.92) * height
    smallest = 0.09 if kind in ("isoechoic", "complex") else 0.055
    semi_x = width * np.exp(rng.uniform(np.log(smallest), np.log(0.27)))
    aspect = rng.uniform(0.7, 1.25) if kind == "spiculated" else rng.uniform(0.45, 0.9)
    semi_y = min(semi_x * aspect, 0.45 * (bottom - top))
    roughness = {"spiculated": 0.13, "complex": 0.08, "solid": 0.06, "isoechoic": 0.05, "cyst": 0.035}[kind]
    highest = 14 if kind == "spiculated" else 6
    waves = tuple(
        (roughness * rng.uniform(-3, 3) / periods, periods, rng.uniform(0, 2 * np.pi))
        for periods in range(2, highest)
    )
    spikes: tuple[tuple[float, float, float], ...] = ()
    if kind == "spiculated" and rng.random() < 0.6:
        spikes = tuple(
            (rng.uniform(0.1, 0.4), rng.uniform(-np.pi, np.pi), rng.uniform(0.08, 0.2))
            for _ in range(rng.integers(3, 10))
        )
    x = rng.uniform(0.08 * width + 0.7 * semi_x, 0.92 * width - 0.7 * semi_x)
    y = rng.uniform(top + semi_y, bottom - semi_y)
    outline = Outline(y, x, semi_y, semi_x, rng.normal(0, 0.25), waves, spikes)
    return Lesion(outline=outline, **_draw_appearance(kind, rng))


def _draw_appearance(kind: str, rng: np.random.Generator) -> dict[str, Any]:
    """Draw the appearance of a lesion: `Lesion`'s arguments without the outline."""
    if kind == "cyst":
        return {
            "contrast": rng.uniform(-38, -22),
            "blur": 0.05,
            "rim": rng.uniform(2, 7),
            "loss": rng.uniform(-12, -4),
            "edge_loss": rng.uniform(0, 8),
        }
    if kind == "spiculated":
        return {
            "contrast": rng.uniform(-17, -9),
            "texture": 2.5,
            "blur": rng.uniform(0.1, 0.35),
            "surround": rng.uniform(0, 5),
            "loss": rng.uniform(0, 22),
            "specks": int(rng.integers(3, 10)) if rng.random() < 0.3 else 0,
        }
    if kind == "complex":
        return {
            "contrast": rng.uniform(-9, -3),
            "rim": rng.uniform(0, 6),
            "loss": rng.uniform(-7, 0),
            "edge_loss": rng.uniform(0, 6),
            "cavity": rng.uniform(0.2, 0.6),
        }
    if kind == "isoechoic":
        return {
            "contrast": rng.uniform(-4, 3),
            "texture": 1.5,
            "rim": rng.uniform(-10, -6) if rng.random() < 0.5 else rng.uniform(5, 9),
            "loss": rng.uniform(-3, 3),
            "edge_loss": rng.uniform(2, 7),
        }
    return {
        "contrast": rng.uniform(-15, -6),
        "texture": rng.uniform(1, 2.5),
        "blur": rng.uniform(0.05, 0.12),
        "rim": rng.uniform(0, 7),
        "loss": rng.uniform(-6, 5),
        "edge_loss": rng.uniform(0, 7),
    }
