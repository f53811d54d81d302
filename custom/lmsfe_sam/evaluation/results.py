"""What the evaluation knows of one image, and how the processes of a run bring theirs together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lmsfe_sam.evaluation.asking import Click
from lmsfe_sam.evaluation.metrics import Scores
from lmsfe_sam.predict.postprocessing import PackedMask


@dataclass(frozen=True)
class Prompt:
    """What the network was shown, in pixels of the true mask."""

    box: tuple[float, float, float, float] | None = None
    clicks: tuple[Click, ...] = ()


@dataclass(frozen=True)
class Curves:
    """One image's points on the two curves; empty where they were not asked for.

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
        lesion_share: the lesion's share of the image's area.
        scores: the figures of each mode, columns as in `metrics.COLUMNS`.
        truth: the true mask at the size it was compared at.
        masks: the prediction in each of the network's modes.
        predicted_iou: what the network thought of each of those.
        prompts: what it was shown in each of those.
        curves: the image's points on the curves.
    """

    image: str
    lesion_share: float
    scores: dict[str, Scores]
    truth: PackedMask
    masks: dict[str, PackedMask] = field(default_factory=dict)
    predicted_iou: dict[str, float] = field(default_factory=dict)
    prompts: dict[str, Prompt] = field(default_factory=dict)
    curves: Curves = field(default_factory=Curves)


def gather(own: Sequence[ImageResult], order: Sequence[str]) -> list[ImageResult] | None:
    """Bring the results of every process to the first one.

    Args:
        own: this process's results.
        order: the images' names in the order wanted.

    Returns:
        One result an image, in ``order``, on the first process; None on the others.
    """
    from torch import distributed

    everything: list[ImageResult] = list(own)
    if distributed.is_available() and distributed.is_initialized():
        parts: list[list[ImageResult]] | None = None
        if distributed.get_rank() == 0:
            parts = [[] for _ in range(distributed.get_world_size())]
        distributed.gather_object(list(own), parts)
        if parts is None:
            return None
        everything = [result for part in parts for result in part]
    by_name = {result.image: result for result in everything}
    return [by_name[name] for name in order]
