"""Windows of an image: where they lie, what an object's prompts are inside one, and its tensor.

The network sees a square of `image_size` pixels. It can be shown the whole image squashed to that
square, or a part of it, in more detail. Prompts are packed arrays (`lmsfe_sam.predict.decoding`) in
pixels of the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lmsfe_sam.predict.decoding import unpack_prompts
from lmsfe_sam.predict.preprocessing import normalise, resize_image
from lmsfe_sam.prompts.coordinates import Size

BLOCK = 2**22
"""Pixels of an image that are real numbers at a time."""


class Window(NamedTuple):
    """A rectangle of an image, in its pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def size(self) -> Size:
        """Height and width."""
        return self.height, self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


class View(NamedTuple):
    """A window, and the objects (rows of the packed prompts) that are asked about in it."""

    window: Window
    objects: list[int]


def whole(size: Size) -> Window:
    """Return the window that is all of an image of ``size``."""
    return Window(0, 0, *size)


def has_prompt(packed: np.ndarray) -> np.ndarray:
    """Which of N objects have a box or a click, (N,) bool."""
    boxes, _, labels = unpack_prompts(packed)
    return ~np.isnan(boxes).any(axis=1) | (labels >= 0).any(axis=1)


def touches(packed: np.ndarray, window: Window) -> np.ndarray:
    """Which of N objects have to do with a window, (N,) bool.

    Those whose box shares some area with it, or that have a click inside of the object in it; an object
    with nothing but clicks outside of it has to do with the windows that these lie in, and one without
    any prompt with all windows.
    """
    boxes, _, labels = unpack_prompts(packed)
    x0, y0, x1, y1 = boxes.T
    rows, columns = window.slices
    boxed = (x0 < columns.stop) & (x1 > columns.start) & (y0 < rows.stop) & (y1 > rows.start)
    within = _lie_in(packed, window)
    only_outside = np.isnan(x0) & ~(labels == 1).any(axis=1)
    clicked = (within & ((labels == 1) | only_outside[:, None])).any(axis=1)
    return boxed | clicked | ~has_prompt(packed)


def clip_prompts(packed: np.ndarray, window: Window) -> np.ndarray:
    """Return what the prompts (N, 4 + 3 K) of an image are in a window, in pixels of the window.

    Boxes are cut at its borders; boxes and clicks outside of it are no more.
    """
    boxes, points, labels = unpack_prompts(packed)
    corner = np.array([window.left, window.top])
    far = np.array([window.width, window.height])
    corners = np.clip(boxes.reshape(-1, 2, 2) - corner, 0, far)
    corners[~(corners[:, 1] > corners[:, 0]).all(axis=1)] = np.nan
    within = _lie_in(packed, window)[..., None]
    clicks = np.where(within, np.concatenate([points - corner, labels[..., None]], axis=-1), [0.0, 0.0, -1.0])
    return np.concatenate([corners.reshape(-1, 4), clicks.reshape(len(packed), -1)], axis=1)


def _lie_in(packed: np.ndarray, window: Window) -> np.ndarray:
    """Which clicks (N, K) lie in a window."""
    _, points, labels = unpack_prompts(packed)
    rows, columns = window.slices
    x, y = points[..., 0], points[..., 1]
    return (labels >= 0) & (x >= columns.start) & (x < columns.stop) & (y >= rows.start) & (y < rows.stop)


def window_around(box: Iterable[float], size: Size, share: float, least: int = 1) -> Window:
    """Return the window of an image in whose middle a box takes ``share`` of each side.

    It is moved, and at last cut, to lie in the image.

    Args:
        box: x0, y0, x1, y1; what lies outside of the image is not counted.
        size: height and width of the image.
        share: in 0..1.
        least: the least side of the window, in pixels.
    """
    x0, y0, x1, y1 = box
    top, height = _stretch(y0, y1, size[0], share, least)
    left, width = _stretch(x0, x1, size[1], share, least)
    return Window(top, left, height, width)


def _stretch(low: float, high: float, side: int, share: float, least: int) -> tuple[int, int]:
    """Start and length of a window along an axis of ``side`` pixels."""
    low, high = max(low, 0.0), min(high, float(side))
    length = min(side, max(round((high - low) / share), least, 1))
    start = round((low + high - length) / 2)
    return max(0, min(start, side - length)), length


def load_windows(
    image: Tensor, windows: Sequence[Window], side: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Squash windows of an image to the network's square and normalise them.

    Never more than `BLOCK` pixels (or one row) of the image are converted at a time, on their way to a
    GPU in pinned memory.

    Args:
        image: (3, H, W) in 0..255, best uint8 and in the computer's own memory.
        windows: any number B of them, of any sizes.
        side: of the square, S.
        device: of the result.

    Returns:
        (B, 3, S, S) float32, on ``device``.
    """
    return torch.stack([normalise(_squash(image[:, *window.slices], side, device)) for window in windows])


def _squash(part: Tensor, side: int, device: torch.device | str) -> Tensor:
    """Resize (3, h, w) to (3, side, side) float32, where it is large one axis after the other."""
    rows = max(1, BLOCK // part.shape[2])
    if part.shape[1] <= rows:
        return resize_image(_send(part, device).float().contiguous(), (side, side))
    strips = [
        resize_image(_send(strip, device).float().contiguous(), (strip.shape[1], side))
        for strip in part.split(rows, dim=1)
    ]
    return resize_image(torch.cat(strips, dim=1), (side, side))


def _send(part: Tensor, device: torch.device | str) -> Tensor:
    if part.device.type != "cpu" or torch.device(device).type != "cuda":
        return part.to(device)
    return part.contiguous().pin_memory().to(device, non_blocking=True)
