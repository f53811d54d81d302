"""The controls' figures on real images, as they were published with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lmsfe_sam.data.datalist import build_datalist
from lmsfe_sam.data.masks.files import read_mask
from lmsfe_sam.data.masks.reading import resize_mask
from lmsfe_sam.evaluation.metrics import border_distances, dice
from lmsfe_sam.prompts.simulate import CONTROLS, control_mask

PUBLISHED = {
    "busi": (518, 0.832, 0.887, 14.4, 0.85, 0.78),
    "busbra": (1309, 0.821, 0.894, 12.6, 0.856, 0.781),
    "ddti": (245, 0.853, 0.917, 11.0, 0.872, 0.792),
}
"""Images, Dice of the filled box and of the ellipse, the ellipse's HD, its Dice with jitter 10 and 20 %."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_controls_score_what_is_known_of_them(shared_data: Path, name: str) -> None:
    count, *expected = PUBLISHED[name]
    figures = []
    records = build_datalist(shared_data / name).select("all")
    assert len(records) == count
    for record in records:
        lesions = [read_mask(path) for path in record["label"]]
        mask = np.logical_or.reduce(lesions)
        truth = resize_mask(mask, (256, 256))
        masks = {mode: control_mask(mode, truth, 0, record["name"]) for mode in CONTROLS}
        overlaps = [dice(mask, truth) for mask in masks.values()]
        figures.append([*overlaps[:2], border_distances(masks["control_ellipse"], truth)[0], *overlaps[2:]])
    measured = np.mean(figures, axis=0)
    for value, known, tolerance in zip(measured, expected, (0.003, 0.003, 0.1, 0.01, 0.01), strict=True):
        assert value == pytest.approx(known, abs=tolerance)
