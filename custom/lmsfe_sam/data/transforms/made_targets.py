"""Artificial targets for a small share of the training images: objects that are not lesions, always prompted.

A network that has seen lesions alone takes every prompt for a lesion's. These show it that a click or a box
means "this thing": any region of one texture, and plain ellipses, as many organs are in cross-section.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_numpy
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from lmsfe_sam.data.transforms.augment import ordered
from lmsfe_sam.errors import InputError

__all__ = ["RandEllipseTargetd", "RandSuperpixelTargetd"]

UNPROMPTED_KEY = "unprompted"
"""Key that says whether an image may be segmented without a prompt; made targets may not."""


class _RandTargetd(RandomizableTransform, MapTransform, ABC):
    """Base: replace the label by another target, and say that it has to be prompted.

    Args:
        keys: the picture, (C,H,W) with values 0..255.
        prob: how often.
        label_key: key of the label (1,H,W).
        allow_missing_keys: as for every MONAI ``MapTransform``.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        prob: float = 0.05,
        label_key: str = "label",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        if len(self.keys) != 1:
            raise InputError(f"{type(self).__name__} has the keys {self.keys}: give the one of the picture.")
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data``, with the probability ``prob`` with another target."""
        result: dict[Hashable, Any] = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return result
        key = self.keys[0]
        picture = convert_to_numpy(result[key]).astype(np.float32)
        picture, target = self.make(picture)
        if not target.any():
            return result
        label = result[self.label_key]
        result[key] = torch.as_tensor(picture, dtype=result[key].dtype)
        result[self.label_key] = torch.as_tensor(target[None], dtype=label.dtype)
        result[UNPROMPTED_KEY] = False
        return result

    @abstractmethod
    def make(self, picture: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the picture (C,H,W), changed or not, and the target (H,W)."""


class RandSuperpixelTargetd(_RandTargetd):
    """Make a connected region of superpixels the target (SLIC, Achanta 2012, of the smoothed picture).

    Args:
        keys: the picture, (C,H,W) with values 0..255.
        prob: how often.
        count: range of the number of superpixels that the picture is divided into.
        joined: range of the number of neighbouring superpixels that make the region, the most alike first.
        label_key: key of the label (1,H,W).
        allow_missing_keys: as for every MONAI ``MapTransform``.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        prob: float = 0.05,
        count: tuple[int, int] = (40, 150),
        joined: tuple[int, int] = (1, 4),
        label_key: str = "label",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, label_key, allow_missing_keys)
        self.count, self.joined = ordered("count", count), ordered("joined", joined)

    def make(self, picture: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:  # noqa: D102
        from skimage.segmentation import slic

        grey = gaussian_filter(picture.mean(axis=0), 2)
        count = self.R.randint(int(self.count[0]), int(self.count[1]) + 1)
        labels = slic(grey / 255, n_segments=count, compactness=0.05, channel_axis=None, start_label=0)
        means = np.bincount(labels.ravel(), grey.ravel()) / np.maximum(np.bincount(labels.ravel()), 1)
        shown = np.unique(labels[picture.mean(axis=0) > 0])  # a region of the black around a scan is nothing
        if not len(shown):
            return picture, np.zeros(labels.shape, bool)
        region = [int(self.R.choice(shown))]
        for _ in range(self.R.randint(int(self.joined[0]), int(self.joined[1]) + 1) - 1):
            inside = np.isin(labels, region)
            beside = np.setdiff1d(_neighbours(labels, inside), region)
            if not len(beside):
                break
            region.append(int(beside[np.abs(means[beside] - means[region].mean()).argmin()]))
        return picture, np.isin(labels, region)


class RandEllipseTargetd(_RandTargetd):
    """Draw an elliptical organ into the picture, and make it the target.

    Its inside is darker or brighter than the picture there by a constant factor, with or without a bright
    wall and an echo behind it; the picture's own speckle stays.

    Args:
        keys: the picture, (C,H,W) with values 0..255.
        prob: how often.
        size: range of the ellipse's axes, as shares of the picture's side.
        label_key: key of the label (1,H,W).
        allow_missing_keys: as for every MONAI ``MapTransform``.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        prob: float = 0.05,
        size: tuple[float, float] = (0.1, 0.8),
        label_key: str = "label",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, label_key, allow_missing_keys)
        self.size = ordered("size", size)

    def make(self, picture: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:  # noqa: D102
        height, width = picture.shape[1:]
        length = self.R.uniform(*self.size)
        axes = np.array([length, length * self.R.uniform(0.5, 1)]) / 2
        centre = self.R.uniform(0.15, 0.85, 2)
        tilt = self.R.uniform(0, np.pi)
        y = (np.arange(height)[:, None] + 0.5) / height - centre[0]
        x = (np.arange(width)[None] + 0.5) / width - centre[1]
        u = (np.cos(tilt) * x + np.sin(tilt) * y) / axes[0]
        v = (np.cos(tilt) * y - np.sin(tilt) * x) / axes[1]
        radius = np.hypot(u, v)
        target = radius < 1
        softness = self.R.uniform(0.02, 0.15)
        inside = np.clip((1 - radius) / softness + 0.5, 0, 1)
        factor = np.exp(self.R.choice([-1, 1], p=[0.7, 0.3]) * self.R.uniform(0.25, 1.2))
        gain = 1 + inside * (factor - 1)
        wall = np.exp(-(((radius - 1) / 0.06) ** 2)) * self.R.choice([0, self.R.uniform(20, 110)])
        made = picture * gain + wall * (picture > 0).any(axis=0)
        return np.clip(made, 0, 255).astype(np.float32), target


def _neighbours(labels: NDArray[np.integer[Any]], inside: NDArray[np.bool_]) -> NDArray[np.integer[Any]]:
    """Return the labels that touch the region ``inside`` at a side of a pixel."""
    touching = [
        labels[1:][inside[:-1]],
        labels[:-1][inside[1:]],
        labels[:, 1:][inside[:, :-1]],
        labels[:, :-1][inside[:, 1:]],
    ]
    return np.unique(np.concatenate([one.ravel() for one in touching]))
