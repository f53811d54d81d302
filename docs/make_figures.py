"""Draw the README's picture: a phantom, the shipped network's outline from a loose box, and the truth.

Run from anywhere: ``python docs/make_figures.py``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from skimage.segmentation import find_boundaries

from lmsfe_sam import Predictor
from lmsfe_sam.data.phantoms import render_phantom
from lmsfe_sam.files import atomic_write
from lmsfe_sam.prompts.simulate import jitter_box, tight_box

ROOT = Path(__file__).resolve().parents[1]
PHANTOM_SEED = 12
GAP = 6
ORANGE, GREEN, BLUE = (255, 145, 30), (70, 220, 120), (90, 170, 255)


def outlined(picture: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> Image.Image:
    """Paint a mask's outline, two pixels wide, on a grey picture."""
    rgb = np.repeat(picture[..., None], 3, axis=2)
    rgb[find_boundaries(mask, mode="thick")] = colour
    return Image.fromarray(rgb)


def main() -> None:
    """Draw the three panels side by side and say how well the network did."""
    picture, truth = render_phantom(PHANTOM_SEED, (300, 360))
    truth = truth.astype(bool)
    box = jitter_box(tight_box(truth), 0.1, np.random.default_rng(PHANTOM_SEED))
    predictor = Predictor.from_bundle(ROOT / "bundle")
    predictor.set_image(picture)
    masks, iou, _ = predictor.predict(box=box)

    predicted = outlined(picture, masks[0], ORANGE)
    ImageDraw.Draw(predicted).rectangle([float(c) for c in box], outline=BLUE, width=2)
    panels = [Image.fromarray(picture).convert("RGB"), predicted, outlined(picture, truth, GREEN)]
    width = sum(panel.width for panel in panels) + GAP * (len(panels) - 1)
    figure = Image.new("RGB", (width, panels[0].height), "white")
    for i, panel in enumerate(panels):
        figure.paste(panel, (i * (panel.width + GAP), 0))
    with atomic_write(ROOT / "docs" / "images" / "phantom.png") as temporary:
        figure.save(temporary)
    dice = 2 * (masks[0] & truth).sum() / (masks[0].sum() + truth.sum())
    print(f"docs/images/phantom.png: Dice {dice:.3f}, predicted IoU {iou[0]:.3f}")


if __name__ == "__main__":
    main()
