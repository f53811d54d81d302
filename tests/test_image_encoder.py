"""The ViT: late padding against segment_anything's, blocks and encoder written out, what trains."""

from __future__ import annotations

import functools
import itertools
import re

import pytest
import torch
from segment_anything.modeling.image_encoder import Block as PlainBlock
from torch import nn

from lmsfe_sam import LMSFESAM
from lmsfe_sam.model.encoder.adapters import (
    ChannelSpatialAdapter,
    CrossBranchBalancingAdapter,
    FeatureAdapter,
)
from lmsfe_sam.model.encoder.image_encoder import Block, ImageEncoder
from sam_med2d import randomise
from tiny import SIZE, TINY

pytestmark = pytest.mark.usefixtures("small_presets")

TOGGLES = ("local_encoder", "mhpm", "adapters", "balancing_adapter")
COMBINATIONS = [
    dict(zip(TOGGLES, values, strict=True)) for values in itertools.product([False, True], repeat=4)
]


def pair(window: int, grid: int, dim: int = 16, heads: int = 2) -> tuple[PlainBlock, Block]:
    """segment_anything's block and ours, the same random weights."""
    norm = functools.partial(nn.LayerNorm, eps=1e-6)
    plain = PlainBlock(
        dim, heads, norm_layer=norm, use_rel_pos=True, window_size=window, input_size=(grid, grid)
    )
    ours = Block(dim, heads, grid, window, 4 * dim)
    ours.load_state_dict(randomise(plain, 0).state_dict())
    return plain, ours


class TestAttention:
    @pytest.mark.parametrize(
        ("size", "window"),
        [
            ((4, 4), 3),  # as ViT-B's 16 in windows of 14: cut in both directions
            ((5, 8), 3),
            ((6, 7), 3),  # cut in one direction only
            ((7, 6), 3),
            ((6, 9), 3),  # not cut
            ((2, 2), 3),  # smaller than a window
            ((2, 7), 3),
            ((1, 1), 3),
        ],
    )
    def test_late_padding_equals_plain_padding(self, size: tuple[int, int], window: int) -> None:
        plain, ours = pair(window, 0)
        plain, ours = plain.double(), ours.double()
        x = torch.randn(2, *size, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        x.requires_grad_(True)
        expected, found = plain(x), ours(x, None)
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
        weights = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        theirs = torch.autograd.grad((expected * weights).sum(), [x, *plain.parameters()])
        names = dict(plain.named_parameters())
        parameters = dict(ours.named_parameters())
        gradients = torch.autograd.grad((found * weights).sum(), [x, *(parameters[name] for name in names)])
        for a, b in zip(gradients, theirs, strict=True):
            torch.testing.assert_close(a, b, atol=1e-9, rtol=0)

    @pytest.mark.parametrize(("size", "window"), [(16, 14), (20, 14), (16, 0)])
    def test_at_the_sizes_of_vit_b(self, size: int, window: int) -> None:
        plain, ours = pair(window, size, dim=48, heads=3)
        x = torch.randn(1, size, size, 48, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            torch.testing.assert_close(ours(x, None), plain(x), atol=6e-6, rtol=0)

    def test_padding_has_a_weight(self) -> None:
        """What the padding is given matters: without the projection's bias the result is another."""
        plain, ours = pair(3, 0)
        x = torch.randn(1, 4, 4, 16, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            before = ours(x, None)
            plain.attn.qkv.bias[16:].add_(1.0)
            ours.load_state_dict(plain.state_dict())
            assert not torch.allclose(ours(x, None), before, atol=1e-3)
            torch.testing.assert_close(ours(x, None), plain(x), atol=1e-5, rtol=0)


def test_block_adds_the_adapters_beside_its_mlp() -> None:
    adapters = (
        ChannelSpatialAdapter(16, 4),
        FeatureAdapter(16, 4, skip=False),
        CrossBranchBalancingAdapter(16, 4),
    )
    block = randomise(Block(16, 2, 4, 0, 32, *adapters), 0)
    x, local = torch.randn(2, 2, 4, 4, 16, generator=torch.Generator().manual_seed(1))
    spatial, feature, balancing = adapters
    attended = x + block.attn(block.norm1(x))
    normed = block.norm2(attended)
    beside = [block.mlp(normed), spatial(normed), 0.5 * feature(normed), balancing(normed, local)]
    assert all(part.abs().mean() > 0.01 for part in beside)
    torch.testing.assert_close(block(x, local), attended + sum(beside))


class TestImageEncoder:
    @pytest.mark.parametrize("preset", ["tiny_b", "tiny_t"])
    @pytest.mark.parametrize("toggles", COMBINATIONS, ids=lambda t: "".join(str(int(v)) for v in t.values()))
    def test_written_out(self, preset: str, toggles: dict[str, bool]) -> None:
        sizes = TINY[preset]
        encoder = randomise(ImageEncoder(sizes, SIZE, **toggles), 0).eval()
        image = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
        with_local, adapted = toggles["local_encoder"], toggles["adapters"]
        balanced = with_local and toggles["balancing_adapter"]
        with torch.no_grad():
            found, skips = encoder(image)
            x = encoder.patch_embed(image)
            x = x + (encoder.position_adapter(encoder.pos_embed) if adapted else encoder.pos_embed)
            if adapted:
                x = x + encoder.feature_adapter.up(
                    encoder.feature_adapter.act(encoder.feature_adapter.down(x))
                )
            local, scales = encoder.local_encoder(image, [4, 4]) if with_local else (None, [])
            for block in encoder.blocks:
                x = block(x, None if local is None else local.permute(0, 2, 3, 1))
            x = x.permute(0, 3, 1, 2)
            if with_local and (not balanced or preset == "tiny_t"):
                x = x + encoder.local_to_neck(local)
            torch.testing.assert_close(found, encoder.neck(x))
        assert len(skips) == (3 if with_local else 0)
        for skip, scale, divisor in zip(skips, scales, (2, 4, 8)):
            assert torch.equal(skip, scale)
            assert skip.shape[-1] == SIZE // divisor

    @pytest.mark.parametrize("toggles", COMBINATIONS, ids=lambda t: "".join(str(int(v)) for v in t.values()))
    def test_each_part_is_there_when_it_is_on(self, toggles: dict[str, bool]) -> None:
        with torch.device("meta"):
            encoder = ImageEncoder(TINY["tiny_b"], SIZE, **toggles)
        names = {name for name, _ in encoder.named_modules()}
        balanced = toggles["local_encoder"] and toggles["balancing_adapter"]

        def blocks(part: str) -> list[int]:
            return [i for i in range(4) if f"blocks.{i}.{part}" in names]

        assert blocks("channel_spatial_adapter") == ([0, 1, 2, 3] if toggles["adapters"] else [])
        assert blocks("feature_adapter") == ([1, 3] if toggles["adapters"] else [])
        assert blocks("balancing_adapter") == ([1, 3] if balanced else [])
        assert ("position_adapter" in names) == ("feature_adapter" in names) == toggles["adapters"]
        assert ("local_encoder" in names) == toggles["local_encoder"]
        has_mhpm = "local_encoder.pools.0.1.xy" in names
        assert has_mhpm == (toggles["local_encoder"] and toggles["mhpm"])
        assert ("local_to_neck" in names) == (toggles["local_encoder"] and not toggles["balancing_adapter"])

    def test_local_features_reach_every_global_block(self) -> None:
        encoder = randomise(ImageEncoder(TINY["tiny_b"], SIZE), 0).eval()
        image = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            before, _ = encoder(image)
            for i in (1, 3):
                scale = encoder.blocks[i].balancing_adapter.scale
                kept = scale.clone()
                scale.zero_()
                assert not torch.allclose(encoder(image)[0], before, atol=1e-3)
                scale.copy_(kept)
            encoder.local_encoder.out[1].bias.add_(0.5)
            assert not torch.allclose(encoder(image)[0], before, atol=1e-3)


FROZEN = re.compile(
    r"(patch_embed\.proj\.(weight|bias)"
    r"|pos_embed"
    r"|position_adapter\.source"
    r"|blocks\.\d+\.(norm1|norm2)\.(weight|bias)"
    r"|blocks\.\d+\.attn\.((qkv|proj)\.(weight|bias)|rel_pos_[hw])"
    r"|blocks\.\d+\.mlp\.lin[12]\.(weight|bias)"
    r"|neck\.[0-3]\.(weight|bias))"
)
"""The ViT's own weights, and the table that its position adapter works on."""


class TestWhatTrains:
    @pytest.mark.parametrize("preset", ["vit_b", "vit_l", "vit_h"])
    def test_sams_vit_is_frozen_and_nothing_else(self, preset: str) -> None:
        with torch.device("meta"):
            model = LMSFESAM(preset)
        for name, parameter in model.named_parameters():
            own = FROZEN.fullmatch(name.removeprefix("image_encoder."))
            assert parameter.requires_grad != bool(own), name

    def test_everything_of_vit_t_trains(self) -> None:
        with torch.device("meta"):
            assert all(p.requires_grad for p in LMSFESAM("vit_t").parameters())

    def test_sizes_of_vit_b(self) -> None:
        with torch.device("meta"):
            encoder = LMSFESAM("vit_b").image_encoder

        def count(part: str) -> int:
            return sum(p.numel() for name, p in encoder.named_parameters() if part in name.split("."))

        assert count("channel_spatial_adapter") == 12 * (2 * 768 * 192 + 25 * 768**2 + 2 * 768) == 180_504_576
        assert count("local_encoder") == pytest.approx(4.7e6, rel=0.02)
        bottleneck = 2 * 768 * 192 + 192 + 768
        assert count("feature_adapter") == 5 * bottleneck
        assert count("balancing_adapter") == 4 * (bottleneck + 2 * 49 + 1 + 1)
        assert count("position_adapter") == 64 * 64 * 768 + 2 * (9 * 768**2 + 768 + 2 * 768) + 1
        assert count("pools") < 0.15 * count("local_encoder")  # "in a lightweight manner"
