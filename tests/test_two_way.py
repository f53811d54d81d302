"""SAM's transformer with unprojected images: the same results and gradients as segment_anything's."""

from __future__ import annotations

import pytest
import torch
from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.transformer import Attention

from lmsfe_sam.model.two_way import FewTokenAttention, FewTokenTransformer
from sam_med2d import randomise


def tensors(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(*s, dtype=torch.float64, generator=generator).requires_grad_(True) for s in shapes]


def assert_same(ours, theirs, inputs, modules) -> None:
    """Outputs, and gradients of inputs and of every parameter, a zero one included."""
    weights = [torch.randn(t.shape, dtype=t.dtype, generator=torch.Generator().manual_seed(2)) for t in ours]
    for a, b in zip(ours, theirs, strict=True):
        assert b.abs().max() > 0.1
        torch.testing.assert_close(a, b, atol=1e-11, rtol=0)
    gradients = []
    for outputs, module in zip((ours, theirs), modules, strict=True):
        loss = sum((output * weight).sum() for output, weight in zip(outputs, weights, strict=True))
        gradients.append(torch.autograd.grad(loss, [*inputs, *dict(module.named_parameters()).values()]))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


@pytest.mark.parametrize("tokens", [1, 3, 4, 9])
@pytest.mark.parametrize("way", ["attend_to_image", "attend_to_tokens", "forward"])
def test_attention(tokens: int, way: str) -> None:
    """16 channels in 4 heads: up to 3 tokens the image is left unprojected."""
    plain = randomise(Attention(32, 4, downsample_rate=2), 0, gain=1.0).double()
    ours = FewTokenAttention(32, 4, downsample_rate=2).double()
    ours.load_state_dict(plain.state_dict())
    few, image, image_values, few_values = tensors((2, tokens, 32), (2, 10, 32), (2, 10, 32), (2, tokens, 32))
    arguments = (image, few, few_values) if way == "attend_to_tokens" else (few, image, image_values)
    assert_same([getattr(ours, way)(*arguments)], [plain(*arguments)], arguments, (ours, plain))


@pytest.mark.parametrize("tokens", [1, 7])
def test_transformer(tokens: int) -> None:
    plain = randomise(TwoWayTransformer(2, 32, 4, 48), 0, gain=1.0).double()
    ours = FewTokenTransformer(32, 4, 48).double()
    assert ours.load_state_dict(plain.state_dict()).missing_keys == []
    image, positions, prompts = tensors((3, 32, 4, 5), (1, 32, 4, 5), (3, tokens, 32))
    found, expected = ours(image, positions, prompts), plain(image, positions.expand(3, -1, -1, -1), prompts)
    # The same names, though not the same order of registration.
    order = list(dict(plain.named_parameters()))
    parameters = dict(ours.named_parameters())
    assert sorted(order) == sorted(parameters)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=0)
    inputs = [image, positions, prompts]
    ours_gradients = torch.autograd.grad(
        found[0].square().sum() + found[1].square().sum(), [*inputs, *(parameters[name] for name in order)]
    )
    gradients = torch.autograd.grad(
        expected[0].square().sum() + expected[1].square().sum(), [*inputs, *plain.parameters()]
    )
    for a, b in zip(ours_gradients, gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-7)
