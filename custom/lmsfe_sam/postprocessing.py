"""From the network's logits to masks at an image's own size."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from lmsfe_sam.preprocessing import Size


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
    resized = _interpolate(_interpolate(logits.float(), 0, size[0], rows), 1, size[1], columns)
    return (rows, columns), (resized > 0).cpu().numpy()


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
