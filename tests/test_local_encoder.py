"""The local branch: MHPM against loops in NumPy, what it keeps, and eqs (1)-(3) written out."""

from __future__ import annotations

import copy
import io
import math
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lmsfe_sam.model.encoder.local_encoder import LocalMultiScaleEncoder, MultiAxialHadamardProductModule


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random parameters and running statistics."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point():
                values = torch.randn(tensor.shape, generator=generator) * 0.4
                tensor.copy_(values.abs() + 0.5 if name.endswith("running_var") else values)
    return module


def numbers(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def channel_norm(x: np.ndarray, norm: nn.Module) -> np.ndarray:
    """Layer norm over the channels of ``(C, H, W)``."""
    centred = x - x.mean(axis=0)
    x = centred / np.sqrt((centred**2).mean(axis=0) + 1e-6)
    return numbers(norm.weight)[:, None, None] * x + numbers(norm.bias)[:, None, None]


def resize_line(values: np.ndarray, length: int) -> np.ndarray:
    """Linear interpolation of the last axis, ends on ends (align_corners=True)."""
    places = np.linspace(0, values.shape[-1] - 1, length)
    low = np.minimum(np.floor(places).astype(int), values.shape[-1] - 2)
    part = places - low
    return values[..., low] * (1 - part) + values[..., low + 1] * part


def depthwise(x: np.ndarray, convolution: nn.Module) -> np.ndarray:
    """A 3 or 3 x 3 depth-wise convolution of ``(C, ...)``, pixel by pixel."""
    weight, bias = numbers(convolution.weight)[:, 0], numbers(convolution.bias)
    padded = np.pad(x, [(0, 0), *[(1, 1)] * (x.ndim - 1)])
    out = np.empty_like(x)
    for place in np.ndindex(x.shape[1:]):
        window = padded[(slice(None), *[slice(i, i + 3) for i in place])]
        out[(slice(None), *place)] = (weight * window).reshape(len(x), -1).sum(axis=1) + bias
    return out


def pointwise(x: np.ndarray, convolution: nn.Module) -> np.ndarray:
    weight = numbers(convolution.weight).reshape(len(convolution.weight), -1)
    return np.tensordot(weight, x, axes=1) + numbers(convolution.bias).reshape(-1, *[1] * (x.ndim - 1))


def mhpm(module: MultiAxialHadamardProductModule, x: np.ndarray) -> np.ndarray:
    """Algorithm 1 with eq (4) on one map ``(C, H, W)``."""
    _, h, w = x.shape
    groups = np.split(channel_norm(x, module.norm_in), 4)

    plane = resize_line(numbers(module.xy.table)[0], w)
    plane = resize_line(plane.swapaxes(1, 2), h).swapaxes(1, 2)
    columns = resize_line(numbers(module.xz.table)[0], h)
    rows = resize_line(numbers(module.yz.table)[0], w)

    def factor(table: np.ndarray, branch: nn.Module) -> np.ndarray:
        return pointwise(gelu(depthwise(table, branch.depthwise)), branch.pointwise)

    y1 = groups[0] * factor(plane, module.xy)
    y2 = np.einsum("chw,ch->chw", groups[1], factor(columns, module.xz))
    y3 = np.einsum("chw,cw->chw", groups[2], factor(rows, module.yz))
    y4 = depthwise(gelu(pointwise(groups[3], module.local[0])), module.local[2])
    y = channel_norm(np.concatenate([y1, y2, y3, y4]), module.norm_out)
    return pointwise(gelu(depthwise(y, module.mix[0])), module.mix[2])


class TestMultiAxialHadamardProductModule:
    @pytest.mark.parametrize("size", [(5, 9), (9, 5), (16, 16), (3, 1)])
    def test_algorithm_1_on_maps_of_any_shape(self, size: tuple[int, int]) -> None:
        module = randomise(MultiAxialHadamardProductModule(8))
        x = torch.randn(2, 8, *size, generator=torch.Generator().manual_seed(1))
        found = numbers(module(x))
        for image in range(2):
            np.testing.assert_allclose(found[image], mhpm(module, numbers(x[image])), atol=2e-5)

    def test_tables(self) -> None:
        module = MultiAxialHadamardProductModule(32)
        shapes = [tuple(branch.table.shape) for branch in (module.xy, module.xz, module.yz)]
        assert shapes == [(1, 8, 8, 8), (1, 8, 8), (1, 8, 8)]
        assert all((branch.table == 1).all() for branch in (module.xy, module.xz, module.yz))

    def test_channels_in_four_groups(self) -> None:
        with pytest.raises(ValueError, match="four groups, which 30 channels do not allow"):
            MultiAxialHadamardProductModule(30)


class TestWhatIsKept:
    @pytest.fixture
    def module(self) -> MultiAxialHadamardProductModule:
        return randomise(MultiAxialHadamardProductModule(8)).eval()

    @pytest.fixture
    def x(self) -> Tensor:
        return torch.randn(1, 8, 5, 6, generator=torch.Generator().manual_seed(2))

    def test_computed_once_in_evaluation(self, module, x, monkeypatch) -> None:
        calls = []
        compute = type(module.xy)._compute
        monkeypatch.setattr(
            type(module.xy), "_compute", lambda self, size: calls.append(size) or compute(self, size)
        )
        with torch.no_grad():
            first = module(x)
            second = module(x)
        assert calls == [[5, 6], [5], [6]]
        assert torch.equal(first, second)
        with torch.no_grad():
            module(x[:, :, :4])
        assert calls[3:] == [[4, 6], [4]]

    def test_never_under_gradients(self, module, x) -> None:
        with torch.no_grad():
            module(x)
        module(x).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.xy.parameters())

    def test_never_in_training(self, module, x) -> None:
        module.train()
        with torch.no_grad():
            module(x)
        assert module.xy._cached is None

    @pytest.mark.parametrize("change", ["in place", "step", "state dict", "data", "data in place", "double"])
    def test_dropped_when_a_parameter_changes(self, module, x, change: str) -> None:
        with torch.no_grad():
            before = module(x)
            if change == "in place":
                module.xy.table.mul_(3)
            if change == "state dict":
                module.load_state_dict({k: v * 1.5 for k, v in module.state_dict().items()})
            if change == "data":
                module.xy.table.data = module.xy.table.data * 3
            if change == "data in place":  # autograd does not see it, so a change of mode must do
                module.train()
                module.xy.table.data.mul_(3)
                module.eval()
            if change == "double":
                module.double()
                x = x.double()
        if change == "step":
            optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
            module(x).sum().backward()
            optimizer.step()
        fresh = randomise(MultiAxialHadamardProductModule(8)).to(x.dtype)
        fresh.load_state_dict(module.state_dict())
        with torch.no_grad():
            after = module(x)
            torch.testing.assert_close(after, fresh(x))
        assert change == "double" or not torch.allclose(after, before)

    def test_address_reused_by_new_data(self, module, x) -> None:
        """A new tensor at a freed one's address, same version: the kept value must not be taken for it."""
        with torch.no_grad():
            module(x)
        for value in range(20):
            shape = module.xy.table.shape
            module.xy.table.data = torch.empty(0)  # frees the old one, if nothing else holds it
            module.xy.table.data = torch.full(shape, float(value))
            with torch.no_grad():
                found = module(x)
            torch.testing.assert_close(found, module(x).detach())

    def test_only_a_change_of_mode_empties_the_cache(self, module, x, monkeypatch) -> None:
        """MONAI's evaluators call ``eval()`` for each batch."""
        with torch.no_grad():
            module.eval()(x)
            cached = module.xy._cached
            module.eval()(x)
            assert module.xy._cached is cached
            module.train()
            assert module.xy._cached is None

    def test_autocast_has_results_of_its_own(self, module, x) -> None:
        with torch.no_grad():
            expected = module(x)
            module.train().eval()  # an empty cache, which bfloat16 fills first
            with torch.autocast("cpu", torch.bfloat16):
                module(x)
            assert torch.equal(module(x), expected)

    def test_copies_and_pickles_go_without(self, module, x) -> None:
        with torch.no_grad():
            expected = module(x)
        assert module.xy._cached is not None
        buffer = io.BytesIO()
        torch.save(module, buffer)
        buffer.seek(0)
        others = [
            copy.deepcopy(module),
            pickle.loads(pickle.dumps(module)),
            torch.load(buffer, weights_only=False),
        ]
        for other in others:
            assert other.xy._cached is None
            with torch.no_grad():
                assert torch.equal(other(x), expected)
                other.xy.table.zero_()
                assert not torch.equal(other(x), module(x))
        assert not any("cached" in name for name in module.state_dict())

    def test_inference_mode(self, module, x) -> None:
        with torch.inference_mode():
            module(x)
        with torch.no_grad():
            module(x)
        module(x).sum().backward()
        with torch.inference_mode():
            made_there = randomise(MultiAxialHadamardProductModule(8)).eval()
            torch.testing.assert_close(made_there(x), module(x))
            torch.testing.assert_close(made_there(x), module(x))


def conv_norm(
    x: Tensor, convolution: nn.Conv2d, norm: nn.BatchNorm2d, relu: nn.Module | None = None
) -> Tensor:
    """A convolution, a batch norm in evaluation, and ReLU where there is one, written out."""
    x = F.conv2d(x, convolution.weight, None, convolution.stride, convolution.padding)
    mean, variance = norm.running_mean[:, None, None], norm.running_var[:, None, None]
    x = (x - mean) / torch.sqrt(variance + norm.eps) * norm.weight[:, None, None] + norm.bias[:, None, None]
    return x.clamp(min=0) if isinstance(relu, nn.ReLU) else x


def residual(x: Tensor, block: nn.Module) -> Tensor:
    y = conv_norm(x, *block.conv1)
    return (x + conv_norm(y, block.conv2, block.norm2)).clamp(min=0)


def max_pool(x: Tensor, k: int) -> Tensor:
    """k x k maximum at stride 1, what lies outside left out."""
    out = torch.empty_like(x)
    r = k // 2
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            window = x[:, :, max(0, i - r) : i + r + 1, max(0, j - r) : j + r + 1]
            out[:, :, i, j] = window.amax(dim=(2, 3))
    return out


class TestLocalMultiScaleEncoder:
    @pytest.mark.parametrize("with_mhpm", [True, False])
    def test_equations_1_to_3(self, with_mhpm: bool) -> None:
        widths, blocks = (6, 8, 10, 12), (0, 1, 0, 2)
        encoder = randomise(LocalMultiScaleEncoder(widths, blocks, 16, 20, with_mhpm)).eval()
        image = torch.randn(2, 3, 128, 256, generator=torch.Generator().manual_seed(3))
        grid = [8, 16]  # wide enough for a window of 13 to differ from one of 11
        x, features = image, []
        for stage in encoder.stages:
            x = conv_norm(x, *stage[0])
            for block in stage[1:]:
                x = residual(x, block)
            features.append(x)
        scales = []
        for projection, x in zip(encoder.project, features[1:], strict=True):
            b, c, h, w = (projected := conv_norm(x, *projection)).shape
            scales.append(projected.reshape(b, c, 8, h // 8, 16, w // 16).mean(dim=(3, 5)))
        x = torch.cat(scales, dim=1)
        f1a, f3a, f1b = encoder.fuse
        f = conv_norm(conv_norm(conv_norm(x, *f1a), *f3a), *f1b)  # eq (1)
        spp = [pool[1](max_pool(f, k)) for pool, k in zip(encoder.pools, (5, 9, 13), strict=True)]  # eq (2)
        f1c, f3b = encoder.refine
        refined = conv_norm(conv_norm(torch.cat([f, *spp], dim=1), *f1c), *f3b)
        shortcut = conv_norm(x, *encoder.shortcut)
        expected = conv_norm(torch.cat([refined, shortcut], dim=1), *encoder.out)  # eq (3)

        with torch.no_grad():
            found, skips = encoder(image, grid)
        assert found.abs().max() > 0.1
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        for a, b in zip(skips, features, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
        assert [tuple(s.shape[1:]) for s in skips] == [(6, 64, 128), (8, 32, 64), (10, 16, 32), (12, 8, 16)]

    def test_mhpm_stands_behind_each_pool(self) -> None:
        encoder = LocalMultiScaleEncoder((4, 4, 4, 4), (0, 0, 0, 0), 8, 8, mhpm=True)
        kinds = [type(pool[1]) for pool in encoder.pools]
        assert kinds == [MultiAxialHadamardProductModule] * 3
        plain = LocalMultiScaleEncoder((4, 4, 4, 4), (0, 0, 0, 0), 8, 8, mhpm=False)
        assert [type(pool[1]) for pool in plain.pools] == [nn.Identity] * 3
