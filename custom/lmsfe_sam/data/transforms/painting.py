"""Markings painted out, to see what a network makes of an image without them.

Calipers and letters near most lesions of some public sets reveal where the lesion is. What is found by
`lmsfe_sam.data.transforms.markings` is filled from around it, by biharmonic inpainting, with speckle of the
surroundings' strength on top, so that no smooth patch marks the place instead.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter

from lmsfe_sam.data.layouts.folders import Record
from lmsfe_sam.data.transforms.loading import load_image_and_mask
from lmsfe_sam.data.transforms.markings import Marking, drawn_pixels, find_markings

__all__ = ["PaintOutMarkingsd", "note_markings", "paint_out"]

CHOICES = (None, "note", "paint_out")
"""Values of the evaluation's key ``markings``."""

_GROWTH = 2  # pixels around a stroke: blurred by the scanner's and the file's compression
_MARGIN = 10  # pixels around a marking that its filling is drawn from


def note_markings(records: Sequence[Record], markings: str | None) -> list[Record]:
    """Return the records, with the subgroup "markings" ("near the lesion" or "none found") if wanted.

    Args:
        records: what is evaluated.
        markings: one of `CHOICES`; None leaves the records as they are, and reads nothing.
    """
    if markings is None:
        return list(records)
    noted = []
    for record in records:
        image, mask = load_image_and_mask(record)
        value = "near the lesion" if find_markings(image, mask > 0) else "none found"
        noted.append({**record, "subgroup": {**(record.get("subgroup") or {}), "markings": value}})
    return noted


def paint_out(
    image: NDArray[np.uint8], markings: Iterable[Marking], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return ``image (H,W,3)`` without the strokes of ``markings``."""
    from skimage.restoration import inpaint_biharmonic

    result = image.copy()
    drawn = binary_dilation(drawn_pixels(image), iterations=_GROWTH)
    for mark in markings:
        inner = np.zeros(drawn.shape, dtype=bool)
        inner[max(0, mark.y0 - 3) : mark.y1 + 3, max(0, mark.x0 - 3) : mark.x1 + 3] = True
        window = (
            slice(max(0, mark.y0 - _MARGIN), mark.y1 + _MARGIN),
            slice(max(0, mark.x0 - _MARGIN), mark.x1 + _MARGIN),
        )
        part, strokes = result[window].astype(np.float64), (drawn & inner)[window]
        if not strokes.any() or strokes.all():
            continue
        filled = inpaint_biharmonic(part, strokes, channel_axis=-1)
        grey = part.mean(axis=-1)
        speckle = (grey - gaussian_filter(grey, 2))[~drawn[window]]
        noise = rng.normal(0, speckle.std() if speckle.size else 0, grey.shape)
        filled[strokes] += noise[strokes, None]
        result[window] = np.clip(filled, 0, 255).round().astype(np.uint8)
    return result


class PaintOutMarkingsd(MapTransform):
    """Paint out what is drawn near the lesion; the same image always becomes the same.

    Without a lesion nothing is painted out.

    Args:
        keys: pictures (3,H,W) float with values 0..255.
        label_key: the lesion's mask (1,H,W).
        name_key: the image's name, which the filling's speckle is drawn from.
        allow_missing_keys: as for every MONAI ``MapTransform``.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        label_key: str = "label",
        name_key: str = "name",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_key, self.name_key = label_key, name_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with its pictures painted over."""
        result: dict[Hashable, Any] = dict(data)
        mask = np.asarray(result[self.label_key])[0] > 0
        for key in self.key_iterator(result):
            image = np.asarray(result[key]).transpose(1, 2, 0).astype(np.uint8)
            rng = np.random.default_rng(zlib.crc32(str(result[self.name_key]).encode()))
            clean = paint_out(image, find_markings(image, mask), rng)
            result[key] = torch.from_numpy(clean.transpose(2, 0, 1).copy()).to(torch.float32)
        return result
