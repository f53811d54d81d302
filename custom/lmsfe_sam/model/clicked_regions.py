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

from lmsfe_sam.prompts.prompt import Prompts

_NEIGHBOURS = np.ones((3, 3), dtype=bool)


def drop_unclicked(logits: Tensor, prompts: Prompts, image_size: int) -> Tensor:
    """Make the regions negative that neither a click inside nor the mask before touches.

    Objects with a box, without a click inside, or whose clicks inside are all outside of the mask
    stay as they are.

    Args:
        logits: ``(M, T, h, w)`` of T mask tokens of M objects, of the square that the prompts lie in.
        prompts: of the M objects.
        image_size: the side of that square in pixels.

    Returns:
        The logits; those of what was dropped are negative and as far from 0 as before.
    """
    if prompts.boxes is not None or prompts.points is None or prompts.point_labels is None:
        return logits
    drop = torch.zeros(logits.shape, dtype=torch.bool)
    for m, object_labels in enumerate(prompts.point_labels):
        inside = (prompts.points[m][object_labels == 1] / image_size).cpu().numpy()
        earlier = None if prompts.masks is None else _resized(prompts.masks[m, None], logits.shape[-2:])
        for t, token in enumerate((logits[m] > 0).cpu().numpy()):
            drop[m, t] = torch.from_numpy(_untouched(token, inside, earlier))
    return torch.where(drop.to(logits.device), -logits.abs(), logits)


def _resized(mask: Tensor, size: torch.Size) -> NDArray[np.bool_]:
    grown = functional.interpolate(mask[None], size=list(size), mode="nearest-exact")
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
