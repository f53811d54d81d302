"""A batch of made-up images for the evaluation's iteration, and a stand-in for the engine that calls it."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from lmsfe_sam.evaluation.iteration import PromptedEvaluation, collate_cases
from lmsfe_sam.evaluation.results import ImageResult


def disc(y: float, x: float, radius: float, shape: tuple[int, int] = (256, 256)) -> np.ndarray:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def item(name: str, mask: np.ndarray, **more: Any) -> dict[str, Any]:
    image = torch.full((3, 256, 256), -1.0)
    image[:, 100:140, 100:140] = 1
    return {"image": image, "label": torch.from_numpy(mask.astype(np.uint8))[None], "name": name, **more}


def run(evaluation: PromptedEvaluation, network: Any, *items: dict[str, Any]) -> list[ImageResult]:
    engine = SimpleNamespace(
        network=network,
        mode=lambda network: nullcontext(),
        amp=False,
        amp_kwargs={},
        state=SimpleNamespace(device=torch.device("cpu")),
    )
    return evaluation(engine, collate_cases(items))
