"""One iteration of the evaluation: encode a batch once, ask it everything, score every answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from lmsfe_sam.errors import InputError
from lmsfe_sam.evaluation import metrics
from lmsfe_sam.evaluation.asking import Answer, ask_boxes, ask_clicks, ask_nothing
from lmsfe_sam.evaluation.protocol import (
    BOX_MODES,
    CLICK_LIMIT,
    CLICK_MODES,
    JITTER_PERCENTS,
    jittered_box,
    network_modes,
)
from lmsfe_sam.evaluation.results import Curves, ImageResult, PackedMask, Prompt
from lmsfe_sam.prompts.simulate import CONTROLS, control_mask, inscribed_ellipse


@dataclass(frozen=True)
class Case:
    """One image of a batch: its name, its true mask (H,W) and its pixel's height and width in mm."""

    name: str
    truth: NDArray[np.bool_]
    spacing: metrics.Spacing | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the mask."""
        return self.truth.shape[0], self.truth.shape[1]


@dataclass(frozen=True)
class Asked:
    """The answers for one image: by mode with the prompts, for the jitter curve and after each click."""

    answers: dict[str, Answer]
    prompts: dict[str, Prompt]
    jitter: list[Answer]
    clicks: list[Answer]


def collate_cases(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stack the images, and keep everything else in lists: masks at native size differ in shape."""
    keys = {key for item in items for key in item}
    batch: dict[str, Any] = {key: [item.get(key) for item in items] for key in keys}
    images = [image.as_tensor() if isinstance(image, MetaTensor) else image for image in batch["image"]]
    batch["image"] = torch.stack(images)
    return batch


class PromptedEvaluation:
    """The ``iteration_update`` of a `monai.engines.SupervisedEvaluator`.

    Its output is a list of `ImageResult`, one for each image of the batch. The network's ``encode`` is
    called once a batch, whatever the number of modes; not at all where only controls are wanted.

    Args:
        modes: prompt modes, as `protocol.parse_modes` returns them.
        seed: of the jittered boxes, not negative.
        curves: whether to measure Dice against box jitter and against the number of clicks.
    """

    def __init__(self, modes: Sequence[str], seed: int = 0, curves: bool = True) -> None:
        self.modes = tuple(modes)
        self.asks = network_modes(modes)
        self.seed = seed
        self.curves = curves and bool(self.asks)

    def __call__(self, engine: Any, batch: Mapping[str, Any]) -> list[ImageResult]:
        """Evaluate a batch of `collate_cases`.

        Raises:
            InputError: a lesion vanished when its mask was made smaller.
        """
        cases = _cases(batch)
        if self.asks:
            with torch.no_grad(), engine.mode(engine.network), _precision(engine):
                asked = self.ask(engine.network, batch["image"].to(engine.state.device), cases)
        else:
            asked = [Asked({}, {}, [], []) for _ in cases]
        return [self.score(case, answers) for case, answers in zip(cases, asked, strict=True)]

    def ask(self, network: Any, images: torch.Tensor, cases: Sequence[Case]) -> list[Asked]:
        """Encode ``images (B,3,S,S)`` once and put every prompt to the network."""
        embedding = network.encode(images)
        sizes = [case.size for case in cases]
        asked = [Asked({}, {}, [], []) for _ in cases]
        for part in (self._ask_boxes, self._ask_clicks):
            part(network, embedding, cases, asked)
        if "none" in self.asks:
            for own, answer in zip(asked, ask_nothing(network, embedding, sizes), strict=True):
                own.answers["none"] = answer
                own.prompts["none"] = Prompt()
        return asked

    def _ask_boxes(self, network: Any, embedding: Any, cases: Sequence[Case], asked: list[Asked]) -> None:
        modes = {mode: percent for mode, percent in BOX_MODES.items() if mode in self.asks}
        percents = JITTER_PERCENTS if self.curves else tuple(modes.values())
        if not percents:
            return
        boxes = np.array(
            [
                [jittered_box(percent, case.truth, self.seed, case.name) for percent in percents]
                for case in cases
            ]
        )
        answers = ask_boxes(network, embedding, [case.size for case in cases], boxes)
        for own, own_boxes, own_answers in zip(asked, boxes, answers, strict=True):
            own.jitter.extend(own_answers)
            for mode, percent in modes.items():
                place = percents.index(percent)
                x0, y0, x1, y1 = own_boxes[place].tolist()
                own.answers[mode] = own_answers[place]
                own.prompts[mode] = Prompt(box=(x0, y0, x1, y1))

    def _ask_clicks(self, network: Any, embedding: Any, cases: Sequence[Case], asked: list[Asked]) -> None:
        counts = {mode: count for mode, count in CLICK_MODES.items() if mode in self.asks}
        longest = CLICK_LIMIT if self.curves else max(counts.values(), default=0)
        if longest == 0:
            return
        answers, clicks = ask_clicks(network, embedding, [case.truth for case in cases], longest)
        for own, own_answers, own_clicks in zip(asked, answers, clicks, strict=True):
            for mode, count in counts.items():
                own.answers[mode] = own_answers[count - 1]
                own.prompts[mode] = Prompt(clicks=tuple(own_clicks[:count]))
            own.clicks.extend(own_answers)

    def score(self, case: Case, asked: Asked) -> ImageResult:
        """Score the answers for one image, and its controls."""
        predictions = {
            mode: control_mask(mode, case.truth, self.seed, case.name)
            if mode in CONTROLS
            else asked.answers[mode].mask
            for mode in self.modes
        }
        rows = metrics.score(list(predictions.values()), case.truth, case.spacing)
        return ImageResult(
            image=case.name,
            lesion_share=float(case.truth.mean()),
            scores=dict(zip(predictions, rows, strict=True)),
            truth=PackedMask.pack(case.truth),
            masks={mode: PackedMask.pack(predictions[mode]) for mode in self.asks},
            predicted_iou={mode: round(asked.answers[mode].predicted_iou, 6) for mode in self.asks},
            prompts=asked.prompts,
            curves=self._curves(case, asked) if self.curves else Curves(),
        )

    def _curves(self, case: Case, asked: Asked) -> Curves:
        def against_truth(figure: Callable[..., float], masks: Sequence[Any]) -> tuple[float, ...]:
            return tuple(round(figure(mask, case.truth), 6) for mask in masks)

        ellipses = [
            inscribed_ellipse(jittered_box(percent, case.truth, self.seed, case.name), case.size)
            for percent in JITTER_PERCENTS
        ]
        after_clicks = [answer.mask for answer in asked.clicks]
        return Curves(
            jitter_dice=against_truth(metrics.dice, [answer.mask for answer in asked.jitter]),
            jitter_ellipse_dice=against_truth(metrics.dice, ellipses),
            click_dice=against_truth(metrics.dice, after_clicks),
            click_iou=against_truth(metrics.iou, after_clicks),
        )


def _cases(batch: Mapping[str, Any]) -> list[Case]:
    names = batch["name"]
    nothing = [None] * len(names)
    cases = []
    for name, mask, original_size, spacing in zip(
        names,
        batch["mask"],
        batch.get("original_size", nothing),
        batch.get("spacing", nothing),
        strict=True,
    ):
        truth = np.asarray(mask).squeeze(0).astype(bool)
        if not truth.any():
            raise InputError(
                f"The lesion of '{name}' is too small to survive at metric_size {truth.shape[0]}: "
                "compare at a larger size, or with --metric_size native."
            )
        cases.append(Case(name, truth, _squashed_spacing(spacing, original_size, truth.shape)))
    return cases


def _squashed_spacing(
    spacing: Sequence[float] | None, original_size: Sequence[int] | None, size: Sequence[int]
) -> metrics.Spacing | None:
    """Return the height and width in mm of a pixel of the mask, from those of a pixel of the file."""
    if spacing is None or original_size is None:
        return None
    height, width = (
        float(length) * float(pixels) / own
        for length, pixels, own in zip(spacing, original_size, size, strict=True)
    )
    return height, width


def _precision(engine: Any) -> AbstractContextManager[Any]:
    return torch.autocast("cuda", **engine.amp_kwargs) if engine.amp else nullcontext()
