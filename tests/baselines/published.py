"""What other authors' networks compute, from the files in ``tests/fixtures``, and comparing with it."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from conftest import ROOT

FIXTURES = ROOT / "tests" / "fixtures"
ONES = ("spline_scaler", "params_xy", "params_zx", "params_zy")
FREQUENCIES = "positional_encoding_gaussian_matrix"
DAMPED = ("conv.bn.weight", "conv1.bn.weight", "m.2.bn.weight")
KEPT = ("num_batches_tracked", "grid")
"""Tensors that keep the values that the network makes."""


def fixture(network: str) -> dict[str, Any]:
    return json.loads((FIXTURES / network / "fixture.json").read_text())


def cases(network: str) -> dict[str, dict[str, Any]]:
    return {case["case"]: case for case in fixture(network)["cases"]}


def keys(network: str, file: str = "keys.txt") -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published state dict."""
    lines = (FIXTURES / network / file).read_text().splitlines()
    rows = [line.split() for line in lines if line and not line.startswith("#")]
    return {name: () if s == "scalar" else tuple(map(int, s.split("x"))) for _, name, s, *_ in rows}


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _generator(tag: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(tag.encode()))


def uniform(tag: str, shape: list[int]) -> Tensor:
    return torch.rand(shape, generator=_generator(tag))


def normal(tag: str, shape: list[int]) -> Tensor:
    return torch.randn(shape, generator=_generator(tag))


def value(name: str, shape: tuple[int, ...]) -> Tensor:
    """The tensor that the rule in ``tests/fixtures/README.md`` gives to a name."""
    kind = name.rsplit(".", 1)[-1]
    if kind == "running_var":
        return 1 + 0.1 * uniform(name, list(shape))
    noise = normal(name, list(shape))
    if kind.endswith("weight") and len(shape) > 1:
        return noise / math.sqrt(math.prod(shape[1:]))
    if kind.endswith("weight") or kind in ONES:
        return (0.6 if name.endswith(DAMPED) else 1.0) * (1 + 0.1 * noise)
    if kind.endswith("bias") or kind == "running_mean":
        return 0.1 * noise
    return noise if kind == FREQUENCIES else 0.02 * noise


def filled(network: nn.Module, prefix: str = "") -> nn.Module:
    """Load the rule's values, one tensor at a time, by the published names; in evaluation mode."""
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not name.endswith(KEPT):
                tensor.copy_(value(prefix + name, tuple(tensor.shape)))
    return network.eval()


@contextmanager
def outputs_of(network: nn.Module, modules: Mapping[str, str]) -> Iterator[dict[str, Tensor]]:
    """Collect, while it runs, the outputs of modules: fixture name to module name."""
    found: dict[str, Any] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: found.__setitem__(name, output)

    handles = [
        network.get_submodule(path).register_forward_hook(keep(name)) for name, path in modules.items()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def check(found: Tensor, expected: Mapping[str, Any], name: str = "") -> None:
    """Compare values, mean and deviation of a whole tensor, in the shape that the fixture states."""
    assert list(found.shape) == expected["shape"], name
    flat = found.detach().flatten().double()
    values = torch.tensor(expected["values"], dtype=torch.float64)
    deviation = expected["std"]
    slack = 1e-4 * deviation if deviation else 1e-4 * values.abs()
    worst = ((flat[expected["indices"]] - values).abs() / (slack + 1e-5 * values.abs())).max().item()
    assert worst <= 1, f"{name}: a value is off by {worst:.3g} x the tolerance"
    mean, own = flat.mean().item(), flat.std(correction=0).item()
    scale = deviation or abs(expected["mean"])
    assert abs(mean - expected["mean"]) <= 1e-4 * scale + 1e-5 * abs(expected["mean"]), f"{name}: mean {mean}"
    assert abs(own - deviation) <= 1e-4 * scale, f"{name}: deviation {own}"


def tokens(maps: Tensor) -> Tensor:
    """``(B, C, H, W)`` to ``(B, H * W, C)``."""
    return maps.flatten(2).transpose(1, 2)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def multiply_adds(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Of convolutions and matrix products, on a network of the meta device."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(shape, device="meta"))
    return counter.get_total_flops() // 2


def unreached(network: nn.Module, loss: Tensor) -> list[str]:
    """Names of the parameters to which the loss sends no gradient."""
    loss.backward()
    return [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
