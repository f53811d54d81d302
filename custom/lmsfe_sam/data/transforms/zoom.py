"""Zooming in on the lesion, as an augmentation: a crop of the image at its own resolution."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform, generate_spatial_bounding_box
from monai.utils import convert_to_numpy

from lmsfe_sam.data.transforms.augment import ordered

__all__ = ["RandLesionZoomd"]


class RandLesionZoomd(RandomizableTransform, MapTransform):
    """Crop images to a random window that contains the whole lesion, or one whole object of several.

    Meant for images at their own size, before they are resized to the network's input, so that the crop
    shows more detail. Lesions then vary more in size and position, and the network can be used on windows of
    an image around a prompt.

    Args:
        keys: images (C,H,W) and the mask (1,H,W), all of one size.
        prob: how often; never where the mask is empty.
        share: range of the share of the window's sides that the lesion's box takes, drawn for each
            axis as one number and a factor of up to 1.25 either way. The window stays within the image.
        label_key: key of the mask.
        allow_missing_keys: as for every MONAI ``MapTransform``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.1,
        share: tuple[float, float] = (0.3, 0.7),
        label_key: str = "label",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.share = ordered("share", share)
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with its images cropped, with the probability ``prob``."""
        result: dict[Hashable, Any] = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return result
        labels = convert_to_numpy(result[self.label_key])[0]
        if not labels.any():
            return result
        mask = labels > 0
        if labels.max() > 1:
            values = np.unique(labels[mask])
            mask = labels == values[self.R.randint(len(values))]
        (y0, x0), (y1, x1) = generate_spatial_bounding_box(mask[None])
        share = self.R.uniform(*self.share)
        rows = self._window(y0, y1, share, mask.shape[0])
        columns = self._window(x0, x1, share, mask.shape[1])
        for key in self.key_iterator(result):
            result[key] = result[key][:, rows, columns]
        return result

    def _window(self, low: int, high: int, share: float, side: int) -> slice:
        """Return a range of the axis ``0..side`` that holds ``low..high``."""
        factor = np.exp(self.R.uniform(-1, 1) * np.log(1.25))
        length = min(side, max(high - low, round((high - low) / (share * factor))))
        start = self.R.randint(max(0, high - length), min(low, side - length) + 1)
        return slice(start, start + length)
