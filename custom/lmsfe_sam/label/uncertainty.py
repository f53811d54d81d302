"""How unsure the network is of an image that nobody has labelled yet: two measures without a label."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from lmsfe_sam.evaluation.metrics import dice
from lmsfe_sam.inference.reading import read_image
from lmsfe_sam.predict.predictor import Predictor
from lmsfe_sam.prompts.prompt import ObjectPrompt
from lmsfe_sam.prompts.simulate import first_click, tight_box

MOST_SLICES = 8
"""So many slices of a volume are looked at, evenly spaced."""

STRETCHES = ((0.1, 0.1), (-0.1, -0.1), (0.1, -0.1), (-0.1, 0.1))
"""How far the sides of the box move outwards along x and y, as shares of its width and height."""


def doubt(predictor: Predictor) -> float:
    """Return 1 minus the IoU that the network predicts for its unprompted mask, cut to 0..1."""
    _, iou, _ = predictor.predict()
    return float(np.clip(1 - iou[0], 0, 1))


def disagreement(predictor: Predictor) -> float:
    """Return how much the masks of several prompts for one object differ, 0 (all alike) to 1.

    The unprompted mask is the first guess. Its tight box, four stretched ones and a click in its
    middle are prompts that an annotator might give; the measure is 1 minus the mean Dice of all pairs
    of masks. Where nothing is found without a prompt it is 1.
    """
    guess = predictor.predict()[0][0]
    if not guess.any():
        return 1.0
    x0, y0, x1, y1 = tight_box(guess)
    width, height = x1 - x0, y1 - y0
    boxes = [
        (x0 - dx * width, y0 - dy * height, x1 + dx * width, y1 + dy * height)
        for dx, dy in ((0.0, 0.0), *STRETCHES)
    ]
    x, y = first_click(guess)
    prompts = [*(ObjectPrompt(box) for box in boxes), ObjectPrompt(points=((x, y),))]
    masks = [guess, *predictor.predict_objects(prompts)[0]]
    return 1 - float(np.mean([dice(one, other) for one, other in itertools.combinations(masks, 2)]))


def score_file(path: str | Path, predictor: Predictor, measure: Callable[[Predictor], float]) -> float:
    """Return the measure of an image, of a volume that of its worst slice.

    Raises:
        InputError: the file is no image.
    """
    scores = []
    for pixels in _slices(path):
        predictor.set_image(pixels)
        scores.append(measure(predictor))
    return max(scores)


def _slices(path: str | Path) -> Iterator[np.ndarray]:
    first = read_image(path, 0)
    count = int(np.prod(first.shape[2:], dtype=int))
    for index in np.unique(np.linspace(0, count - 1, min(count, MOST_SLICES)).round().astype(int)):
        yield first.pixels if index == 0 else read_image(path, int(index)).pixels
