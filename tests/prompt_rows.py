"""Prompts as rows of numbers, to compare them with what is expected."""

from __future__ import annotations

import numpy as np

from lmsfe_sam.prompts.prompt import Prompts


def prompt_rows(prompts: Prompts) -> np.ndarray:
    """Return a row an object: its box, then x, y and label of each click."""
    assert prompts.boxes is not None
    parts = [prompts.boxes.numpy()]
    if prompts.points is not None and prompts.point_labels is not None:
        clicks = np.concatenate([prompts.points.numpy(), prompts.point_labels[..., None].numpy()], axis=-1)
        parts.append(clicks.reshape(len(clicks), -1))
    return np.concatenate(parts, axis=1)
