"""From the network's logits to masks at an image's own size, and from many masks to one label map."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from lmsfe_sam.prompts.coordinates import Size, Window
from lmsfe_sam.prompts.prompt import Prompts

PIXELS_AT_ONCE = 2**21
"""Pixels of a mask that are interpolated at a time."""

MaskPart = tuple[tuple[slice, slice], NDArray[np.bool_]]
"""Rows and columns of an image, and which of their pixels are inside the object."""

_NEIGHBOURS = np.ones((3, 3), dtype=bool)


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
        logits: resized and thresholded when the part is taken.
        corner: row and column of the image at which the window begins.
        size: height and width of the window.
    """
    (rows, columns), inside = mask_window(logits, size)
    top, left = corner
    yield (
        (slice(top + rows.start, top + rows.stop), slice(left + columns.start, left + columns.stop)),
        inside,
    )


def probability_map(logits: Tensor, window: Window, size: Size) -> Tensor:
    """Return the probabilities of one object in an image, 0 outside of the window that was predicted.

    Args:
        logits: (S, S) over the window.
        window: where.
        size: height and width of the image.

    Returns:
        (height, width) uint8, 255 for a probability of 1.
    """
    resized = functional.interpolate(
        logits.float()[None, None], size=list(window.size), mode="bilinear", align_corners=False
    )
    result = torch.zeros(size, dtype=torch.uint8)
    result[window.slices] = (resized[0, 0].sigmoid() * 255).round().to(torch.uint8).cpu()
    return result


def paint_objects(masks: Sequence[Iterable[MaskPart]], iou: Sequence[float], size: Size) -> np.ndarray:
    """Paint N objects into one label map, the best last, so that it wins where objects overlap.

    Args:
        masks: the parts of each object, in pixels of the map; only one object's are computed at a time.
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
    positions = occupied.nonzero()[:, 0]
    if len(positions) == 0:
        return slice(0, 0)
    scale = length / len(occupied)
    start = math.floor((int(positions[0]) - 0.5) * scale - 0.5)
    stop = math.ceil((int(positions[-1]) + 1.5) * scale - 0.5)
    return slice(max(start, 0), min(stop, length))


def _interpolate(values: Tensor, dim: int, length: int, window: slice) -> Tensor:
    """The part ``window`` of ``values`` resized linearly to ``length`` along ``dim``, pixel centres kept."""
    count = values.shape[dim]
    pixels = torch.arange(window.start, window.stop, dtype=torch.float64, device=values.device)
    positions = ((pixels + 0.5) * (count / length) - 0.5).clamp(0, count - 1)
    before = positions.long()
    after = (before + 1).clamp(max=count - 1)
    weight = (positions - before).to(values.dtype)
    return torch.lerp(
        values.index_select(dim, before),
        values.index_select(dim, after),
        weight[:, None] if dim == 0 else weight[None, :],
    )


def drop_unclicked(logits: Tensor, prompts: Prompts, image_size: int) -> Tensor:
    """Make regions without a positive click, and outside of the mask prompt, negative.

    A small network sometimes segments two lesions when only one of them was clicked. The click says which
    one is meant, so the other regions are dropped; a second click inside brings one back. Objects with a box,
    without a positive click, or with all positive clicks outside of the mask are not changed.

    Args:
        logits: ``(B, N, T, h, w)`` of the T mask tokens of N objects in each of B images.
        prompts: of these objects, in pixels of the network's input.
        image_size: side of that input in pixels.

    Returns:
        The logits; those of what was dropped are negative and as far from 0 as before.
    """
    if prompts.points is None or prompts.point_labels is None:
        return logits
    flat, tokens = prompts.map(lambda tensor: tensor.flatten(0, 1)), logits.flatten(0, 1)
    assert flat.points is not None and flat.point_labels is not None
    positive = flat.point_labels == 1
    clicks_alone = positive.any(dim=1) & ~flat.has_box()
    drop = torch.zeros(tokens.shape, dtype=torch.bool)
    for m in clicks_alone.nonzero()[:, 0].tolist():
        inside = (flat.points[m][positive[m]].float() / image_size).cpu().numpy()
        earlier = None if flat.masks is None else _resized(flat.masks[m], logits.shape[-2:])
        for t, token in enumerate((tokens[m] > 0).cpu().numpy()):
            drop[m, t] = torch.from_numpy(_unclicked(token, inside, earlier))
    return torch.where(drop.to(logits.device).reshape(logits.shape), -logits.abs(), logits)


def _resized(mask: Tensor, size: torch.Size) -> NDArray[np.bool_] | None:
    """Return a mask prompt (h, w), which NaN pads, at another size; None where there is none."""
    known = ~mask.isnan()
    mask = mask[known.any(dim=1)][:, known.any(dim=0)]
    if not mask.numel():
        return None
    resized = functional.interpolate(mask[None, None].float(), size=list(size), mode="nearest-exact")
    return (resized[0, 0] > 0).cpu().numpy()


def _unclicked(
    mask: NDArray[np.bool_], clicks: NDArray[np.floating], earlier: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    """Return what is to be dropped of ``mask (h,w)``; ``clicks (K,2)`` are x, y as shares of the sides."""
    from scipy import ndimage  # not needed to load the network

    height, width = mask.shape
    regions, _ = ndimage.label(mask, structure=_NEIGHBOURS)
    columns, rows = (clicks * (width, height)).astype(int).clip(0, (width - 1, height - 1)).T
    touched = regions[rows, columns]
    if not touched.any():
        return np.zeros_like(mask)
    if earlier is not None:
        touched = np.append(touched, regions[earlier])
    return mask & ~np.isin(regions, touched[touched > 0])
