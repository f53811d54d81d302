"""From the network's logits to masks at an image's own size, and many of them in one label map."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmsfe_sam.prompts.coordinates import Size

PIXELS_AT_ONCE = 2**21
"""Pixels of a mask that are interpolated at a time."""

MaskPart = tuple[tuple[slice, slice], NDArray[np.bool_]]
"""Rows and columns of an image, and which of their pixels are inside the object."""


@dataclass(frozen=True)
class PackedMask:
    """A mask in a few hundred bytes, so that many of them fit into memory."""

    shape: tuple[int, int]
    data: bytes

    @classmethod
    def pack(cls, mask: NDArray[np.bool_]) -> PackedMask:
        """Pack a mask (H,W)."""
        return cls((mask.shape[0], mask.shape[1]), zlib.compress(np.packbits(mask).tobytes(), 1))

    def unpack(self) -> NDArray[np.bool_]:
        """Return the mask (H,W)."""
        bits = np.frombuffer(zlib.decompress(self.data), dtype=np.uint8)
        return np.unpackbits(bits, count=self.shape[0] * self.shape[1]).reshape(self.shape).astype(bool)


def masks_at(logits: Tensor, size: Size) -> np.ndarray:
    """Resize logits (N, S, S) bilinearly to ``size`` and threshold them at 0.

    Returns:
        (N, height, width) bool.
    """
    masks = np.zeros((len(logits), *size), dtype=bool)
    for mask, logit in zip(masks, logits, strict=True):
        window, inside = mask_window(logit, size)
        mask[window] = inside
    return masks


def mask_window(logits: Tensor, size: Size) -> tuple[tuple[slice, slice], np.ndarray]:
    """Resize logits (S, S) to ``size`` and threshold them, but only where they can be positive.

    A bilinear mean of values that are not positive is not positive either, so in a large image a
    small object costs no more than its surroundings.

    Returns:
        Rows and columns of the window, and what is inside the object in it, bool.
    """
    positive = logits > 0
    rows = _reach(positive.any(dim=1), size[0])
    columns = _reach(positive.any(dim=0), size[1])
    tall = _interpolate(logits.float(), 0, size[0], rows)
    inside = np.empty((rows.stop - rows.start, columns.stop - columns.start), dtype=bool)
    if inside.size:
        at_once = max(1, PIXELS_AT_ONCE // inside.shape[1])
        for start in range(0, len(inside), at_once):
            part = slice(start, start + at_once)
            inside[part] = (_interpolate(tall[part], 1, size[1], columns) > 0).cpu().numpy()
    return (rows, columns), inside


def mask_parts(logits: Tensor, corner: tuple[int, int], size: Size) -> Iterator[MaskPart]:
    """Yield the mask of one object whose logits (S, S) cover a window of an image.

    Args:
        logits: resized and thresholded when the block is asked for.
        corner: row and column of the image at which the window begins.
        size: height and width of the window.
    """
    (rows, columns), inside = mask_window(logits, size)
    top, left = corner
    yield (
        (slice(top + rows.start, top + rows.stop), slice(left + columns.start, left + columns.stop)),
        inside,
    )


def paint_objects(masks: Sequence[Iterable[MaskPart]], iou: Sequence[float], size: Size) -> np.ndarray:
    """Paint N objects into one label map, the best last, so that it wins where objects overlap.

    Args:
        masks: the blocks of each object, in pixels of the map; only one object's are asked for at a time.
        iou: predicted IoU (N,); of equals the first wins.
        size: height and width of the map.

    Returns:
        (height, width), 0 outside of all objects and k in the k-th; uint8, or uint16 from 256 objects on.
    """
    labels = np.zeros(size, dtype=np.min_scalar_type(len(masks)))
    order = np.argsort(-np.asarray(iou), kind="stable")[::-1]
    for row in order.tolist():
        for window, inside in masks[row]:
            labels[window][inside] = row + 1
    return labels


def _reach(occupied: Tensor, length: int) -> slice:
    """Pixels of an axis resized to ``length`` to which the occupied ones contribute."""
    places = occupied.nonzero()[:, 0]
    if len(places) == 0:
        return slice(0, 0)
    scale = length / len(occupied)
    start = math.floor((int(places[0]) - 0.5) * scale - 0.5)
    stop = math.ceil((int(places[-1]) + 1.5) * scale - 0.5)
    return slice(max(start, 0), min(stop, length))


def _interpolate(values: Tensor, dim: int, length: int, window: slice) -> Tensor:
    """The part ``window`` of ``values`` resized linearly to ``length`` along ``dim``, pixel centres kept."""
    count = values.shape[dim]
    pixels = torch.arange(window.start, window.stop, dtype=torch.float64, device=values.device)
    places = ((pixels + 0.5) * (count / length) - 0.5).clamp(0, count - 1)
    before = places.long()
    after = (before + 1).clamp(max=count - 1)
    weight = (places - before).to(values.dtype)
    return torch.lerp(
        values.index_select(dim, before),
        values.index_select(dim, after),
        weight[:, None] if dim == 0 else weight[None, :],
    )
