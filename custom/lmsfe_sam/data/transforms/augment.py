"""Augmentations for ultrasound that MONAI does not have: speckle, depth gain, shadows and burnt-in marks.

MONAI dictionary transforms for float pictures (C,H,W) with values 0..255, torch or numpy, before
normalisation. What is drawn is drawn once for all keys and is the same for all channels. They change grey
values only, so masks stay as they are; flips, rotations and zooms are MONAI's ``RandFlipd``, ``RandAffined``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.config.type_definitions import NdarrayOrTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_dst_type, convert_to_numpy
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from lmsfe_sam.data.phantoms.bmode import spline_weights
from lmsfe_sam.errors import InputError

__all__ = ["RandDepthGaind", "RandMarkersd", "RandShadowd", "RandSpeckled"]

Plane = NDArray[np.float32]


class _RandPictured(RandomizableTransform, MapTransform):
    """What the transforms here share: draw once for a picture's size, then apply to every key."""

    def __init__(self, keys: KeysCollection, prob: float, allow_missing_keys: bool) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with the pictures changed, with the probability ``prob``."""
        result: dict[Hashable, Any] = dict(data)
        self.randomize(None)
        if self._do_transform:
            first = self.first_key(result)
            if first != ():
                self.draw(result, tuple(result[first].shape[-2:]))
            for key in self.key_iterator(result):
                if "float" not in str(result[key].dtype):
                    raise InputError(f"'{key}' holds {result[key].dtype}: make it float before augmentation.")
                result[key] = self.apply(result[key]).clip(0, 255)
        return result

    @abstractmethod
    def draw(self, data: Mapping[Hashable, Any], shape: tuple[int, int]) -> None:
        """Draw from ``self.R`` what `apply` does to pictures of ``shape (H,W)``."""

    @abstractmethod
    def apply(self, picture: NdarrayOrTensor) -> NdarrayOrTensor:
        """Return ``picture (C,H,W)`` changed as drawn, not yet clipped."""


class _RandFactord(_RandPictured):
    """A transform that multiplies the picture by a plane (H,W): black stays black."""

    factor: Plane

    def apply(self, picture: NdarrayOrTensor) -> NdarrayOrTensor:
        return picture * convert_to_dst_type(self.factor, picture)[0]


class RandSpeckled(_RandFactord):
    """Multiply by spatially correlated noise of mean 1, grains that are wider than they are deep.

    Args:
        keys: the pictures' keys.
        prob: how often.
        strength: largest standard deviation of the noise; each picture draws its own from 0 on.
        grain: range of the grains' size, the standard deviation of the blur along depth in pixels;
            across it is 1.5 times that.
        allow_missing_keys: as for every MONAI ``MapTransform``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.1,
        strength: float = 0.2,
        grain: tuple[float, float] = (0.5, 1.5),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        self.strength = _positive("strength", strength)
        self.grain = ordered("grain", grain)

    def draw(self, data: Mapping[Hashable, Any], shape: tuple[int, int]) -> None:  # noqa: D102
        strength, grain = self.R.uniform(0, self.strength), self.R.uniform(*self.grain)
        # RandomState's own normal numbers are four times slower than the new generator's.
        noise = np.random.default_rng(self.R.randint(2**31)).standard_normal(shape, dtype=np.float32)
        noise = gaussian_filter1d(noise, grain, axis=0, truncate=3)
        noise = gaussian_filter1d(noise, 1.5 * grain, axis=1, truncate=3)
        self.factor = 1 + noise * np.float32(strength / noise.std())


class RandDepthGaind(_RandFactord):
    """Multiply the rows by a smooth curve along depth, as wrongly set depth gain does.

    Args:
        keys: the pictures' keys.
        prob: how often.
        strength: largest change at any of the curve's knots, as a power of two: 1 doubles or halves.
        knots: intervals between the curve's knots.
        allow_missing_keys: as for every MONAI ``MapTransform``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.1,
        strength: float = 0.7,
        knots: int = 3,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        self.strength = _positive("strength", strength)
        self.knots = int(_positive("knots", knots))

    def draw(self, data: Mapping[Hashable, Any], shape: tuple[int, int]) -> None:  # noqa: D102
        knots = self.R.uniform(-self.strength, self.strength, size=self.knots + 3)
        curve = (spline_weights(shape[0], self.knots) * knots).sum(axis=1, keepdims=True)
        self.factor = np.exp2(curve).astype(np.float32)


class RandShadowd(_RandFactord):
    """Darken a wedge that starts at the top or a little below, as poor contact, ribs and calcium do.

    Args:
        keys: the pictures' keys.
        prob: how often.
        strength: range of what the shadow takes from the grey values, 0 nothing and 1 all.
        width: range of its width, as a share of the picture's.
        allow_missing_keys: as for every MONAI ``MapTransform``.

    Raises:
        InputError: a range that is upside down, or a strength above 1.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.1,
        strength: tuple[float, float] = (0.3, 0.9),
        width: tuple[float, float] = (0.05, 0.3),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        self.strength = ordered("strength", strength)
        self.width = ordered("width", width)
        if self.strength[1] > 1:
            raise InputError(f"strength is {strength!r}: a shadow takes at most 1, all of the grey value.")

    def draw(self, data: Mapping[Hashable, Any], shape: tuple[int, int]) -> None:  # noqa: D102
        height, width = shape
        strength, share = self.R.uniform(*self.strength), self.R.uniform(*self.width)
        centre, start = self.R.uniform(0, 1), max(0.0, self.R.uniform(-0.4, 0.4))
        slant, spread = self.R.uniform(-0.2, 0.2), self.R.uniform(0, 0.5)
        depth = np.arange(0.5, height, dtype=np.float32)[:, None] / height
        across = np.arange(0.5, width, dtype=np.float32)[None] / width
        half = 0.5 * share * (1 + spread * depth)
        aside = np.abs(across - centre - slant * depth) / half
        shade = _smooth_step(2 * (1.25 - aside)) * _smooth_step((depth - start) / 0.05 + 0.5)
        self.factor = 1 - np.float32(strength) * shade


class RandMarkersd(_RandPictured):
    """Paint measuring marks and text as scanners burn them in: on the lesion's ends, and anywhere else.

    Calipers beside most lesions of some public sets reveal where the lesion is. Painted as often where no
    lesion is, they tell a network nothing. A pair of calipers are two crosses, sometimes with a dotted
    line between; texts are lines of digits.

    Args:
        keys: the pictures' keys.
        prob: how often.
        label_key: key of the lesion's mask (1,H,W); without it in the data, or where the mask is
            empty, all marks lie anywhere.
        calipers: largest number of pairs of calipers; each lies on the lesion half of the time.
        texts: largest number of lines of text.
        allow_missing_keys: as for every MONAI ``MapTransform``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.1,
        label_key: str = "label",
        calipers: int = 3,
        texts: int = 2,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        self.label_key = label_key
        self.calipers = int(_positive("calipers", calipers))
        self.texts = int(_positive("texts", texts))

    def draw(self, data: Mapping[Hashable, Any], shape: tuple[int, int]) -> None:  # noqa: D102
        inside: NDArray[Any] = np.empty((0, 2))
        if self.label_key in data:
            inside = np.argwhere(convert_to_numpy(data[self.label_key])[0] > 0)
        self.brightness = float(self.R.uniform(150, 255))
        self.marks = np.zeros(shape, dtype=bool)
        for _ in range(self.R.randint(1, self.calipers + 1)):
            near = len(inside) > 1 and self.R.rand() < 0.5
            ends = self._across(inside) if near else self.R.uniform(0.05, 0.95, (2, 2)) * shape
            self._measure(ends)
        for _ in range(self.R.randint(0, self.texts + 1)):
            self._write(self.R.uniform(0, 0.95, 2) * shape)

    def apply(self, picture: NdarrayOrTensor) -> NdarrayOrTensor:  # noqa: D102
        marks = convert_to_dst_type(self.marks.astype(np.float32), picture)[0]
        return picture + marks * (self.brightness - picture).clip(0, 255)

    def _across(self, inside: NDArray[Any]) -> NDArray[Any]:
        """Return both ends (2,2), y before x, of the lesion along a random direction."""
        angle = self.R.uniform(0, np.pi)
        along = inside @ np.array([np.sin(angle), np.cos(angle)])
        ends = inside[[along.argmin(), along.argmax()]]
        return ends + self.R.uniform(-2, 2, (2, 2))

    def _measure(self, ends: NDArray[Any]) -> None:
        """Paint crosses on both ends and, half of the time, dots between them."""
        arm, upright = self.R.randint(2, 5), self.R.rand() < 0.7
        steps = np.arange(-arm, arm + 1)
        for y, x in ends:
            if upright:
                self._paint(y + np.append(steps, 0 * steps), x + np.append(0 * steps, steps))
            else:
                self._paint(y + np.append(steps, steps), x + np.append(steps, -steps))
        if self.R.rand() < 0.5:
            length = np.hypot(*(ends[1] - ends[0]))
            share = np.linspace(0, 1, max(2, int(length / self.R.uniform(3, 6))))[:, None]
            dots = ends[0] + share * (ends[1] - ends[0])
            self._paint(dots[:, 0], dots[:, 1])

    def _write(self, corner: NDArray[Any]) -> None:
        """Paint a line of digits from its upper left corner on."""
        scale = self.R.randint(1, 3)
        digits = _DIGITS[self.R.randint(10, size=self.R.randint(1, 9))]
        line = np.concatenate(np.pad(digits, ((0, 0), (0, 0), (0, 1))), axis=1)
        down, across = np.nonzero(np.kron(line, np.ones((scale, scale), dtype=bool)))
        self._paint(corner[0] + down, corner[1] + across)

    def _paint(self, y: NDArray[Any], x: NDArray[Any]) -> None:
        """Mark the pixels nearest to the points, where they lie in the picture."""
        rows, columns = np.rint(y).astype(int), np.rint(x).astype(int)
        height, width = self.marks.shape
        seen = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        self.marks[rows[seen], columns[seen]] = True


def _digits(*rows: str) -> NDArray[np.bool_]:
    """Return (digits, rows, 3) from the rows of a picture of digits, three columns each."""
    picture = np.array([[pixel == "#" for pixel in row] for row in rows])
    return picture.reshape(len(rows), -1, 3).swapaxes(0, 1)


_DIGITS = _digits(
    "###.#.#######.################",
    "#.###...#..##.##..#....##.##.#",
    "#.#.#.###.###########.#.######",
    "#.#.#.#....#..#..##.#.#.#.#..#",
    "############..#######.#.######",
)


def _smooth_step(value: NDArray[np.floating[Any]]) -> Plane:
    value = np.clip(value, 0, 1).astype(np.float32)
    return value * value * (3 - 2 * value)


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise InputError(f"{name} is {value!r}: give a number above 0.")
    return value


def ordered(name: str, limits: tuple[float, float]) -> tuple[float, float]:
    """Return ``limits`` if both are above 0 and in order.

    Raises:
        InputError: the limits are not positive or not in order.
    """
    low, high = limits
    if not 0 < low <= high:
        raise InputError(f"{name} is {limits!r}: give two numbers above 0, the smaller first.")
    return low, high
