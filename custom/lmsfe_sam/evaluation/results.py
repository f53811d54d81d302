"""The scores, masks and prompts of one image."""

from __future__ import annotations

from dataclasses import dataclass, field

from lmsfe_sam.evaluation.metrics import Scores
from lmsfe_sam.predict.postprocessing import PackedMask
from lmsfe_sam.prompts.prompt import ObjectPrompt


@dataclass(frozen=True)
class Curves:
    """One image's points on the two curves; empty where they were not measured.

    Attributes:
        jitter_dice: Dice of the network for each of `protocol.JITTER_PERCENTS`.
        jitter_ellipse_dice: Dice of the ellipse in the same boxes.
        click_dice: Dice after 1, 2, ... `protocol.CLICK_LIMIT` clicks.
        click_iou: IoU after as many.
    """

    jitter_dice: tuple[float, ...] = ()
    jitter_ellipse_dice: tuple[float, ...] = ()
    click_dice: tuple[float, ...] = ()
    click_iou: tuple[float, ...] = ()


@dataclass(frozen=True)
class ImageResult:
    """Everything that the evaluation keeps of one image.

    Attributes:
        image: the image's path relative to the dataset's folder, with forward slashes.
        lesion_share: the lesion's share of the image's area; 0 of a normal image, which has no scores.
        scores: the metrics of each mode, columns as in `metrics.COLUMNS`.
        truth: the true mask at the size it was compared at.
        masks: the prediction in each of the network's modes.
        predicted_iou: the network's own estimate for each of those; none from a network that makes none.
        prompts: the prompt of each of those, in pixels of the true mask.
        curves: the image's points on the curves.
    """

    image: str
    lesion_share: float
    scores: dict[str, Scores]
    truth: PackedMask
    masks: dict[str, PackedMask] = field(default_factory=dict)
    predicted_iou: dict[str, float] = field(default_factory=dict)
    prompts: dict[str, ObjectPrompt] = field(default_factory=dict)
    curves: Curves = field(default_factory=Curves)
