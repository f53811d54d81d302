"""One iteration of the evaluation: encode a batch once, predict from every prompt, score every prediction."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from lmsfe_sam.baselines.preprocessing import Frame
from lmsfe_sam.data.foreign_masks import ForeignMasks
from lmsfe_sam.errors import InputError
from lmsfe_sam.evaluation import metrics
from lmsfe_sam.evaluation.prediction import (
    Prediction,
    predict_boxes,
    predict_clicks,
    predict_without_prompt,
    whole_input,
)
from lmsfe_sam.evaluation.protocol import (
    BOX_MODES,
    CLICK_LIMIT,
    CLICK_MODES,
    CONTROLS,
    FOREIGN,
    JITTER_PERCENTS,
    control_mask,
    inscribed_ellipse,
    jittered_box,
    network_modes,
)
from lmsfe_sam.evaluation.results import Curves, ImageResult, PackedMask
from lmsfe_sam.prompts.prompt import ObjectPrompt


@dataclass(frozen=True)
class Case:
    """One image of a batch.

    Attributes:
        name: of the image.
        truth: its true mask (H,W).
        spacing: height and width of the mask's pixel in mm, if known.
        frame: where the image lies in the network's input; None where it fills it.
    """

    name: str
    truth: NDArray[np.bool_]
    spacing: metrics.Spacing | None = None
    frame: Frame | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the mask."""
        return self.truth.shape[0], self.truth.shape[1]

    def frame_of(self, network: Any) -> Frame:
        """Return where the image lies in the network's input, in pixels of the mask."""
        return whole_input(network, self.size) if self.frame is None else self.frame


@dataclass(frozen=True)
class Predictions:
    """The predictions for one image: by mode with the prompts, for the jitter curve and after each click."""

    by_mode: dict[str, Prediction]
    prompts: dict[str, ObjectPrompt]
    jitter: list[Prediction]
    clicks: list[Prediction]

    @classmethod
    def empty(cls) -> Predictions:
        """Return none yet."""
        return cls({}, {}, [], [])


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
        foreign: masks of another program, scored as the mode ``predictions``; None for none.
    """

    def __init__(
        self,
        modes: Sequence[str],
        seed: int = 0,
        curves: bool = True,
        foreign: ForeignMasks | None = None,
    ) -> None:
        self.modes = tuple(modes)
        self.network_modes = network_modes(modes)
        self.seed = seed
        self.curves = curves and bool(self.network_modes)
        self.foreign = foreign

    def __call__(self, engine: Any, batch: Mapping[str, Any]) -> list[ImageResult]:
        """Evaluate a batch of `collate_cases`.

        Raises:
            InputError: a lesion vanished when its mask was made smaller.
        """
        cases = _cases(batch)
        if self.network_modes:
            device = engine.state.device
            autocast = torch.autocast(device.type, enabled=engine.amp, **engine.amp_kwargs)
            with torch.no_grad(), engine.mode(engine.network), autocast:
                predictions = self.predict(engine.network, batch["image"].to(device), cases)
        else:
            predictions = [Predictions.empty() for _ in cases]
        if self.foreign is not None:
            for case, own in zip(cases, predictions, strict=True):
                own.by_mode[FOREIGN] = Prediction(self.foreign(case.name, case.size), math.nan)
                own.prompts[FOREIGN] = ObjectPrompt()
        return [self.score(case, own) for case, own in zip(cases, predictions, strict=True)]

    def predict(self, network: Any, images: torch.Tensor, cases: Sequence[Case]) -> list[Predictions]:
        """Encode ``images (B,3,S,S)`` once and predict from every prompt."""
        embedding = network.encode(images)
        frames = [case.frame_of(network) for case in cases]
        predictions = [Predictions.empty() for _ in cases]
        self._add_boxes(network, embedding, cases, frames, predictions)
        self._add_clicks(network, embedding, cases, frames, predictions)
        if "none" in self.network_modes:
            for own, found in zip(
                predictions, predict_without_prompt(network, embedding, frames), strict=True
            ):
                own.by_mode["none"] = found
                own.prompts["none"] = ObjectPrompt()
        return predictions

    def _add_boxes(
        self,
        network: Any,
        embedding: Any,
        cases: Sequence[Case],
        frames: Sequence[Frame],
        predictions: list[Predictions],
    ) -> None:
        modes = {mode: percent for mode, percent in BOX_MODES.items() if mode in self.network_modes}
        percents = JITTER_PERCENTS if self.curves else tuple(modes.values())
        if not percents:
            return
        boxes = np.array(
            [
                [jittered_box(percent, case.truth, self.seed, case.name) for percent in percents]
                for case in cases
            ]
        )
        found = predict_boxes(network, embedding, frames, boxes)
        for own, own_boxes, own_found in zip(predictions, boxes, found, strict=True):
            own.jitter.extend(own_found)
            for mode, percent in modes.items():
                row = percents.index(percent)
                x0, y0, x1, y1 = own_boxes[row].tolist()
                own.by_mode[mode] = own_found[row]
                own.prompts[mode] = ObjectPrompt(box=(x0, y0, x1, y1))

    def _add_clicks(
        self,
        network: Any,
        embedding: Any,
        cases: Sequence[Case],
        frames: Sequence[Frame],
        predictions: list[Predictions],
    ) -> None:
        counts = {mode: count for mode, count in CLICK_MODES.items() if mode in self.network_modes}
        longest = CLICK_LIMIT if self.curves else max(counts.values(), default=0)
        if longest == 0:
            return
        truths = [case.truth for case in cases]
        found, clicks = predict_clicks(network, embedding, truths, longest, frames)
        for own, own_found, own_clicks in zip(predictions, found, clicks, strict=True):
            for mode, count in counts.items():
                own.by_mode[mode] = own_found[count - 1]
                shown = own_clicks[:count]
                points = tuple((float(x), float(y)) for x, y, _ in shown)
                labels = tuple(label for _, _, label in shown)
                own.prompts[mode] = ObjectPrompt(points=points, labels=labels)
            own.clicks.extend(own_found)

    def score(self, case: Case, predictions: Predictions) -> ImageResult:
        """Score the predictions for one image, and its controls."""
        own = predictions.by_mode
        predicted = ([FOREIGN] if self.foreign is not None else []) + list(self.network_modes)
        masks = {mode: own[mode].mask for mode in predicted}
        for mode in self.modes:
            if mode in CONTROLS:
                masks[mode] = control_mask(mode, case.truth, self.seed, case.name)
        rows = metrics.score(list(masks.values()), case.truth, case.spacing)
        return ImageResult(
            image=case.name,
            lesion_share=float(case.truth.mean()),
            scores=dict(zip(masks, rows, strict=True)),
            truth=PackedMask.pack(case.truth),
            masks={mode: PackedMask.pack(masks[mode]) for mode in predicted},
            predicted_iou={
                mode: round(own[mode].predicted_iou, 6)
                for mode in self.network_modes
                if not math.isnan(own[mode].predicted_iou)
            },
            prompts=predictions.prompts,
            curves=self._curves(case, predictions) if self.curves else Curves(),
        )

    def _curves(self, case: Case, predictions: Predictions) -> Curves:
        def against_truth(metric: Callable[..., float], masks: Sequence[Any]) -> tuple[float, ...]:
            return tuple(round(metric(mask, case.truth), 6) for mask in masks)

        ellipses = [
            inscribed_ellipse(jittered_box(percent, case.truth, self.seed, case.name), case.size)
            for percent in JITTER_PERCENTS
        ]
        after_clicks = [prediction.mask for prediction in predictions.clicks]
        return Curves(
            jitter_dice=against_truth(metrics.dice, [prediction.mask for prediction in predictions.jitter]),
            jitter_ellipse_dice=against_truth(metrics.dice, ellipses),
            click_dice=against_truth(metrics.dice, after_clicks),
            click_iou=against_truth(metrics.iou, after_clicks),
        )


def _cases(batch: Mapping[str, Any]) -> list[Case]:
    names = batch["name"]
    nothing = [None] * len(names)
    cases = []
    for name, label, original_size, spacing, frame in zip(
        names,
        batch["label"],
        batch.get("original_size", nothing),
        batch.get("spacing", nothing),
        batch.get("frame", nothing),
        strict=True,
    ):
        truth = np.asarray(label).squeeze(0).astype(bool)
        if not truth.any():
            raise InputError(
                f"The lesion of '{name}' is too small to survive at metric_size {truth.shape[0]}: "
                "compare at a larger size, or with --metric_size native."
            )
        own_frame = None if frame is None else frame._replace(original=truth.shape)
        cases.append(Case(name, truth, _resized_spacing(spacing, original_size, truth.shape), own_frame))
    return cases


def _resized_spacing(
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
