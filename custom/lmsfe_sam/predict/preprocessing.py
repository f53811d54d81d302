"""From an image's array to the network's input: the full image, or windows of it in more detail.

`Predictor`, the bundle's transforms and the evaluation all go through these functions, so that an
image always gives the same tensor: RGB in 0..255, resized to the network's square (its aspect ratio is not
kept), normalised with SAM's mean and standard deviation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional

from lmsfe_sam.errors import InputError, short_repr
from lmsfe_sam.model.presets import PIXEL_MEAN, PIXEL_STD
from lmsfe_sam.prompts.coordinates import Size, Window

VALUES_AT_ONCE = 2**21
"""Values that are in memory in double precision at a time."""

PIXELS_AT_ONCE = 2**22
"""Pixels of an image that are converted to floating point at a time."""


def to_rgb_uint8(array: ArrayLike) -> np.ndarray:
    """Return an image array as RGB with 8 bits a channel.

    Args:
        array: (H, W) or (H, W, C) with 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA) channels.
            uint8 is taken as it is, bool becomes 0 and 255, any other real type is stretched from
            its own minimum..maximum (alpha left out) to 0..255; alpha is dropped.

    Returns:
        (H, W, 3) uint8, contiguous, a copy.

    Raises:
        InputError: empty, not an image's shape, not numbers, or not finite.
    """
    try:
        pixels = np.asarray(array)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"The image is {short_repr(array)}: give an array (H, W) or (H, W, C).") from error
    shape = pixels.shape
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 2, 3, 4):
        raise InputError(
            f"An image of shape {shape} was given: give (H, W) or (H, W, C) with 1 to 4 channels."
        )
    if pixels.size == 0:
        raise InputError(f"The image is empty (shape {shape}): give one with at least one pixel.")
    colours = pixels[..., : 1 if pixels.shape[-1] < 3 else 3]
    grey_levels = _to_uint8(colours)
    return np.array(np.broadcast_to(grey_levels, (*grey_levels.shape[:2], 3)), order="C")


def _to_uint8(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind not in "iuf":
        raise InputError(f"The image holds {values.dtype} values: give whole or real numbers.")
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError("The image holds NaN or infinite values: replace them with numbers.")
    if low == high:
        return np.zeros(values.shape, np.uint8)
    half = 0.5 if high / 2 - low / 2 > np.finfo(np.float64).max / 2 else 1.0  # else their range is infinite
    stretched = np.empty(values.shape, np.uint8)
    rows = max(1, VALUES_AT_ONCE // max(1, values[:1].size))
    for start in range(0, len(values), rows):
        real = values[start : start + rows].astype(np.float64) * half
        shares = (real - low * half) / (high * half - low * half)
        stretched[start : start + rows] = np.rint(shares * 255.0).astype(np.uint8)
    return stretched


def resize_image(image: Tensor, size: Size) -> Tensor:
    """Resize an image (C, H, W) or a batch of them to ``size``: bilinear, antialiased, no letterbox.

    Args:
        image: floating point, (C, H, W) or (B, C, H, W).
        size: the new height and width.
    """
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    batch = image if image.ndim == 4 else image[None]
    resized = functional.interpolate(batch, size=size, mode="bilinear", align_corners=False, antialias=True)
    return resized if image.ndim == 4 else resized[0]


def normalise(image: Tensor) -> Tensor:
    """Subtract SAM's mean and divide by its standard deviation; (..., 3, H, W) in 0..255 units."""
    mean = torch.tensor(PIXEL_MEAN, dtype=image.dtype, device=image.device).view(3, 1, 1)
    std = torch.tensor(PIXEL_STD, dtype=image.dtype, device=image.device).view(3, 1, 1)
    return (image - mean) / std


def prepare(array: ArrayLike, image_size: int) -> Tensor:
    """Turn an image array into the network's input.

    Args:
        array: as `to_rgb_uint8` takes it.
        image_size: the network's side in pixels, S.

    Returns:
        (3, S, S) float32, normalised.
    """
    channels_first = torch.from_numpy(to_rgb_uint8(array)).permute(2, 0, 1).float().contiguous()
    return normalise(resize_image(channels_first, (image_size, image_size)))


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
