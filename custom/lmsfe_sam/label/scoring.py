"""Active learning for MONAI Label: which image to annotate next.

A scoring method writes a number into every unlabelled image's entry of the datastore; a strategy
serves the image with the highest one.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock, RLock
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.utils.others.generic import name_to_device
from scipy.spatial.distance import pdist

from lmsfe_sam.errors import InputError
from lmsfe_sam.images.reading import read_image
from lmsfe_sam.label.datastore.headers import check_file
from lmsfe_sam.predict.predictor import Predictor
from lmsfe_sam.prompts.prompt import ObjectPrompt
from lmsfe_sam.prompts.simulate import first_click, tight_box

logger = logging.getLogger(__name__)

Measure = Callable[[Predictor], float]


RECENTLY_SERVED = 60 * 60
"""Seconds for which a served image steps behind the others, so that several annotators get different ones."""

MAX_SLICES = 8
"""Largest number of slices of a volume that are scored, evenly spaced."""

STRETCHES = ((0.1, 0.1), (-0.1, -0.1), (0.1, -0.1), (-0.1, 0.1))
"""How far the sides of the box move outwards along x and y, as shares of its width and height."""


def iou_uncertainty(predictor: Predictor) -> float:
    """Return 1 minus the IoU that the network predicts for its unprompted mask, cut to 0..1."""
    _, iou, _ = predictor.predict()
    return float(np.clip(1 - iou[0], 0, 1))


def disagreement(predictor: Predictor) -> float:
    """Return how much the masks of several prompts for one object differ, 0 (all alike) to 1.

    The unprompted mask is the first guess. Its tight box, four stretched ones and a click in its
    middle are prompts that an annotator might give; the measure is 1 minus the mean Dice of all pairs
    of masks. Where the unprompted mask is empty it is 1.
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
    masks = np.stack([guess, *predictor.predict_objects(prompts)[0]])
    differences = pdist(masks.reshape(len(masks), -1), "dice")  # NaN for two empty masks, which are alike
    return float(np.nan_to_num(differences).mean())


MEASURES: dict[str, tuple[Measure, str]] = {
    "predicted_iou": (iou_uncertainty, "1 minus the predicted IoU of the unprompted mask"),
    "disagreement": (disagreement, "Disagreement of the masks of several prompts"),
}
"""Names of the scoring methods; the strategy that goes with one is ``least_sure_by_NAME``."""


class Uncertainty(ScoringMethod):
    """Scores the unlabelled images that have no score of the current weights.

    Args:
        name: a key of `MEASURES`, under which the score is stored.
        task: whose network is used.
        max_pixels: pixels of an image.
        lock: held while the network works.
    """

    def __init__(self, name: str, task: BundleInferTask, max_pixels: int, lock: RLock) -> None:
        self.measure, description = MEASURES[name]
        super().__init__(f"{description}: images with the highest value benefit most from a label")
        self.name = name
        self.task = task
        self.max_pixels = max_pixels
        self.lock = lock

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score at most ``max_samples`` images (all by default); return how many were, and the seconds."""
        start = time.time()
        images = datastore.get_unlabeled_images()
        waiting = [image for image in images if self.score(datastore.get_image_info(image)) is None]
        limit = request.get("max_samples") or len(waiting)
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise InputError(f"max_samples is {limit!r}: give a whole number of images, 0 for all.")
        unreadable = 0
        if waiting:
            network = self.task._get_network(name_to_device(request.get("device")), None)
            predictor = Predictor(network)
            for image in waiting[:limit]:
                unreadable += not self._store(image, predictor, datastore)
        return {
            "total": len(images),
            "skipped": len(images) - len(waiting),
            "executed": min(limit, len(waiting)) - unreadable,
            "unreadable": unreadable,
            "latency": round(time.time() - start, 3),
        }

    def score(self, info: dict[str, Any]) -> float | None:
        """Return an image's score, None where it has none of the current weights."""
        score = info.get(self.name)
        is_number = isinstance(score, int | float) and math.isfinite(score)  # clients may write there, too
        return score if is_number and info.get(f"{self.name}_weights") == self._weights() else None

    def _store(self, image: str, predictor: Predictor, datastore: Datastore) -> bool:
        try:
            path = datastore.get_image_uri(image)
            check_file(path, self.max_pixels)
            with self.lock:
                score = score_file(path, predictor, self.measure)
        except InputError:
            logger.warning("An image has no score, as it cannot be read.")
            return False
        info = {self.name: round(score, 4), f"{self.name}_weights": self._weights()}
        datastore.update_image_info(image, info)
        return True

    def _weights(self) -> int:
        return Path(self.task.get_path()).stat().st_mtime_ns


class LeastSure(Strategy):
    """Serves the unlabelled image with the highest score.

    Args:
        method: scores what has no score yet, at most `AT_ONCE` images a request.
    """

    AT_ONCE = 32

    def __init__(self, method: Uncertainty) -> None:
        super().__init__(f"Least certain first: {MEASURES[method.name][1]}")
        self.method = method
        self._scoring = Lock()

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Return the image to label next, None where all have a label."""
        images = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        if not images:
            return None
        with self._scoring:  # simultaneous requests wait for one scoring, not for one each
            self.method({"max_samples": self.AT_ONCE}, datastore)
        now = time.time()

        def urgency(image: str) -> tuple[bool, float]:
            info = datastore.get_image_info(image)
            since = now - served_at(info, request.get("strategy"))
            recently = 0 <= since <= RECENTLY_SERVED  # a clock that was set back counts for nothing
            return not recently, self.method.score(info) or 0.0

        chosen = max(sorted(images), key=urgency)
        return {"id": chosen, "score": self.method.score(datastore.get_image_info(chosen))}


def served_at(info: dict[str, Any], strategy: Any) -> float:
    """Return when an image was last served by a strategy, 0 for never."""
    moment = info.get("strategy", {}).get(strategy, {}).get("ts", 0)
    return float(moment)


def score_file(path: str | Path, predictor: Predictor, measure: Callable[[Predictor], float]) -> float:
    """Return the measure of an image, of a volume that of its worst slice.

    Raises:
        InputError: the file is not an image.
    """
    scores = []
    for pixels in _slices(path):
        predictor.set_image(pixels)
        scores.append(measure(predictor))
    return max(scores)


def _slices(path: str | Path) -> Iterator[np.ndarray]:
    first = read_image(path, 0)
    count = int(np.prod(first.shape[2:], dtype=int))
    for index in np.unique(np.linspace(0, count - 1, min(count, MAX_SLICES)).round().astype(int)):
        yield first.pixels if index == 0 else read_image(path, int(index)).pixels
