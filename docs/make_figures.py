"""Draw the README's picture of what the shipped network does, and the model card's of where it fails.

Both are of synthetic phantoms.

Run from anywhere: ``python docs/make_figures.py``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from skimage.segmentation import find_boundaries

from lmsfe_sam import Predictor
from lmsfe_sam.data.phantoms.rendering import render_phantom
from lmsfe_sam.evaluation.metrics import dice
from lmsfe_sam.files import atomic_write
from lmsfe_sam.prompts.simulate import first_click, jitter_box, tight_box

ROOT = Path(__file__).resolve().parents[1]
PHANTOM_SEED = 12
FAILURE_SEEDS = range(100, 180)
SIZE = (300, 360)
GAP = 6
ORANGE, GREEN, BLUE = (255, 145, 30), (70, 220, 120), (90, 170, 255)


def outlined(picture: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> Image.Image:
    """Paint a mask's outline, two pixels wide, on a grey picture."""
    rgb = np.repeat(picture[..., None], 3, axis=2)
    rgb[find_boundaries(mask, mode="thick")] = colour
    return Image.fromarray(rgb)


def save(panels: list[Image.Image], path: Path) -> None:
    """Write panels of one size side by side."""
    width = sum(panel.width for panel in panels) + GAP * (len(panels) - 1)
    figure = Image.new("RGB", (width, panels[0].height), "white")
    for i, panel in enumerate(panels):
        figure.paste(panel, (i * (panel.width + GAP), 0))
    with atomic_write(path) as temporary:
        figure.save(temporary)


def draw_success(predictor: Predictor) -> None:
    """A phantom, the network's outline from a loose box, and the truth; print how well it did."""
    picture, truth = render_phantom(PHANTOM_SEED, SIZE)
    truth = truth.astype(bool)
    box = jitter_box(tight_box(truth), 0.1, np.random.default_rng(PHANTOM_SEED))
    predictor.set_image(picture)
    masks, iou, _ = predictor.predict(box=box)
    predicted = outlined(picture, masks[0], ORANGE)
    ImageDraw.Draw(predicted).rectangle([float(c) for c in box], outline=BLUE, width=2)
    panels = [Image.fromarray(picture).convert("RGB"), predicted, outlined(picture, truth, GREEN)]
    save(panels, ROOT / "docs" / "images" / "phantom.png")
    print(f"docs/images/phantom.png: Dice {dice(masks[0], truth):.3f}, predicted IoU {iou[0]:.3f}")


def draw_failures(predictor: Predictor) -> None:
    """The worst answers without a prompt, to one click and to a tight box, with the truth; print how bad."""
    worst: dict[str, tuple[float, float, int, Image.Image]] = {}
    for seed in FAILURE_SEEDS:
        picture, truth = render_phantom(seed, SIZE)
        truth = truth.astype(bool)
        box, (x, y) = tight_box(truth), first_click(truth)
        modes = {"none": {}, "point": {"points": [[x, y]], "labels": [1]}, "box": {"box": box}}
        predictor.set_image(picture)
        for mode, prompt in modes.items():
            masks, iou, _ = predictor.predict(**prompt)
            score = dice(masks[0], truth)
            if mode in worst and score >= worst[mode][0]:
                continue
            panel = outlined(picture, truth, GREEN)
            panel.paste(Image.new("RGB", panel.size, ORANGE), mask=Image.fromarray(find_boundaries(masks[0])))
            draw = ImageDraw.Draw(panel)
            if mode == "point":
                draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=BLUE)
            elif mode == "box":
                draw.rectangle([float(c) for c in box], outline=BLUE, width=1)
            worst[mode] = (score, float(iou[0]), seed, panel)
    for mode, (score, iou, seed, _) in worst.items():
        print(f"bundle/docs/failures.png, {mode}, seed {seed}: Dice {score:.3f}, predicted IoU {iou:.3f}")
    save([panel for *_, panel in worst.values()], ROOT / "bundle" / "docs" / "failures.png")


def main() -> None:
    """Draw both."""
    predictor = Predictor.from_bundle(ROOT / "bundle")
    draw_success(predictor)
    draw_failures(predictor)


if __name__ == "__main__":
    main()
