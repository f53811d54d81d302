"""The table of parts: every parameter in one row, and what trains of each."""

from __future__ import annotations

import pytest
import torch

from lmsfe_sam import LMSFESAM

pytestmark = pytest.mark.usefixtures("small_presets")


def rows(model: LMSFESAM) -> dict[str, tuple[int, int]]:
    title, *lines = model.summary().splitlines()
    assert title.split() == ["part", "parameters", "trained"]
    assert len({len(line) for line in [title, *lines]}) == 1
    parts = [line.rsplit(maxsplit=2) for line in lines]
    return {name.strip(): (int(a.replace(",", "")), int(b.replace(",", ""))) for name, a, b in parts}


def test_vit_b() -> None:
    with torch.device("meta"):
        model = LMSFESAM("vit_b")
    table = rows(model)
    assert table["image_encoder: ViT"][1] == 0
    assert table["image_encoder: channel_spatial_adapter"] == (180_504_576, 180_504_576)
    assert table["image_encoder: local_encoder"][0] == table["image_encoder: local_encoder"][1]
    source = 64 * 64 * 768
    assert table["image_encoder: position_adapter"][0] - table["image_encoder: position_adapter"][1] == source
    # SAM's ViT-B at 256 is 89.7 M less the position tables that shrink.
    assert table["image_encoder: ViT"][0] == pytest.approx(86.7e6, rel=0.001)
    assert table["prompt_encoder"] == (6220, 6220)
    assert table["mask_decoder"] == (4_058_340, 4_058_340)


@pytest.mark.parametrize("preset", ["tiny_b", "tiny_t"])
@pytest.mark.parametrize("balancing", [True, False])
def test_rows_add_up(preset: str, balancing: bool) -> None:
    model = LMSFESAM(preset, 64, balancing_adapter=balancing)
    table = rows(model)
    total = table.pop("total")
    assert total == tuple(sum(column) for column in zip(*table.values(), strict=True))
    assert total[0] == sum(p.numel() for p in model.parameters())
    assert total[1] == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert ("image_encoder: balancing_adapter" in table) == balancing
    assert ("image_encoder: local_to_neck" in table) == (preset == "tiny_t" or not balancing)
    if preset == "tiny_b":
        assert table["image_encoder: ViT"][1] == 0


def test_what_is_off_has_no_row() -> None:
    off = dict.fromkeys(("local_encoder", "mhpm", "adapters", "balancing_adapter"), False)
    table = rows(LMSFESAM("tiny_b", 64, **off))
    assert list(table) == ["image_encoder: ViT", "prompt_encoder", "mask_decoder", "total"]
