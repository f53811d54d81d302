"""The tissue of a phantom: layers, vessels, bone and shadows, as maps for `lmsfe_sam.data.phantoms.bmode`.

Levels are decibels, 0 being average tissue. Depths of layers are shares of the picture's height.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmsfe_sam.data.phantoms.bmode import Map, smooth_curve, smooth_field

_SHARPNESS = 16
"""Power of the norm that joins the sides of a polygon: the higher, the sharper its corners."""


@dataclass(frozen=True)
class Outline:
    """A closed curve around ``(y, x)``, in pixels: an ellipse whose radius is changed along the angle.

    ``waves`` are (amplitude, periods, phase) of a relative change of the radius; ``spikes`` are
    (height, angle, angular width) of narrow outgrowths. ``facets`` are (distance, angle) of the sides of a
    convex polygon with rounded corners, whose farthest corner lies on the ellipse.
    """

    y: float
    x: float
    semi_y: float
    semi_x: float
    tilt: float = 0.0
    waves: tuple[tuple[float, int, float], ...] = ()
    spikes: tuple[tuple[float, float, float], ...] = ()
    facets: tuple[tuple[float, float], ...] = ()

    def level(self, shape: tuple[int, int], reach: float = 1.5) -> tuple[tuple[slice, slice], Map]:
        """Return a window of the picture and, in it, the radius relative to the curve's (1 on the curve)."""
        reach *= 1 + sum(abs(w[0]) for w in self.waves) + max((s[0] for s in self.spikes), default=0)
        extent = reach * max(self.semi_y, self.semi_x) + 2
        top, bottom = np.clip([self.y - extent, self.y + extent], 0, shape[0]).astype(int)
        left, right = np.clip([self.x - extent, self.x + extent], 0, shape[1]).astype(int)
        down = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - self.y)
        across = np.arange(left, right, dtype=np.float32)[None] + np.float32(0.5 - self.x)
        sine, cosine = np.float32(np.sin(self.tilt)), np.float32(np.cos(self.tilt))
        u = (cosine * across + sine * down) / np.float32(self.semi_x)
        v = (cosine * down - sine * across) / np.float32(self.semi_y)
        radius = np.hypot(u, v)
        if self.waves or self.spikes or self.facets:
            radius = radius / self._profile(np.arctan2(v, u))
        return (slice(top, bottom), slice(left, right)), radius

    def _profile(self, angle: Map) -> Map:
        """Return the relative radius at each angle, read from a fine table."""
        table_angle = np.linspace(-np.pi, np.pi, 721, dtype=np.float32)
        table = self._polygon(table_angle) if self.facets else np.ones_like(table_angle)
        for amplitude, periods, phase in self.waves:
            table += amplitude * np.cos(periods * table_angle + phase)
        for height, centre, width in self.spikes:
            away = (table_angle - centre + np.pi) % (2 * np.pi) - np.pi
            table += height * np.exp(-((away / width) ** 2))
        table = np.maximum(table, 0.3)
        return table[np.rint((angle + np.pi) * (720 / (2 * np.pi))).astype(np.intp)]

    def _polygon(self, angle: Map) -> Map:
        """Return the radius of the facets' polygon at each angle: a norm, whose power rounds the corners."""
        near = [np.maximum(np.cos(angle - centre), 0) / distance for distance, centre in self.facets]
        radius = np.sum(np.power(near, _SHARPNESS), axis=0) ** (-1 / _SHARPNESS)
        return (radius / radius.max()).astype(np.float32)


class Medium:
    """The maps that a scanner needs, and the ways to draw on them."""

    def __init__(self, echogenicity: Map) -> None:
        self.echogenicity = echogenicity
        self.loss = np.zeros_like(echogenicity)
        self.shape = (echogenicity.shape[0], echogenicity.shape[1])

    def paint(self, outline: Outline, level: float, blur: float = 0.1, relative: bool = False) -> None:
        """Set the inside of an outline to a level, or add the level to it."""
        window, radius = outline.level(self.shape, 1 + 2 * blur)
        inside = smooth_step((1 - radius) / blur)
        target = self.echogenicity[window]
        target += inside * (level if relative else level - target)

    def cast(self, outline: Outline, loss: float) -> None:
        """Attenuate rays through an outline by ``loss`` dB along its vertical diameter."""
        window, radius = outline.level(self.shape, 1.2)
        self.loss[window] += np.float32(loss / (2 * outline.semi_y)) * smooth_step((1 - radius) / 0.15 + 0.5)

    def add_edge_shadows(self, window: tuple[slice, slice], radius: Map, loss: float) -> None:
        """Put a thin shadow, ``loss`` dB deep, under either side of an outline: refraction at its border.

        ``window`` and ``radius`` are what `Outline.level` gave.
        """
        rows, columns = np.nonzero(radius < 1)
        x = np.arange(self.shape[1])
        for end in (columns.min(), columns.max()):
            row = window[0].start + int(rows[columns == end].mean())
            line = np.exp(-np.square((x - window[1].start - end) / 1.8))
            self.loss[row : row + 6] += (loss / 6 * line).astype(np.float32)

    def shade(self, centre: float, width: float, depth: int, loss: float) -> None:
        """Shadow a band of columns from a depth on."""
        across = np.abs(np.arange(self.shape[1]) - centre) / width
        self.loss[depth : depth + 4] += np.float32(loss / 4) * smooth_step(1 - across)


def breast(shape: tuple[int, int], rng: np.random.Generator) -> tuple[Medium, tuple[float, float]]:
    """Draw skin, fat, gland, muscle and what they hold; return also the depths that lesions lie in."""
    height, width = shape
    skin = rng.uniform(0.03, 0.06)
    fat = skin + rng.uniform(0.06, 0.3)
    gland = fat + rng.uniform(0.25, 0.5)
    muscle = gland + rng.uniform(0.12, 0.25)
    flat = _wavy_depth(shape, rng.uniform(0.01, 0.03), rng)
    coarse = smooth_field(shape, (8, 4), rng)
    streaks = smooth_field(shape, (18, 5), rng)
    fine = smooth_field(shape, (34, 12), rng)
    # Fat and gland interlock; skin and muscle lie flat.
    depth = flat + np.float32(rng.uniform(0.01, 0.06)) * (0.7 * coarse + 0.3 * streaks)
    tissue: Map = rng.uniform(-9, -5) + 1.2 * coarse + fine
    tissue += _strands(coarse, rng.uniform(10, 18), rng) + _strands(fine, rng.uniform(3, 12), rng)
    glandular = rng.uniform(-2, 3) + rng.uniform(1, 3) * streaks + rng.uniform(0.5, 2) * fine
    glandular += _strands(streaks, rng.uniform(4, 16), rng) + _strands(fine, rng.uniform(2, 10), rng)
    tissue = _below(tissue, depth, fat, glandular, rng.uniform(0.02, 0.1))
    muscular = -9 + 1.5 * fine + _strands(streaks, 18, rng) + _strands(fine, 10, rng)
    tissue = _below(tissue, flat, gland, muscular, 0.015)
    deep = rng.uniform(-16, -6) + 2 * coarse + fine + _strands(streaks, rng.uniform(0, 14), rng)
    tissue = _below(tissue, flat, muscle, deep, 0.02)
    for border, level in ((gland, rng.uniform(6, 16)), (muscle, rng.uniform(4, 16))):
        tissue += _sheet(flat, border, level, rng)
    medium = Medium(_with_skin(tissue, flat, skin))
    for _ in range(rng.integers(1, 5)):  # fat lobules
        y, x = rng.uniform(fat, gland) * height, rng.uniform(0, 1) * width
        semi_y, semi_x = rng.uniform(0.03, 0.07) * height, rng.uniform(0.06, 0.14) * width
        lobule = Outline(y, x, semi_y, semi_x, rng.normal(0, 0.2))
        medium.paint(lobule, rng.uniform(-6, -3), 0.4, relative=True)
    _add_vessels(medium, (fat, gland), rng)
    _add_contact_shadow(medium, rng)
    if rng.random() < 0.25:
        semi = rng.uniform(0.08, 0.2) * width
        y, x = rng.uniform(0.75, 0.95) * height, rng.uniform(0, 1) * width
        rib = Outline(y, x, 0.35 * semi, semi, rng.normal(0, 0.1))
        medium.paint(rib, rng.uniform(2, 8), 0.3)
        medium.cast(rib, 35)
    return medium, (skin + 0.04, min(gland + 0.05, 0.85))


def neck(shape: tuple[int, int], rng: np.random.Generator) -> tuple[Medium, tuple[float, float]]:
    """Draw skin, strap muscles, a thyroid lobe and its neighbours; return also the lobe's depths."""
    height, width = shape
    skin = rng.uniform(0.02, 0.05)
    strap = skin + rng.uniform(0.03, 0.1)
    lobe = strap + rng.uniform(0.06, 0.16)
    back = lobe + rng.uniform(0.4, 0.6)
    depth = _wavy_depth(shape, rng.uniform(0.01, 0.03), rng)
    side = 1.0 if rng.random() < 0.5 else -1.0
    across = (np.arange(width, dtype=np.float32) / width - 0.5) * side
    bulge = depth + np.float32(rng.uniform(-0.8, 0.2)) * np.square(across)[None] * (depth - lobe)
    fibres = smooth_field(shape, (30, 5), rng)
    patches = smooth_field(shape, (9, 7), rng)
    tissue: Map = rng.uniform(-8, -2) + fibres + patches
    muscular = -9 + 1.5 * fibres + _strands(fibres, 12, rng)
    tissue = _below(tissue, depth, strap, muscular, 0.015)
    tissue = _below(tissue, depth, lobe, rng.uniform(-3, 3) + rng.uniform(0.7, 2.5) * patches + fibres, 0.015)
    deep = rng.uniform(-12, -5) + 1.5 * fibres + 1.5 * patches
    deep += _strands(fibres, 12, rng) + _strands(patches, 12, rng)
    tissue = _below(tissue, bulge, back, deep, 0.02)
    for border, level in ((strap, rng.uniform(2, 10)), (lobe, rng.uniform(5, 12))):
        tissue += _sheet(depth, border, level, rng)
    tissue += _sheet(bulge, back, rng.uniform(4, 13), rng)
    medium = Medium(_with_skin(tissue, depth, skin))
    if rng.random() < 0.7:  # the carotid, at the side
        semi = rng.uniform(0.05, 0.085) * width
        y, x = rng.uniform(lobe + 0.25, back) * height, (0.5 + side * rng.uniform(0.38, 0.46)) * width
        semi_y, tilt = semi * rng.uniform(0.75, 1.0), rng.normal(0, 0.3)
        carotid = Outline(y, x, semi_y, semi, tilt)
        medium.paint(Outline(y, x, 1.2 * semi_y, 1.2 * semi, tilt), rng.uniform(0, 8), 0.15)
        medium.paint(carotid, rng.uniform(-36, -24), 0.1)
        medium.cast(carotid, rng.uniform(-8, -3))
    if rng.random() < 0.5:  # the windpipe, at the middle of the neck
        semi = rng.uniform(0.12, 0.2) * width
        x = (0.5 - side * rng.uniform(0.48, 0.6)) * width
        windpipe = Outline((lobe + 0.25) * height, x, 0.2 * height, semi)
        medium.paint(windpipe, rng.uniform(0, 6), 0.2)
        medium.cast(windpipe, rng.uniform(20, 45))
    _add_vessels(medium, (lobe, back), rng)
    _add_contact_shadow(medium, rng)
    return medium, (lobe - 0.02, back)


def _add_vessels(medium: Medium, depths: tuple[float, float], rng: np.random.Generator) -> None:
    """Draw a few ducts or vessels, long and thin, and now and then a tiny cyst."""
    height, width = medium.shape
    for _ in range(rng.integers(0, 4)):
        y, x = rng.uniform(*depths) * height, rng.uniform(0, 1) * width
        length = rng.uniform(0.012, 0.09) * width
        vessel = Outline(y, x, rng.uniform(0.007, 0.015) * width, length, rng.normal(0, 0.25))
        medium.paint(vessel, rng.uniform(-26, -14), 0.5)


def _add_contact_shadow(medium: Medium, rng: np.random.Generator) -> None:
    """Darken a band of columns from the skin on, as under poor contact or the nipple."""
    if rng.random() < 0.3:
        width = medium.shape[1]
        centre = rng.choice([rng.uniform(-0.05, 0.12), rng.uniform(0.88, 1.05), rng.uniform(0, 1)])
        medium.shade(centre * width, rng.uniform(0.06, 0.25) * width, 2, rng.uniform(5, 16))


def _wavy_depth(shape: tuple[int, int], amplitude: float, rng: np.random.Generator) -> Map:
    """Return each pixel's depth, 0 at the skin and 1 at the bottom, along gently waving layers."""
    height = shape[0]
    depth = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height
    waves = smooth_field(shape, (2, 4), rng)
    # Layers lie flat under the probe and wave more the deeper they are.
    return depth + np.float32(2 * amplitude) * waves * np.minimum(depth * 2, 1)


def _below(tissue: Map, depth: Map, border: float, other: Map, softness: float) -> Map:
    """Let ``other`` take over from ``tissue`` below a depth."""
    return tissue + smooth_step((depth - border) / softness + 0.5) * (other - tissue)


def _sheet(depth: Map, border: float, level: float, rng: np.random.Generator) -> Map:
    """Return a fascia, a thin bright sheet at a depth that comes and goes along its length."""
    strength = np.clip(0.6 + 0.5 * smooth_curve(depth.shape[1], 7, rng), 0, 1.2)
    return np.float32(level) * strength[None] * np.exp(-np.square((depth - border) / np.float32(0.007)))


def _with_skin(tissue: Map, depth: Map, skin: float) -> Map:
    """Put bright skin on top."""
    return tissue + smooth_step((skin - depth) / 0.01 + 0.5) * (6 - tissue)


def _strands(field: Map, level: float, rng: np.random.Generator) -> Map:
    """Return thin bright strands (septa, fibres) along the zero lines of a smooth field.

    They are about a pixel and a half thick, brightest where they lie across the beam, gone where
    they run along it, as echoes are, and come and go.
    """
    down, across = np.gradient(field)
    down, steepness = np.square(down), np.square(down) + np.square(across) + np.float32(1e-8)
    strength = np.clip(0.6 + 0.6 * smooth_field(field.shape, (5, 4), rng), 0, 1.6)
    facing = np.square(down / steepness)
    return np.float32(level) * strength * facing * np.exp(np.square(field) / (np.float32(-2.5) * steepness))


def smooth_step(value: Map) -> Map:
    """Return a smooth step: 0 up to 0, 1 from 1 on."""
    value = np.clip(value, 0, 1).astype(np.float32)
    return value * value * (3 - 2 * value)
