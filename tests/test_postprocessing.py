"""Masks at the image's size are those of a plain bilinear resize, for less work."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from lmsfe_sam.predict.postprocessing import mask_window, masks_at

SIDES = st.integers(1, 90)


@given(st.integers(0, 10_000), SIDES, SIDES, st.sampled_from([1, 2, 7, 16, 64]), st.floats(-4, 2))
@settings(deadline=None)
def test_the_same_as_interpolate(seed: int, height: int, width: int, side: int, offset: float) -> None:
    logits = torch.randn(2, side, side, generator=torch.Generator().manual_seed(seed)) + offset
    plain = functional.interpolate(logits[None], size=(height, width), mode="bilinear", align_corners=False)[
        0
    ]
    different = torch.from_numpy(masks_at(logits, (height, width))) != (plain > 0)
    assert plain[different].abs().max().item() < 1e-5 if different.any() else True


def test_it_follows_the_logits() -> None:
    logits = torch.linspace(-1, 1, 8).expand(1, 8, 8)
    assert masks_at(logits, (4, 16)).sum() == 4 * 8
    assert masks_at(logits, (4, 16))[0, 0].tolist() == [False] * 8 + [True] * 8


def test_the_work_is_where_the_object_is() -> None:
    logits = torch.full((64, 64), -1.0)
    logits[10:12, 20:24] = 1
    (rows, columns), inside = mask_window(logits, (640, 1280))
    assert inside.shape == (rows.stop - rows.start, columns.stop - columns.start)
    assert (rows.start, rows.stop) == (94, 125)
    assert inside.size < 50 * 160
    assert masks_at(logits[None], (640, 1280)).sum() == inside.sum() > 0


def test_nothing_positive_gives_nothing() -> None:
    (rows, columns), inside = mask_window(torch.zeros(8, 8), (100, 100))
    assert inside.shape == (0, 0)
    assert (rows, columns) == (slice(0, 0), slice(0, 0))
    assert masks_at(torch.zeros(0, 8, 8), (10, 10)).shape == (0, 10, 10)
