"""Made-up results of an evaluation, and the figures of a run to summarise them under."""

from __future__ import annotations

import math

import numpy as np

from lmsfe_sam.evaluation.metrics import COLUMNS
from lmsfe_sam.evaluation.protocol import CLICK_LIMIT, CONTROLS, JITTER_PERCENTS, MODES
from lmsfe_sam.evaluation.results import Curves, ImageResult, PackedMask
from lmsfe_sam.evaluation.summary import RunInfo
from lmsfe_sam.prompts.prompt import ObjectPrompt

INFO = RunInfo(
    dataset="busi",
    split="test",
    checkpoint="models/model.pt",
    checkpoint_sha256="ab" * 32,
    network={"preset": "vit_t", "image_size": 256},
    metric_size=256,
    seed=0,
    bootstrap=200,
    version="0",
)


def make_result(
    number: int, network_dice: float, control_dice: float = 0.8, folder: str = "x"
) -> ImageResult:
    """One image whose network modes all score ``network_dice``, and its controls ``control_dice``."""

    def scores(dice: float) -> dict[str, float]:
        own = dict.fromkeys(COLUMNS, dice)
        return {**own, "iou": round(dice / (2 - dice), 6), "hd": round(50 * (1 - dice), 6), "hd_mm": math.nan}

    mask = np.zeros((64, 64), dtype=bool)
    mask[10 : 20 + number % 30, 0:30] = True
    asks = [mode for mode in MODES if mode not in CONTROLS]
    prompts = {mode: ObjectPrompt(box=(0.0, 10.0, 30.0, 20.5)) for mode in asks[:3]}
    prompts |= {mode: ObjectPrompt(points=((5, 12), (40, 12)), labels=(1, 0)) for mode in asks[3:5]}
    iou = network_dice / (2 - network_dice)
    return ImageResult(
        image=f"{folder}/{number:03d}.png",
        lesion_share=(number + 1) / 100,
        scores={mode: scores(control_dice if mode in CONTROLS else network_dice) for mode in MODES},
        truth=PackedMask.pack(mask),
        masks={mode: PackedMask.pack(np.roll(mask, 3, axis=0)) for mode in asks},
        predicted_iou=dict.fromkeys(asks, iou),
        prompts={**prompts, "none": ObjectPrompt()},
        curves=Curves(
            jitter_dice=tuple(network_dice - percent / 200 for percent in JITTER_PERCENTS),
            jitter_ellipse_dice=tuple(control_dice - percent / 100 for percent in JITTER_PERCENTS),
            click_dice=tuple(min(1.0, network_dice + 0.01 * k) for k in range(CLICK_LIMIT)),
            click_iou=tuple(min(1.0, iou + 0.01 * k) for k in range(CLICK_LIMIT)),
        ),
    )


def make_results(count: int = 12) -> list[ImageResult]:
    """Results that get worse from image to image: network Dice .95, .94, ..."""
    return [make_result(i, round(0.95 - 0.01 * i, 6)) for i in range(count)]
