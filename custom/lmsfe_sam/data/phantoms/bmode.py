"""From an echogenicity map to a B-mode picture: speckle, attenuation, gain and log compression.

The model is the usual linear one: many weak scatterers with complex Gaussian amplitudes, blurred by the
pulse's point spread function, give fully developed speckle; what is shown is the logarithm of its
envelope. Levels are decibels throughout. Nothing here knows what the map depicts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

Map = NDArray[np.floating[Any]]
"""One value a pixel; float32 wherever speed matters."""


@dataclass(frozen=True)
class Scanner:
    """One scanner with its settings.

    Attributes:
        axial: standard deviation of the point spread function along depth, in pixels.
        lateral: the same across, in pixels.
        noise: level of the electronic noise, in dB under echogenicity 0; it shows where echoes fade.
        dynamic_range: decibels from black to white.
        brightness: the grey value, 0..1, that echogenicity 0 is shown with.
        smoothing: standard deviation, in pixels, of the speckle reduction, on the envelope.
        gain: the knots, from top to bottom and in dB, of what the depth gain makes too much or too little.
    """

    axial: float
    lateral: float
    noise: float
    dynamic_range: float
    brightness: float
    smoothing: float
    gain: tuple[float, ...]

    @classmethod
    def random(cls, rng: np.random.Generator) -> Scanner:
        """Draw a scanner between an old, grainy one and a modern, smoothing one."""
        modern = rng.uniform()
        gain = np.cumsum(rng.normal(0, 1.5, size=5)) + np.linspace(0, rng.uniform(-14, 2), 5)
        return cls(
            axial=rng.uniform(0.6, 1.1),
            lateral=rng.uniform(1.0, 2.0),
            noise=rng.uniform(26, 40),
            dynamic_range=46 + 14 * modern + rng.uniform(-4, 4),
            brightness=rng.uniform(0.3, 0.5),
            smoothing=0.4 + 0.9 * modern,
            gain=tuple((gain - gain[:3].mean()).tolist()),
        )

    def scan(self, echogenicity: Map, loss: Map, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Return the picture (H,W) uint8 of a medium.

        Args:
            echogenicity: (H,W), how strongly each pixel scatters, in dB; 0 is average tissue.
            loss: (H,W), what a pixel takes from (or, negative, leaves to) all below it, in dB; what
                the average depth gain makes up for is not part of it.
            rng: draws the scatterers and the noise.
        """
        height = echogenicity.shape[0]
        amplitude = _from_decibels(echogenicity)
        # Neighbouring beams overlap, so a shadow's sides are never sharp.
        loss = gaussian_filter1d(loss, 2 * self.lateral, axis=1, truncate=2, mode="nearest")
        transmitted = _from_decibels(-np.cumsum(loss, axis=0))
        # What blurring takes from the variance of white noise, and half the power for either part.
        focus = np.float32(np.sqrt(2 * np.pi * self.axial * self.lateral))
        power = np.full(echogenicity.shape, 1e-6, dtype=np.float32)
        for _ in range(2):  # the real and the imaginary part
            echo = amplitude * rng.standard_normal(amplitude.shape, dtype=np.float32)
            echo = focus * _blur(echo, self.axial, self.lateral) * transmitted
            echo += _from_decibels(-self.noise) * rng.standard_normal(echo.shape, dtype=np.float32)
            power += echo**2
        envelope = _blur(np.sqrt(power), 0.8 * self.smoothing, 1.2 * self.smoothing)
        knots = np.array(self.gain, dtype=np.float32)
        gain = (spline_weights(height, len(knots) - 3) * knots).sum(axis=1)
        grey = (20 * np.log10(envelope) + gain[:, None]) / self.dynamic_range + self.brightness
        return (255 * np.clip(grey, 0, 1)).astype(np.uint8)


def smooth_field(shape: tuple[int, int], cells: tuple[int, int], rng: np.random.Generator) -> Map:
    """Return a smooth random field of ``shape (H,W)``, mean 0 and standard deviation 1.

    ``cells`` says how many independent values fit in its height and width: cubic B-splines between
    random knots.
    """
    rows, columns = spline_weights(shape[0], cells[0]), spline_weights(shape[1], cells[1])
    knots = rng.standard_normal((cells[0] + 3, cells[1] + 3), dtype=np.float32)
    # Not `@`: BLAS would share out these small products over all cores, which costs more than it
    # brings, and many times more where the cores are busy.
    field = np.einsum("hk,kw->hw", np.einsum("hk,kl->hl", rows, knots), columns.T.copy())
    return (field - field.mean()) / (field.std() + 1e-6)


def smooth_curve(length: int, cells: int, rng: np.random.Generator) -> Map:
    """Return a smooth random curve of ``length`` values, as `smooth_field` in one dimension."""
    return smooth_field((1, length), (1, cells), rng)[0]


@lru_cache(maxsize=256)
def spline_weights(length: int, cells: int) -> Map:
    """Return (length, cells + 3): the weights of a uniform cubic B-spline's knots at pixel centres."""
    position = (np.arange(length) + 0.5) / length * cells
    knot = np.minimum(position.astype(int), cells - 1)
    t = position - knot
    basis = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    weights = np.zeros((length, cells + 3), dtype=np.float32)
    weights[np.arange(length), knot + np.arange(4)[:, None]] = basis
    return weights


def _from_decibels(level: Map | float) -> Map:
    return np.exp(np.float32(math.log(10) / 20) * np.asarray(level, dtype=np.float32))


def _blur(picture: Map, axial: float, lateral: float) -> Map:
    picture = gaussian_filter1d(picture, axial, axis=0, truncate=3, mode="nearest")
    return gaussian_filter1d(picture, lateral, axis=1, truncate=3, mode="nearest")
