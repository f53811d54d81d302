"""The training prompts of SAM-Med2D, which are replaced in each round.

After https://github.com/OpenGVLab/SAM-Med2D, ``train.py``, ``DataLoader.py`` and ``utils.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lmsfe_sam.errors import InputError
from lmsfe_sam.prompts.prompt import Prompts
from lmsfe_sam.prompts.sampling import PADDING
from lmsfe_sam.prompts.simulate import random_click, tight_box

SHARE_OF_SIDE = 0.5
"""A box moves by at most this share of its shorter side."""


class BoxOrClick:
    """Draws a box for each object of a batch or a click for each, with equal probability.

    The box is tight and moved as a whole: by whole pixels, up to ``shift`` and to half its shorter side along
    each axis. The click is any pixel of the object.

    Args:
        per_image: objects N of an image; those of an image with fewer are drawn again.
        shift: largest movement of a box in pixels.

    Raises:
        InputError: ``per_image`` below 1 or ``shift`` below 0.
    """

    def __init__(self, per_image: int = 5, shift: int = 5) -> None:
        if per_image < 1 or shift < 0:
            raise InputError(f"per_image is {per_image} and shift {shift}: give 1 or more and 0 or more.")
        self.per_image = per_image
        self.shift = shift

    def __call__(
        self, labels: Tensor, rng: np.random.Generator, unprompted: Sequence[bool] | Tensor | None = None
    ) -> tuple[Prompts, Tensor]:
        """Return prompts and targets ``(B,N,H,W)`` for ``labels (B,1,H,W)``; see `PromptSampler`.

        An image without objects is prompted with nothing.
        """
        maps = labels[:, 0].cpu().numpy()
        as_box = rng.random() > 0.5
        shape = (len(maps), self.per_image)
        boxes = np.full((*shape, 4), np.nan, dtype=np.float32)
        points = np.zeros((*shape, 1, 2), dtype=np.float32)
        point_labels = np.full((*shape, 1), PADDING)
        targets = np.zeros((*shape, *maps.shape[1:]), dtype=np.float32)
        for b, label_map in enumerate(maps):
            values = [value for value in np.unique(label_map) if value > 0]
            for n in range(self.per_image if values else 0):
                mask = label_map == values[rng.integers(len(values))]
                targets[b, n] = mask
                if as_box:
                    boxes[b, n] = self._moved(tight_box(mask), rng)
                else:
                    points[b, n, 0], point_labels[b, n, 0] = random_click(mask, rng), 1
        device = labels.device
        if as_box:
            prompts = Prompts(boxes=torch.from_numpy(boxes).to(device))
        else:
            prompts = Prompts(
                points=torch.from_numpy(points).to(device),
                point_labels=torch.from_numpy(point_labels).to(device),
            )
        return prompts, torch.from_numpy(targets).to(device)

    def _moved(self, box: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        shorter = min(box[2] - box[0], box[3] - box[1])
        maximum = min(self.shift, int(SHARE_OF_SIDE * shorter))
        return box + np.tile(rng.integers(-maximum, maximum, size=2) if maximum else np.zeros(2), 2)


def error_clicks(targets: Tensor, logits: Tensor, count: int, rng: np.random.Generator) -> Prompts:
    """Return ``count`` clicks on random wrong pixels of each prediction, which replace all earlier prompts.

    Args:
        targets: ``(B,N,H,W)``, the truth.
        logits: ``(B,N,H,W)``, the prediction; above 0 is inside.
        count: clicks an object, drawn with replacement; none where nothing is wrong.
        rng: where the random choices come from.
    """
    truths, predictions = (targets > 0).cpu().numpy(), (logits.detach() > 0).cpu().numpy()
    shape = truths.shape[:2]
    points = np.zeros((*shape, count, 2), dtype=np.float32)
    labels = np.full((*shape, count), PADDING)
    for index in np.ndindex(*shape):
        rows, columns = np.nonzero(truths[index] != predictions[index])
        if len(rows):
            chosen = rng.integers(len(rows), size=count)
            points[index] = np.stack([columns[chosen], rows[chosen]], axis=-1)
            labels[index] = truths[index][rows[chosen], columns[chosen]]
    return Prompts(
        points=torch.from_numpy(points).to(targets.device),
        point_labels=torch.from_numpy(labels).to(targets.device),
    )
