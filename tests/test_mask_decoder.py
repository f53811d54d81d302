"""The decoder for objects of several images, and the finer mask head."""

from __future__ import annotations

import pytest
import torch
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom

from lmsfe_sam.model.mask_decoder import FineMaskHead, ObjectMaskDecoder, PromptedContext
from lmsfe_sam.model.prompt_encoder import CHANNELS, PointPositions
from sam_med2d import build_sam, randomise
from tiny import SIZE, TINY


def test_positions_equal_segment_anything() -> None:
    plain = PositionEmbeddingRandom(16)
    ours = PointPositions(16)
    ours.load_state_dict(plain.state_dict())
    torch.testing.assert_close(ours((5, 9)), plain((5, 9)), atol=1e-5, rtol=0)
    clicks = torch.tensor([[[3.0, 4.0], [60.0, 1.0]]])
    torch.testing.assert_close(
        ours.forward_with_coords(clicks, (64, 64)), plain.forward_with_coords(clicks, (64, 64))
    )


def test_each_object_has_its_own_image() -> None:
    """segment_anything's decoder takes one image at a time; ours the objects of several."""
    sam = randomise(build_sam(TINY["tiny_b"], SIZE), 0, gain=1.0)
    ours = ObjectMaskDecoder(32, 48).eval()
    ours.load_state_dict(sam.mask_decoder.state_dict())
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(3, 32, 4, 4, generator=generator)
    sparse = torch.randn(3, 2, 32, generator=generator)
    positions = sam.prompt_encoder.get_dense_pe()
    with torch.no_grad():
        masks, iou = ours(features, positions, sparse, torch.zeros(1, 32, 1, 1), [], None)
        for i in range(3):
            one = slice(i, i + 1)
            expected, scores = sam.mask_decoder.predict_masks(
                features[one], positions, sparse[one], torch.zeros(1, 32, 4, 4)
            )
            torch.testing.assert_close(masks[one], expected, atol=1e-5, rtol=0)
            torch.testing.assert_close(iou[one], scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize("widths", [None, (8, 12, 16)])
@pytest.mark.parametrize("prompts", [True, False])
def test_fine_head(widths: tuple[int, int, int] | None, prompts: bool) -> None:
    head = FineMaskHead(32, widths, prompts)
    sizes = (32, 16, 8)
    skips = [] if widths is None else [torch.randn(2, w, s, s) for w, s in zip(widths, sizes, strict=True)]
    projected = head.project(skips)
    assert [tuple(p.shape) for p in projected] == (
        [] if widths is None else [(2, 4, 32, 32), (2, 8, 16, 16), (2, 8, 8, 8)]
    )
    maps = torch.rand(2, CHANNELS, 32, 32) if prompts else None
    features, upscaled = torch.randn(2, 8, 8, 8), torch.randn(2, 4, 16, 16)
    assert head.join(features, projected, maps).shape == (2, 8, 8, 8)
    assert head(upscaled, projected, maps).shape == (2, 4, 32, 32)
    randomise(head, 0)
    inputs = [features, upscaled, *skips, *([maps] if prompts else [])]
    for tensor in inputs:  # each input has its say
        tensor.requires_grad_(True)
    projected = head.project(skips)
    joined, out = head.join(features, projected, maps), head(upscaled, projected, maps)
    of_join = _used(joined, inputs)
    of_head = _used(out, inputs)
    drawn = [len(inputs) - 1] if prompts else []
    assert of_join == [0, *([] if widths is None else [4]), *drawn]
    assert of_head == [1, *([] if widths is None else [2, 3]), *drawn]


def _used(output: torch.Tensor, inputs: list[torch.Tensor]) -> list[int]:
    gradients = torch.autograd.grad(output.square().sum(), inputs, allow_unused=True)
    return [i for i, gradient in enumerate(gradients) if gradient is not None and gradient.any()]


def test_without_a_context_only_the_skip_joins() -> None:
    head = FineMaskHead(32, (8, 12, 16), True, context_width=0)
    features, skip = torch.randn(1, 8, 8, 8), torch.randn(1, 8, 8, 8)
    assert torch.equal(head.join(features, [skip, skip, skip], None), features + skip)


def test_context_starts_as_nothing_and_sees_far() -> None:
    context = PromptedContext(8, CHANNELS, 16)
    features, maps = torch.randn(1, 8, 32, 32), torch.rand(1, CHANNELS, 128, 128)
    assert torch.equal(context(features, maps), features)
    randomise(context, 0)
    for norm in (m for m in context.modules() if isinstance(m, torch.nn.GroupNorm)):
        norm.forward = lambda x: x  # a norm over the whole map sees everything
    maps.requires_grad_(True)
    seen = torch.autograd.grad(context(features, maps)[0, :, 16, 16].sum(), maps)[0].abs().sum((0, 1))
    rows = seen.any(dim=1).nonzero()[:, 0]
    assert (rows[0], rows[-1]) == (4 * (16 - 7), 4 * (16 + 8) - 1)
