"""Presets of the real networks' structure at a size at which a test takes milliseconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from lmsfe_sam.model.network import LMSFESAM
from lmsfe_sam.model.presets import PRESETS

SMALL = {
    "embed_dim": 32,
    "num_heads": 2,
    "position_source": 8,
    "decoder_dim": 32,
    "decoder_mlp_dim": 48,
    "local_widths": (8, 8, 12, 16),
    "local_hidden": 16,
}

TINY = {
    # Windows of 3 in a grid of 4: padded, as ViT-B's windows of 14 are in its grid of 16.
    "tiny_b": dataclasses.replace(
        PRESETS["vit_b"], depth=4, global_blocks=(1, 3), window_size=3, mlp_ratio=2.0, **SMALL
    ),
    "tiny_t": dataclasses.replace(PRESETS["vit_t"], depth=2, global_blocks=(0, 1), **SMALL),
}

SIZE = 64
"""Side of the input that goes with them: a grid of 4 x 4 tokens."""


@contextmanager
def tiny_presets() -> Iterator[None]:
    """Add the small presets for a while."""
    with pytest.MonkeyPatch.context() as patch:
        for name, preset in TINY.items():
            patch.setitem(PRESETS, name, preset)
        yield


def seeded_network() -> LMSFESAM:
    """The small default network in evaluation mode, with the same random weights every time."""
    torch.manual_seed(0)
    with tiny_presets():
        return LMSFESAM("tiny_t", image_size=SIZE).eval()
