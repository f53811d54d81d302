"""Regions of a mask that no click is in.

A small network answers a click on one of two lesions with both now and then. Whoever clicks means what
the click is on, so the other regions go; a second click inside brings them back.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

__all__ = ["drop_unclicked"]

_NEIGHBOURS = np.ones((3, 3), dtype=bool)


def drop_unclicked(
    logits: Tensor,
    image_size: int,
    boxes: Tensor | None,
    points: Tensor | None,
    point_labels: Tensor | None,
    masks: Tensor | None,
) -> Tensor:
    """Make the regions negative that neither a click inside nor the mask before touches.

    Objects with a box, without a click inside, or whose clicks inside are all outside of the mask
    stay as they are.

    Args:
        logits: ``(B, N, T, h, w)`` of T mask tokens, of the square that the prompts lie in.
        image_size: the side of that square in pixels.
        boxes: ``(B, N, 4)``; NaN for none.
        points: ``(B, N, K, 2)``: x, y in pixels.
        point_labels: ``(B, N, K)``: 1 inside, 0 outside, -1 padding.
        masks: ``(B, N, s, s)``: logits of an earlier round, of any size; NaN for none.

    Returns:
        The logits; those of what was dropped are negative and as far from 0 as before.
    """
    if points is None or point_labels is None:
        return logits
    alone = (point_labels == 1).any(dim=-1).cpu()
    if boxes is not None:
        alone &= boxes.isnan().any(dim=-1).cpu()
    drop = torch.zeros(logits.shape, dtype=torch.bool)
    for b, n in alone.nonzero().tolist():
        inside = points[b, n][point_labels[b, n] == 1].float().cpu().numpy()
        earlier = None if masks is None else _resized(masks[b, n], logits.shape[-2:])
        for t, token in enumerate((logits[b, n] > 0).cpu().numpy()):
            drop[b, n, t] = torch.from_numpy(_untouched(token, inside / image_size, earlier))
    return torch.where(drop.to(logits.device), -logits.abs(), logits)


def _resized(mask: Tensor, size: torch.Size) -> NDArray[np.bool_]:
    grown = functional.interpolate(mask[None, None].float(), size=list(size), mode="nearest-exact")
    return (grown[0, 0] > 0).cpu().numpy()


def _untouched(
    mask: NDArray[np.bool_], clicks: NDArray[np.floating], earlier: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    """What is to be dropped of ``mask (h,w)``; ``clicks (K,2)`` are x, y as shares of the sides."""
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
