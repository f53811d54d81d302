"""Pictures of the result: objects tinted and outlined with the prompts on top, or their uncertainty."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from lmsfe_sam.prompts.prompt import Prompts

COLOURS = np.array(
    [
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
        (204, 121, 167),
    ],
    dtype=np.uint8,
)
"""Okabe and Ito's colours, which colour-blind people can distinguish; object k has the k-th, cyclically."""

TINT = 0.25
BAND_TINT = 0.4

PIXELS_AT_ONCE = 2**21
"""Pixels of a picture that are tinted at a time."""

UNSURE = (0.02, 0.98)
"""Probabilities between which a pixel is unsure; docs/outputs.md has how much of a true outline is there."""

INSIDE, OUTSIDE = (0, 255, 0), (255, 0, 0)
"""Colours of clicks."""


def draw_overlay(picture: np.ndarray, labels: np.ndarray, prompts: Prompts) -> Image.Image:
    """Draw labels and prompts on a picture.

    Args:
        picture: (H, W, 3) uint8.
        labels: (H, W), object k is k.
        prompts: of the objects, in pixels of the picture.
    """
    height, width = labels.shape
    line = max(1, round(min(height, width) / 250))
    drawn = picture.copy()
    at_once = max(1, PIXELS_AT_ONCE // width)
    for start in range(0, height, at_once):
        _tint(drawn, labels, slice(start, min(start + at_once, height)))
    image = Image.fromarray(drawn)
    _draw_prompts(ImageDraw.Draw(image), prompts, line)
    return image


def draw_uncertainty(picture: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> Image.Image:
    """Draw the outline of each object, and tint the pixels that may or may not belong to it.

    Args:
        picture: (H, W, 3) uint8.
        labels: (H, W), object k is k.
        probabilities: (N, H, W) uint8 of the objects, 255 for 1.
    """
    from skimage.segmentation import find_boundaries

    low, high = (255 * level for level in UNSURE)
    drawn = picture.copy()
    for number, probability in enumerate(probabilities):
        colour = COLOURS[number % len(COLOURS)]
        unsure = (probability > low) & (probability < high)
        drawn[unsure] = np.rint((1 - BAND_TINT) * picture[unsure] + BAND_TINT * colour).astype(np.uint8)
        drawn[find_boundaries(labels == number + 1, mode="inner")] = colour
    return Image.fromarray(drawn)


def _tint(drawn: np.ndarray, labels: np.ndarray, rows: slice) -> None:
    """Tint and outline the objects in some rows of a picture, in place."""
    from skimage.segmentation import find_boundaries

    above = min(rows.start, 1)  # an outline depends on its neighbours
    outline = find_boundaries(labels[rows.start - above : rows.stop + 1], mode="inner")
    outline = outline[above : above + rows.stop - rows.start]
    own, part = labels[rows], drawn[rows]
    objects = own > 0
    colours = COLOURS[(own[objects].astype(np.int64) - 1) % len(COLOURS)]
    tinted = np.rint((1 - TINT) * part[objects] + TINT * colours).astype(np.uint8)
    part[objects] = np.where(outline[objects][:, None], colours, tinted)


def _draw_prompts(canvas: ImageDraw.ImageDraw, prompts: Prompts, line: int) -> None:
    for number, has_box in enumerate(prompts.has_box().tolist()):
        if has_box and prompts.boxes is not None:
            x0, y0, x1, y1 = prompts.boxes[number].tolist()
            corners = (x0, y0, max(x0, x1 - 1), max(y0, y1 - 1))
            canvas.rectangle(corners, outline=tuple(COLOURS[number % len(COLOURS)].tolist()), width=line)
        if prompts.points is None or prompts.point_labels is None:
            continue
        clicks = zip(prompts.points[number].tolist(), prompts.point_labels[number].tolist(), strict=True)
        for (x, y), label in clicks:
            if label >= 0:
                radius = 2 * line
                corners = (x - radius, y - radius, x + radius, y + radius)
                canvas.ellipse(corners, fill=INSIDE if label else OUTSIDE, outline=(255, 255, 255))
