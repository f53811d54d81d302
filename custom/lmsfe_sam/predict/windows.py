"""Windows of an image: where they lie, and the network's input for them.

The network sees a square of `image_size` pixels: the whole image resized to that square, or a window of
the image, in more detail.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmsfe_sam.predict.preprocessing import normalise, resize_image
from lmsfe_sam.prompts.coordinates import Size, Window

PIXELS_AT_ONCE = 2**22
"""Pixels of an image that are converted to floating point at a time."""


class View(NamedTuple):
    """A window, and the objects, by their numbers, that are decoded in it."""

    window: Window
    objects: list[int]


def full_window(size: Size) -> Window:
    """Return the window that covers an image of ``size``."""
    return Window(0, 0, *size)


def window_around(box: Iterable[float], size: Size, share: float, min_side: int = 1) -> Window:
    """Return the window of an image in whose middle a box takes ``share`` of each side.

    It is shifted, and if necessary cut, to lie within the image.

    Args:
        box: x0, y0, x1, y1; parts outside of the image are ignored.
        size: height and width of the image.
        share: in 0..1.
        min_side: smallest side of the window, in pixels.
    """
    x0, y0, x1, y1 = box
    top, height = _stretch(y0, y1, size[0], share, min_side)
    left, width = _stretch(x0, x1, size[1], share, min_side)
    return Window(top, left, height, width)


def _stretch(low: float, high: float, side: int, share: float, min_side: int) -> tuple[int, int]:
    """Start and length of a window along an axis of ``side`` pixels."""
    low, high = max(low, 0.0), min(high, float(side))
    length = min(side, max(round((high - low) / share), min_side, 1))
    start = round((low + high - length) / 2)
    return max(0, min(start, side - length)), length


def load_windows(
    image: Tensor, windows: Sequence[Window], side: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Resize windows of an image to the network's square and normalise them.

    At most `PIXELS_AT_ONCE` pixels (or one row) of the image are converted at a time, on their way to a
    GPU in pinned memory.

    Args:
        image: (3, H, W) in 0..255, preferably uint8 and in main memory.
        windows: any number B of them, of any sizes.
        side: of the square, S.
        device: of the result.

    Returns:
        (B, 3, S, S) float32, on ``device``.
    """
    return torch.stack(
        [normalise(_resize_to_square(image[:, *window.slices], side, device)) for window in windows]
    )


def _resize_to_square(part: Tensor, side: int, device: torch.device | str) -> Tensor:
    """Resize (3, h, w) to (3, side, side) float32; a large one is resized along one axis after the other."""
    rows = max(1, PIXELS_AT_ONCE // part.shape[2])
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
