"""The adapters against their equations, computed by hand or by loops in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lmsfe_sam.model.encoder.adapters import (
    ChannelSpatialAdapter,
    CrossBranchBalancingAdapter,
    FeatureAdapter,
    LightChannelSpatialAdapter,
    PositionAdapter,
)


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numbers(parameter: torch.Tensor) -> np.ndarray:
    return parameter.detach().double().numpy()


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, padding: int) -> np.ndarray:
    """``(I, H, W)`` with ``(O, I, k, k)`` at stride 1, one output pixel after the other."""
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    k = weight.shape[-1]
    out = np.empty((len(weight), *x.shape[1:]))
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            out[:, i, j] = (weight * padded[:, i : i + k, j : j + k]).sum(axis=(1, 2, 3)) + bias
    return out


class TestFeatureAdapter:
    @pytest.mark.parametrize("skip", [True, False])
    def test_equation_10(self, skip: bool) -> None:
        adapter = randomised(FeatureAdapter(6, 3, skip))
        x = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(1))
        w1, b1 = numbers(adapter.down.weight), numbers(adapter.down.bias)
        w2, b2 = numbers(adapter.up.weight), numbers(adapter.up.bias)
        y = gelu(numbers(x) @ w1.T + b1) @ w2.T + b2
        np.testing.assert_allclose(numbers(adapter(x)), y + numbers(x) * skip, atol=1e-5)

    def test_by_hand(self) -> None:
        adapter = FeatureAdapter(2, 1, skip=True)
        with torch.no_grad():
            adapter.down.weight.copy_(torch.tensor([[1.0, -2.0]]))
            adapter.down.bias.fill_(0.5)
            adapter.up.weight.copy_(torch.tensor([[2.0], [-1.0]]))
            adapter.up.bias.copy_(torch.tensor([0.25, 0.0]))
        # 1 * 2.5 - 2 * 1 + 0.5 = 1; GELU(1) = 0.8413447.
        expected = torch.tensor([2.5 + 2 * 0.8413447 + 0.25, 1 - 0.8413447])
        torch.testing.assert_close(adapter(torch.tensor([2.5, 1.0])), expected)

    @pytest.mark.parametrize("skip", [True, False])
    def test_adds_nothing_before_training(self, skip: bool) -> None:
        x = torch.randn(1, 2, 2, 8)
        assert torch.equal(FeatureAdapter(8, 2, skip)(x), x if skip else torch.zeros_like(x))


def position_stage(x: np.ndarray, stage: nn.Sequential, norm: str) -> np.ndarray:
    """Max pool, convolution, norm over channels or, eq (9), over height and width, GELU; ``(C, H, W)``."""
    _, convolution, normalisation, _ = stage
    c, h, w = x.shape
    x = x.reshape(c, h // 2, 2, w // 2, 2).max(axis=(2, 4))
    x = convolve(x, numbers(convolution.weight), numbers(convolution.bias), 1)
    axes, epsilon = ((1, 2), 1e-5) if norm == "instance" else ((0,), 1e-6)
    centred = x - x.mean(axis=axes, keepdims=True)
    x = centred / np.sqrt((centred**2).mean(axis=axes, keepdims=True) + epsilon)
    gamma, beta = numbers(normalisation.weight), numbers(normalisation.bias)
    return gelu(gamma[:, None, None] * x + beta[:, None, None])


class TestPositionAdapter:
    @pytest.mark.parametrize("norm", ["layer", "instance"])
    @pytest.mark.parametrize("mode", ["add", "replace"])
    def test_equation_9_in_two_stages(self, norm: str, mode: str) -> None:
        adapter = randomised(PositionAdapter(3, 16, 4, norm, mode))
        assert len(adapter.stages) == 2
        position = torch.randn(1, 4, 4, 3, generator=torch.Generator().manual_seed(2))
        x = numbers(adapter.source)[0].transpose(2, 0, 1)
        for stage in adapter.stages:
            x = position_stage(x, stage, norm)
        expected = x.transpose(1, 2, 0)[None]
        if mode == "add":
            expected = numbers(position) + numbers(adapter.scale) * expected
        np.testing.assert_allclose(numbers(adapter(position)), expected, atol=2e-5)

    def test_no_stage_is_left_to_do(self) -> None:
        adapter = randomised(PositionAdapter(4, 8, 8))
        position = torch.randn(1, 8, 8, 4)
        torch.testing.assert_close(adapter(position), position + adapter.scale * adapter.source)

    def test_sizes_that_halving_does_not_reach(self) -> None:
        adapter = randomised(PositionAdapter(4, 16, 5))
        assert len(adapter.stages) == 1
        eight = numbers(adapter.source)[0].transpose(2, 0, 1)
        eight = torch.from_numpy(position_stage(eight, adapter.stages[0], "layer"))[None]
        five = F.interpolate(eight, (5, 5), mode="bilinear").permute(0, 2, 3, 1)
        found = adapter(torch.zeros(1, 5, 5, 4)).double()
        torch.testing.assert_close(found, adapter.scale.double() * five, atol=2e-5, rtol=0)
        grown = randomised(PositionAdapter(4, 4, 6))
        assert len(grown.stages) == 0
        assert grown(torch.zeros(1, 6, 6, 4)).shape == (1, 6, 6, 4)

    def test_vit_b_halves_64_twice(self) -> None:
        with torch.device("meta"):
            assert len(PositionAdapter(768, 64, 16).stages) == 2

    def test_adds_nothing_before_training(self) -> None:
        position = torch.randn(1, 4, 4, 8)
        assert torch.equal(PositionAdapter(8, 8, 4)(position), position)

    def test_is_cached_in_evaluation(self) -> None:
        adapter = randomised(PositionAdapter(4, 8, 4)).eval()
        position = torch.randn(1, 4, 4, 4)
        with torch.no_grad():
            before = adapter(position)
            kept = adapter._cached[2]
            adapter(position)
            assert adapter._cached[2] is kept
            adapter.stages[0][1].weight.mul_(2)
            assert not torch.allclose(adapter(position), before)
        assert adapter(position).requires_grad

    def test_unknown_options(self) -> None:
        with pytest.raises(ValueError, match="norm 'batch' is unknown"):
            PositionAdapter(4, 8, 4, norm="batch")
        with pytest.raises(ValueError, match="mode 'multiply' is unknown"):
            PositionAdapter(4, 8, 4, mode="multiply")


def plain_channel_spatial(adapter: ChannelSpatialAdapter, x: torch.Tensor) -> torch.Tensor:
    """SAM-Med2D's adapter by its own two convolutions; odd sizes cropped behind the second."""
    h, w = x.shape[1:3]
    x = x.permute(0, 3, 1, 2)
    gate = adapter.channel(F.adaptive_avg_pool2d(x, 1).flatten(1))[:, :, None, None]
    down = F.relu(F.conv2d(gate * x, adapter.spatial[0].weight, stride=2, padding=1))
    up = F.relu(F.conv_transpose2d(down, adapter.spatial[2].weight, stride=2, padding=1))[:, :, :h, :w]
    return adapter.norm((x + up).permute(0, 2, 3, 1))


class TestChannelSpatialAdapter:
    @pytest.mark.parametrize("shape", [(2, 16, 16), (1, 8, 12), (1, 5, 7), (3, 3, 4), (1, 1, 1)])
    def test_matrix_products_equal_convolutions(self, shape: tuple[int, int, int]) -> None:
        adapter = randomised(ChannelSpatialAdapter(48, 12))
        x = torch.randn(*shape, 48, generator=torch.Generator().manual_seed(3))
        found, expected = adapter(x), plain_channel_spatial(adapter, x)
        assert found.abs().max() > 0.5
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=2e-6)

    def test_gradients_equal(self) -> None:
        adapter = randomised(ChannelSpatialAdapter(8, 2)).double()
        x = torch.randn(2, 5, 6, 8, dtype=torch.float64, requires_grad=True)
        weights = torch.randn(2, 5, 6, 8, dtype=torch.float64)
        inputs = [x, *adapter.parameters()]
        ours = torch.autograd.grad((adapter(x) * weights).sum(), inputs)
        theirs = torch.autograd.grad((plain_channel_spatial(adapter, x) * weights).sum(), inputs)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)

    def test_gate_by_hand(self) -> None:
        """One pixel, one channel group: mean pool, 2 -> 1 -> 2 with ReLU and sigmoid, skip, norm."""
        adapter = ChannelSpatialAdapter(2, 1)
        with torch.no_grad():
            adapter.channel[0].weight.copy_(torch.tensor([[1.0, 1.0]]))
            adapter.channel[2].weight.copy_(torch.tensor([[1.0], [-1.0]]))
            for convolution in (adapter.spatial[0], adapter.spatial[2]):
                convolution.weight.zero_()
            adapter.spatial[0].weight[:, :, 1, 1] = torch.eye(2)
            adapter.spatial[2].weight[:, :, 1, 1] = torch.eye(2)
            adapter.norm.weight.fill_(1)
        x = torch.tensor([3.0, -1.0]).reshape(1, 1, 1, 2)
        hidden = max(0.0, 3.0 - 1.0)
        gated = np.array([3 * sigmoid(hidden), -1 * sigmoid(-hidden)])
        total = np.array([3.0, -1.0]) + np.maximum(gated, 0)
        expected = (total - total.mean()) / np.sqrt(total.var() + 1e-5)
        np.testing.assert_allclose(numbers(adapter(x)).ravel(), expected, atol=1e-6)

    @pytest.mark.parametrize("kind", [ChannelSpatialAdapter, LightChannelSpatialAdapter])
    def test_adds_nothing_before_training(self, kind: type[nn.Module]) -> None:
        assert torch.equal(kind(8, 2)(torch.randn(1, 4, 4, 8)), torch.zeros(1, 4, 4, 8))

    def test_has_sam_med2d_parameters(self) -> None:
        with torch.device("meta"):
            adapter = ChannelSpatialAdapter(768, 192)
        assert {name: tuple(p.shape) for name, p in adapter.named_parameters()} == {
            "channel.0.weight": (192, 768),
            "channel.2.weight": (768, 192),
            "spatial.0.weight": (768, 768, 3, 3),
            "spatial.2.weight": (768, 768, 4, 4),
            "norm.weight": (768,),
            "norm.bias": (768,),
        }

    def test_light_form(self) -> None:
        adapter = randomised(LightChannelSpatialAdapter(3, 2))
        x = torch.randn(1, 4, 5, 3, generator=torch.Generator().manual_seed(4))
        values = numbers(x)[0].transpose(2, 0, 1)
        first, second = numbers(adapter.channel[0].weight), numbers(adapter.channel[2].weight)
        gate = sigmoid(second @ np.maximum(first @ values.mean(axis=(1, 2)), 0))
        y = gate[:, None, None] * values
        for index, bias, padding in ((0, adapter.spatial[0].bias, 1), (2, None, 2)):
            weight = numbers(adapter.spatial[index].weight)
            bias = np.zeros(3) if bias is None else numbers(bias)
            y = np.stack(
                [convolve(y[c : c + 1], weight[c : c + 1], bias[c : c + 1], padding)[0] for c in range(3)]
            )
            y = np.maximum(y, 0) if index == 0 else y
        total = (values + y).transpose(1, 2, 0)
        total = total - total.mean(axis=-1, keepdims=True)
        total = total / np.sqrt((total**2).mean(axis=-1, keepdims=True) + 1e-5)
        expected = total * numbers(adapter.norm.weight) + numbers(adapter.norm.bias)
        np.testing.assert_allclose(numbers(adapter(x))[0], expected, atol=1e-5)


class TestCrossBranchBalancingAdapter:
    def test_equations_5_to_8(self) -> None:
        adapter = randomised(CrossBranchBalancingAdapter(6, 4))
        generator = torch.Generator().manual_seed(5)
        f_g, f_l = (torch.randn(1, 4, 9, 6, generator=generator) for _ in range(2))
        total = numbers(f_g)[0] + numbers(f_l)[0]
        h_max, h_mean = total.max(axis=-1), total.mean(axis=-1)
        stacked = np.stack([h_max, h_mean])
        w = sigmoid(convolve(stacked, numbers(adapter.spatial.weight), numbers(adapter.spatial.bias), 3))[0]
        hidden = gelu((w[:, :, None] * total) @ numbers(adapter.down.weight).T + numbers(adapter.down.bias))
        h = numbers(adapter.scale) * (hidden @ numbers(adapter.up.weight).T + numbers(adapter.up.bias))
        np.testing.assert_allclose(numbers(adapter(f_g, f_l))[0], h, atol=1e-5)

    def test_by_hand(self) -> None:
        """One pixel: the sum is (4, 2), its maximum 4 and mean 3, the kernel (1, -1): W = sigmoid(1)."""
        adapter = CrossBranchBalancingAdapter(2, 1)
        with torch.no_grad():
            adapter.spatial.weight.zero_()
            adapter.spatial.weight[0, :, 3, 3] = torch.tensor([1.0, -1.0])
            adapter.spatial.bias.zero_()
            adapter.down.weight.copy_(torch.tensor([[0.5, -1.0]]))
            adapter.down.bias.fill_(1.0)
            adapter.up.weight.copy_(torch.tensor([[2.0], [4.0]]))
        # W = 0.7310586; 0.5 * 4 W - 2 W + 1 = 1; GELU(1) = 0.8413447; times 2 and 4, times 0.5.
        found = adapter(torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[3.0, 0.0]]]]))
        torch.testing.assert_close(found.ravel(), torch.tensor([0.8413447, 1.6826895]))

    def test_each_image_for_itself(self) -> None:
        adapter = randomised(CrossBranchBalancingAdapter(6, 4))
        f_g, f_l = torch.randn(2, 5, 4, 6), torch.randn(2, 5, 4, 6)
        alone = torch.cat([adapter(f_g[i : i + 1], f_l[i : i + 1]) for i in range(2)])
        torch.testing.assert_close(adapter(f_g, f_l), alone)

    def test_starts_at_nothing_with_half_scale(self) -> None:
        adapter = CrossBranchBalancingAdapter(8, 2)
        assert adapter.scale.item() == 0.5
        assert adapter.scale.requires_grad
        x = torch.randn(1, 3, 3, 8)
        assert torch.equal(adapter(x, x), torch.zeros_like(x))
