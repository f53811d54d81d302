"""Training prompts, drawn from a batch of augmented label maps in the form that the network takes.

A sampler is any callable with `PromptSampler`'s signature; `MixedPrompts` is the one that the training
config names. `correct` adds a click to each object where the last prediction was wrong, for iterative
training. The numpy generator that is passed in is the only source of randomness.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmsfe_sam.errors import InputError
from lmsfe_sam.prompts.prompt import Prompts
from lmsfe_sam.prompts.simulate import first_click, jitter_box, largest_error, random_click, tight_box

KINDS: dict[str, float] = {
    "box": 0.15,
    "box_jitter": 0.35,
    "point": 0.2,
    "clicks": 0.1,
    "box_point": 0.05,
    "none": 0.15,
}
"""Kinds of training prompts and their default weights."""

LARGEST_JITTER = 0.25
"""A jittered box moves each side by at most a fraction drawn from 0 to this."""

CLICK_COUNTS = (2, 3, 4)
"""Numbers of clicks that the kind ``clicks`` draws from."""

PADDING = -1
"""Label of a click that is not there."""


class PromptSampler(Protocol):
    """Draws prompts for a batch of label maps."""

    def __call__(
        self, labels: Tensor, rng: np.random.Generator, unprompted: Sequence[bool] | Tensor | None = None
    ) -> tuple[Prompts, Tensor]:
        """Return the prompts of N objects for each of ``labels (B,1,H,W)``, and what they mean.

        Args:
            labels: 0 outside, k in object k.
            rng: where the random choices come from.
            unprompted: for each image, whether "no prompt" may be among them. Default: for all.

        Returns:
            The prompts, on the labels' device, and their targets, 0 and 1: (B,N,H,W), or (B,1,H,W) where
            all prompts of an image mean one target. No prompt means all objects of the image.
        """
        ...


class MixedPrompts:
    """Draw ``per_image`` prompts for each image, of random kinds.

    The kinds are ``box`` (tight), ``box_jitter`` (sides moved by a fraction drawn from 0 to 25 %),
    ``point`` (one click, half the time the deepest pixel, else any inside), ``clicks`` (such a click,
    then one to three more, inside or outside close to the mask), ``box_point`` (a jittered box and a
    click) and ``none``. Each but ``none``, which means all objects, is of one object of the image, drawn at
    random. An image without objects is prompted with nothing.

    Args:
        kinds: weight of each kind; a kind left out is never drawn. Default `KINDS`.
        per_image: number of prompts N for each image.
        aligned: draw one kind and one number of clicks for the n-th prompt of all images. The network
            groups objects by their number of prompt tokens, so fewer, larger groups are decoded.

    Raises:
        InputError: an unknown kind, a weight that is not a number from 0 up, no weight above 0, or
            ``per_image`` below 1.
    """

    def __init__(
        self, kinds: Mapping[str, float] | None = None, per_image: int = 3, aligned: bool = True
    ) -> None:
        self.kinds, self.weights = _checked_weights(KINDS if kinds is None else kinds)
        if not isinstance(per_image, int) or isinstance(per_image, bool) or per_image < 1:
            raise InputError(f"per_image is {per_image!r}: give the number of prompts an image, 1 or more.")
        self.per_image = per_image
        self.aligned = aligned

    def __call__(
        self, labels: Tensor, rng: np.random.Generator, unprompted: Sequence[bool] | Tensor | None = None
    ) -> tuple[Prompts, Tensor]:
        """Return prompts and targets for ``labels (B,1,H,W)``; see `PromptSampler`.

        Raises:
            InputError: an image that has to be prompted, and ``none`` is the only kind.
        """
        batch = _as_arrays(labels)
        plans = self._plans(len(batch), rng)
        boxes = np.full((len(batch), self.per_image, 4), np.nan, dtype=np.float32)
        clicks: dict[tuple[int, int], list[_Click]] = {}
        targets: list[list[NDArray[np.bool_]]] = [[] for _ in batch]
        for b, label_map in enumerate(batch):
            objects = _objects(label_map)
            for n, (kind, count) in enumerate(plans[b]):
                if kind == "none" and objects and unprompted is not None and not unprompted[b]:
                    kind, count = self._draw_prompted(rng)
                if kind == "none" or not objects:
                    targets[b].append(label_map > 0)
                    continue
                target = objects[0 if len(objects) == 1 else rng.integers(len(objects))]
                targets[b].append(target.mask)
                if kind in ("box", "box_jitter", "box_point"):
                    fraction = 0.0 if kind == "box" else rng.uniform(0, LARGEST_JITTER)
                    boxes[b, n] = jitter_box(target.box, fraction, rng)
                if kind in ("point", "clicks", "box_point"):
                    clicks[b, n] = target.clicks(count, rng)
        points, point_labels = _padded(clicks, len(batch), self.per_image)
        device = labels.device
        prompts = Prompts(
            boxes=None if np.isnan(boxes).all() else torch.from_numpy(boxes).to(device),
            points=None if points is None else points.to(device),
            point_labels=None if point_labels is None else point_labels.to(device),
        )
        if batch.max(initial=0) <= 1:  # one target an image: no need of a copy for each prompt
            return prompts, (labels > 0).float()
        return prompts, torch.from_numpy(np.array(targets)).float().to(device)

    def _plans(self, images: int, rng: np.random.Generator) -> list[list[tuple[str, int]]]:
        """Draw (kind, number of clicks) of every prompt of every image."""

        def draw() -> list[tuple[str, int]]:
            drawn = rng.choice(self.kinds, size=self.per_image, p=self.weights).tolist()
            return [(kind, _count(kind, rng)) for kind in drawn]

        if self.aligned:
            return [draw()] * images
        return [draw() for _ in range(images)]

    def _draw_prompted(self, rng: np.random.Generator) -> tuple[str, int]:
        """Draw one kind that is not ``none``, and its number of clicks."""
        weights = np.where([kind == "none" for kind in self.kinds], 0, self.weights)
        if not weights.any():
            raise InputError(
                "prompt_kinds has none alone, and some images have to be prompted: add box or point."
            )
        kind = str(rng.choice(self.kinds, p=weights / weights.sum()))
        return kind, _count(kind, rng)


def correct(
    prompts: Prompts, masks: Tensor, logits: Tensor, low_res: Tensor, rng: np.random.Generator
) -> Prompts:
    """Return ``prompts`` with one more click an object where it went wrong, and its logits fed back.

    The click lies in the largest wrong region, half the time on its deepest pixel and else on any; it
    is positive where the mask was missed and negative where the prediction is too much. An object that
    is already right gets a click inside, so that all go on with the same number of tokens; one whose
    mask is empty gets padding.

    Args:
        prompts: what the prediction was made from.
        masks: (B,1,H,W) or (B,N,H,W), the truth.
        logits: (B,N,H,W), the prediction; above 0 is inside.
        low_res: (B,N,h,w), the same at the network's own size: the next mask prompt, detached.
        rng: where the random choices come from.
    """
    predictions = (logits.detach() > 0).cpu().numpy()
    images, objects = predictions.shape[:2]
    clicks: dict[tuple[int, int], list[_Click]] = {}
    truths = (masks > 0).cpu().numpy()
    for b in range(images):
        for n in range(objects):
            mask = truths[b, min(n, truths.shape[1] - 1)]
            if not mask.any():
                continue
            region, label = largest_error(mask, predictions[b, n]) or (mask, 1)
            clicks[b, n] = [(*_click_inside(region, rng), label)]
    points, labels = _padded(clicks, images, objects)
    if points is not None and labels is not None:
        points, labels = points.to(masks.device), labels.to(masks.device)
        if prompts.points is not None and prompts.point_labels is not None:
            points = torch.cat([prompts.points, points], dim=2)
            labels = torch.cat([prompts.point_labels, labels], dim=2)
        prompts = replace(prompts, points=points, point_labels=labels)
    return replace(prompts, masks=low_res.detach())


_Click = tuple[int, int, int]  # x, y, label


class _Target:
    """One object's mask, with the values that all of its prompts need computed once."""

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        self.mask = mask
        self.box = tight_box(mask)
        self._deepest: tuple[int, int] | None = None

    def clicks(self, count: int, rng: np.random.Generator) -> list[_Click]:
        """Draw a click inside, then ``count - 1`` more, inside or outside close to the border."""
        clicks = [(*self._first(rng), 1)]
        for _ in range(count - 1):
            outside = self._outside(rng) if rng.random() < 0.5 else None
            clicks.append((*random_click(self.mask, rng), 1) if outside is None else (*outside, 0))
        return clicks

    def _first(self, rng: np.random.Generator) -> tuple[int, int]:
        if rng.random() < 0.5:
            return random_click(self.mask, rng)
        if self._deepest is None:
            self._deepest = first_click(self.mask)
        return self._deepest

    def _outside(self, rng: np.random.Generator) -> tuple[int, int] | None:
        """Draw a pixel outside the mask in its box grown by a quarter; None where there is none."""
        x0, y0, x1, y1 = self.box
        margin_x, margin_y = max(4, (x1 - x0) / 4), max(4, (y1 - y0) / 4)
        left, top = max(0, int(x0 - margin_x)), max(0, int(y0 - margin_y))
        around = ~self.mask[top : math.ceil(y1 + margin_y), left : math.ceil(x1 + margin_x)]
        if not around.any():
            return None
        x, y = random_click(around, rng)
        return left + x, top + y


def _click_inside(region: NDArray[np.bool_], rng: np.random.Generator) -> tuple[int, int]:
    return first_click(region) if rng.random() < 0.5 else random_click(region, rng)


def _count(kind: str, rng: np.random.Generator) -> int:
    """Return the number of clicks of a prompt of this kind."""
    return int(rng.choice(CLICK_COUNTS)) if kind == "clicks" else 1


def _objects(labels: NDArray[np.uint8]) -> list[_Target]:
    """Return the objects of a label map (H,W)."""
    return [_Target(labels == value) for value in np.unique(labels) if value > 0]


def _as_arrays(labels: Tensor) -> NDArray[np.uint8]:
    """Return ``labels (B,1,H,W)`` as (B,H,W)."""
    if labels.ndim != 4 or labels.shape[1] != 1:
        raise InputError(f"Masks of shape {tuple(labels.shape)} cannot be prompted: give (B,1,H,W).")
    return labels[:, 0].cpu().numpy().astype(np.uint8)


def _padded(
    clicks: dict[tuple[int, int], list[_Click]], images: int, objects: int
) -> tuple[Tensor | None, Tensor | None]:
    """Return points (B,N,K,2) and labels (B,N,K) of the ``clicks`` of object [b, n]; None for no click."""
    if not clicks:
        return None, None
    longest = max(map(len, clicks.values()))
    points = torch.zeros(images, objects, longest, 2)
    labels = torch.full((images, objects, longest), PADDING)
    for (b, n), several in clicks.items():
        rows = torch.tensor(several)
        points[b, n, : len(several)] = rows[:, :2].float()
        labels[b, n, : len(several)] = rows[:, 2]
    return points, labels


def _checked_weights(kinds: Any) -> tuple[list[str], NDArray[np.float64]]:
    """Return the kinds with a weight above 0 and their probabilities."""
    known = ", ".join(KINDS)
    if not isinstance(kinds, Mapping):
        raise InputError(f"Prompt kinds are {kinds!r}: give a weight for some of {known}.")
    for kind, weight in kinds.items():
        if kind not in KINDS:
            raise InputError(f"Prompt kind {kind!r} is unknown: choose from {known}.")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise InputError(f"The weight of prompt kind {kind!r} is {weight!r}: give a number from 0 up.")
    used = {kind: float(weight) for kind, weight in kinds.items() if weight > 0}
    if not used:
        raise InputError(f"No prompt kind has a weight above 0: give one to some of {known}.")
    weights = np.array(list(used.values()))
    return list(used), weights / weights.sum()
