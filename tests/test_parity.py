"""Every toggle off, the network is segment_anything's: same weights, same logits."""

from __future__ import annotations

import functools

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from lmsfe_sam import LMSFESAM, ImageEmbedding

TOLERANCE = 1e-4


def build_sam(image_size: int) -> Sam:
    """segment_anything's ViT-B, which its registry builds at 1024 only."""
    grid = image_size // 16
    encoder = ImageEncoderViT(
        img_size=image_size,
        embed_dim=768,
        depth=12,
        num_heads=12,
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=14,
        global_attn_indexes=(2, 5, 8, 11),
        out_chans=256,
    )
    decoder = MaskDecoder(
        transformer_dim=256,
        transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
    )
    return Sam(encoder, PromptEncoder(256, (grid, grid), (image_size, image_size), 16), decoder).eval()


def randomise(module: torch.nn.Module, seed: int) -> None:
    """Give every parameter a value, position tables too, small enough for logits of order one."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        scale = 0.02 if parameter.dim() > 1 else 0.1
        parameter.data = noise * scale + (parameter.data if parameter.dim() == 1 else 0)


@pytest.fixture(scope="module", params=[256, 1024])
def pair(request: pytest.FixtureRequest) -> tuple[Sam, LMSFESAM, ImageEmbedding]:
    size = request.param
    torch.manual_seed(0)
    sam = build_sam(size)
    randomise(sam, 1)
    ours = LMSFESAM(
        "vit_b", size, local_encoder=False, mhpm=False, adapters=False, balancing_adapter=False
    ).eval()
    ours.load_state_dict(sam.state_dict(), strict=False)
    missing = set(ours.state_dict()) ^ (set(sam.state_dict()) - {"pixel_mean", "pixel_std"})
    assert not missing
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        theirs, embedding = sam.image_encoder(image), ours.encode(image)
    torch.testing.assert_close(embedding.features, theirs, atol=TOLERANCE, rtol=0)
    return sam, ours, embedding


def sam_logits(sam: Sam, features: torch.Tensor, points, boxes, masks, multimask: bool):
    """What segment_anything makes of one object's prompts."""
    sparse, dense = sam.prompt_encoder(points, boxes, masks)
    return sam.mask_decoder(features, sam.prompt_encoder.get_dense_pe(), sparse, dense, multimask)


CASES = ["box", "point", "points", "box_points", "mask", "box_mask", "none"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("multimask", [False, True])
@torch.no_grad()
def test_logits_equal_segment_anything(pair, case: str, multimask: bool) -> None:
    sam, ours, embedding = pair
    size, features = ours.image_size, embedding.features
    box = torch.tensor([[0.1, 0.2, 0.7, 0.8]]) * size
    points = torch.tensor([[[0.3, 0.4], [0.9, 0.1], [0.5, 0.6]]]) * size
    labels = torch.tensor([[1, 0, 1]])
    count = {"point": 1, "points": 3, "box_points": 2}.get(case, 0)
    mask = torch.randn(1, 1, size // 4, size // 4, generator=torch.Generator().manual_seed(3))
    use_box, use_mask = "box" in case, "mask" in case
    low, iou = sam_logits(
        sam,
        features,
        (points[:, :count], labels[:, :count]) if count else None,
        box if use_box else None,
        mask if use_mask else None,
        multimask,
    )
    expected = torch.nn.functional.interpolate(low, (size, size), mode="bilinear", align_corners=False)
    logits, our_iou, our_low = ours.decode(
        embedding,
        boxes=box[None] if use_box else None,
        points=points[None, :, :count] if count else None,
        point_labels=labels[None, :, :count] if count else None,
        masks=mask if use_mask else None,
        multimask_output=multimask,
        return_low_res=True,
    )
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(logits.reshape(expected.shape), expected, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(our_low.reshape(low.shape), low, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(our_iou.reshape(iou.shape), iou, atol=TOLERANCE, rtol=0)


def test_sam_advice_is_followed(pair) -> None:
    """A lone click gets the best of three masks, everything else the single-mask token."""
    _, ours, embedding = pair
    point, label = torch.tensor([[[[100.0, 90.0]]]]), torch.tensor([[[1]]])
    with torch.no_grad():
        three, scores = ours.decode(embedding, points=point, point_labels=label, multimask_output=True)
        chosen, score = ours.decode(embedding, points=point, point_labels=label)
        best = scores[0, 0].argmax()
        torch.testing.assert_close(chosen[0, 0], three[0, 0, best])
        torch.testing.assert_close(score[0, 0], scores[0, 0, best])
        boxes = torch.tensor([[[30.0, 40, 120, 160]]])
        single, _ = ours.decode(embedding, boxes=boxes, multimask_output=False)
        advised, _ = ours.decode(embedding, boxes=boxes)
        torch.testing.assert_close(advised, single)
