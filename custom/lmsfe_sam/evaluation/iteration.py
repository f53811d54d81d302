"""One iteration of the evaluation: encode a batch once, predict from every prompt, score every prediction."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
    full_input,
    predict_boxes,
    predict_clicks,
    predict_without_prompt,
)
from lmsfe_sam.evaluation.protocol import (
    ANNOTATED_BOX,
    ANNOTATED_ELLIPSE,
    BOX_MODES,
    CLICK_LIMIT,
    CLICK_MODES,
    FOREIGN,
    JITTER_PERCENTS,
    control_mask,
    inscribed_ellipse,
    is_control,
    jittered_box,
    network_modes,
)
from lmsfe_sam.evaluation.results import Curves, ImageResult, PackedMask
from lmsfe_sam.prompts.coordinates import scale_boxes
from lmsfe_sam.prompts.prompt import ObjectPrompt


@dataclass(frozen=True)
class Case:
    """One image of a batch.

    Attributes:
        name: of the image.
        truth: its true mask (H,W).
        spacing: height and width of the mask's pixel in mm, if known.
        frame: where the image lies in the network's input; None where it fills it.
        box: the smallest one (4,) that holds the boxes that came with the image, in pixels of the mask; None
            where none did.
        normal: whether the image has no lesion, so that its mask is empty.
    """

    name: str
    truth: NDArray[np.bool_]
    spacing: metrics.Spacing | None = None
    frame: Frame | None = None
    box: NDArray[np.float64] | None = None
    normal: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the mask."""
        return self.truth.shape[0], self.truth.shape[1]

    def frame_of(self, network: Any) -> Frame:
        """Return where the image lies in the network's input, in pixels of the mask."""
        return full_input(network, self.size) if self.frame is None else self.frame


class EncodedBatch(NamedTuple):
    """The images of a batch, encoded by the network.

    Attributes:
        network: decodes the prompts.
        embedding: of the B images.
        cases: the B images.
        frames: where each of them lies in the network's input.
    """

    network: Any
    embedding: Any
    cases: Sequence[Case]
    frames: Sequence[Frame]


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

    Its output is a list of `ImageResult`, one for each image of the batch; those of normal images have masks
    without a prompt and no scores. The network's ``encode`` is called once a batch, whatever the number of
    modes (once for the normal images and once for the others); not at all where only controls are wanted.

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
        predictions = [Predictions.empty() for _ in cases]
        if self.network_modes:
            device = engine.state.device
            autocast = torch.autocast(device.type, enabled=engine.amp, **engine.amp_kwargs)
            with torch.no_grad(), engine.mode(engine.network), autocast:
                images = batch["image"].to(device)
                for normal in (False, True):
                    rows = [row for row, case in enumerate(cases) if case.normal == normal]
                    some = images if len(rows) == len(cases) else images[rows]
                    found = self.predict(engine.network, some, [cases[row] for row in rows]) if rows else []
                    for row, own in zip(rows, found, strict=True):
                        predictions[row] = own
        if self.foreign is not None:
            for case, own in zip(cases, predictions, strict=True):
                own.by_mode[FOREIGN] = Prediction(self.foreign(case.name, case.size), math.nan)
                own.prompts[FOREIGN] = ObjectPrompt()
        return [
            self.describe_normal(case, own) if case.normal else self.score(case, own)
            for case, own in zip(cases, predictions, strict=True)
        ]

    def predict(self, network: Any, images: torch.Tensor, cases: Sequence[Case]) -> list[Predictions]:
        """Encode ``images (B,3,S,S)`` once and predict from every prompt; on normal images, from none."""
        predictions = [Predictions.empty() for _ in cases]
        if cases[0].normal and "none" not in self.network_modes:
            return predictions
        frames = [case.frame_of(network) for case in cases]
        batch = EncodedBatch(network, network.encode(images), cases, frames)
        if not cases[0].normal:
            self._add_boxes(batch, predictions)
            self._add_clicks(batch, predictions)
        if "none" in self.network_modes:
            unprompted = predict_without_prompt(network, batch.embedding, frames)
            for own, prediction in zip(predictions, unprompted, strict=True):
                own.by_mode["none"] = prediction
                own.prompts["none"] = ObjectPrompt()
        return predictions

    def _add_boxes(self, batch: EncodedBatch, predictions: list[Predictions]) -> None:
        modes = {mode: percent for mode, percent in BOX_MODES.items() if mode in self.network_modes}
        percents = JITTER_PERCENTS if self.curves else tuple(modes.values())
        rows = {mode: percents.index(percent) for mode, percent in modes.items()}
        annotated = ANNOTATED_BOX in self.network_modes
        if annotated:
            rows[ANNOTATED_BOX] = len(percents)
        if not rows and not percents:
            return
        boxes = np.array(
            [
                [
                    *(jittered_box(percent, case.truth, self.seed, case.name) for percent in percents),
                    *([_annotated_box(case)] if annotated else []),
                ]
                for case in batch.cases
            ]
        )
        found = predict_boxes(batch.network, batch.embedding, batch.frames, boxes)
        for own, own_boxes, own_predictions in zip(predictions, boxes, found, strict=True):
            own.jitter.extend(own_predictions[: len(percents)])
            for mode, row in rows.items():
                x0, y0, x1, y1 = own_boxes[row].tolist()
                own.by_mode[mode] = own_predictions[row]
                own.prompts[mode] = ObjectPrompt(box=(x0, y0, x1, y1))

    def _add_clicks(self, batch: EncodedBatch, predictions: list[Predictions]) -> None:
        counts = {mode: count for mode, count in CLICK_MODES.items() if mode in self.network_modes}
        longest = CLICK_LIMIT if self.curves else max(counts.values(), default=0)
        if longest == 0:
            return
        truths = [case.truth for case in batch.cases]
        found, clicks = predict_clicks(batch.network, batch.embedding, truths, longest, batch.frames)
        for own, own_predictions, own_clicks in zip(predictions, found, clicks, strict=True):
            for mode, count in counts.items():
                own.by_mode[mode] = own_predictions[count - 1]
                shown = own_clicks[:count]
                points = tuple((float(x), float(y)) for x, y, _ in shown)
                labels = tuple(label for _, _, label in shown)
                own.prompts[mode] = ObjectPrompt(points=points, labels=labels)
            own.clicks.extend(own_predictions)

    def score(self, case: Case, predictions: Predictions) -> ImageResult:
        """Score the predictions for one image, and its controls."""
        own = predictions.by_mode
        predicted = ([FOREIGN] if self.foreign is not None else []) + list(self.network_modes)
        masks = {mode: own[mode].mask for mode in predicted}
        for mode in self.modes:
            if mode == ANNOTATED_ELLIPSE:
                masks[mode] = inscribed_ellipse(_annotated_box(case), case.size)
            elif is_control(mode):
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

    def describe_normal(self, case: Case, predictions: Predictions) -> ImageResult:
        """Return the masks that were predicted for a normal image."""
        own = predictions.by_mode
        return ImageResult(
            image=case.name,
            lesion_share=0.0,
            scores={},
            truth=PackedMask.pack(case.truth),
            masks={mode: PackedMask.pack(found.mask) for mode, found in own.items()},
            predicted_iou={
                mode: round(found.predicted_iou, 6)
                for mode, found in own.items()
                if not math.isnan(found.predicted_iou)
            },
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


def _annotated_box(case: Case) -> NDArray[np.float64]:
    if case.box is None:
        raise InputError(
            f"'{case.name}' has no annotated box on it: leave out the prompt mode {ANNOTATED_BOX}."
        )
    return case.box


def _cases(batch: Mapping[str, Any]) -> list[Case]:
    names = batch["name"]
    nothing = [None] * len(names)
    cases = []
    for name, label, original_size, spacing, frame, boxes, normal in zip(
        names,
        batch["label"],
        batch.get("original_size", nothing),
        batch.get("spacing", nothing),
        batch.get("frame", nothing),
        batch.get("boxes", nothing),
        batch.get("normal", nothing),
        strict=True,
    ):
        truth = np.asarray(label).squeeze(0).astype(bool)
        if not truth.any() and not normal:
            raise InputError(
                f"The lesion of '{name}' is too small to survive at metric_size {truth.shape[0]}: "
                "compare at a larger size, or with --metric_size native."
            )
        own_frame = None if frame is None else frame._replace(original=truth.shape)
        scale = _resized_spacing(spacing, original_size, truth.shape)
        box = _enclosing_box(boxes, original_size, truth.shape)
        cases.append(Case(name, truth, scale, own_frame, box, bool(normal)))
    return cases


def _enclosing_box(
    boxes: Sequence[Sequence[float]] | None, original_size: Sequence[int] | None, size: Sequence[int]
) -> NDArray[np.float64] | None:
    """Return the smallest box in pixels of the mask that holds ``boxes`` in pixels of the file, cut there."""
    if not boxes or original_size is None:
        return None
    height, width = (int(side) for side in original_size)
    sides = np.asarray(boxes, dtype=np.float64).clip(0, (width, height, width, height))
    inside = sides[(sides[:, 2] > sides[:, 0]) & (sides[:, 3] > sides[:, 1])]
    if not len(inside):
        return None
    whole = np.concatenate([inside[:, :2].min(axis=0), inside[:, 2:].max(axis=0)])
    return scale_boxes(whole, (height, width), (size[0], size[1]))


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
