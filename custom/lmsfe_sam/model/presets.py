"""The presets, one row of sizes each. What a row does not name has the default of `Preset`."""

from __future__ import annotations

from dataclasses import dataclass

from lmsfe_sam.errors import InputError

PIXEL_MEAN = (123.675, 116.28, 103.53)
"""SAM's channel means (red, green, blue) in 0..255 units."""

PIXEL_STD = (58.395, 57.12, 57.375)
"""SAM's channel standard deviations in 0..255 units."""


@dataclass(frozen=True)
class Preset:
    """Sizes and options of one network.

    Attributes:
        embed_dim: channels of a ViT token.
        depth: number of ViT blocks.
        num_heads: attention heads of a block.
        global_blocks: indices of the blocks with global attention; the others use windows.
        window_size: side of an attention window, in tokens.
        position_source: side of the position adapter's source table, in tokens (SAM's own: 64).
        mlp_ratio: hidden channels of a block's MLP, as a multiple of ``embed_dim``.
        decoder_dim: channels of the neck, the prompt encoder and the mask decoder.
        decoder_mlp_dim: hidden channels of the mask decoder's transformer.
        backbone: CNN of the local encoder: ``plain``, a network of timm by name, or both: ``plain+NAME``.
        local_widths: channels of the plain backbone's stem and its three stages.
        local_blocks: residual blocks behind the stem and behind each stage.
        local_hidden: hidden channels of the local encoder's pyramid.
        adapter_ratio: hidden channels of the adapters, as a share of ``embed_dim``.
        light_channel_spatial: depth-wise form of the channel-spatial adapter instead of SAM-Med2D's.
        local_to_neck: F_l also enters before the neck when the balancing adapters are on.
        dense_prompts: boxes, their inscribed ellipse and clicks are drawn as maps, too.
        fine_head: masks go on to half the input's size, with skips from the local encoder.
        context_width: channels of the fine head's convolutions at 1/8 of the input; 0 for none.
        iou_from_mask: the predicted IoU is the mean of SAM's and of what the mask's probabilities say.
        clicked_regions: an object of clicks alone keeps only the regions that a click inside is in.
        frozen: names of the modules and parameters of the image encoder that do not train.
    """

    embed_dim: int
    depth: int
    num_heads: int
    global_blocks: tuple[int, ...]
    window_size: int = 14
    position_source: int = 64
    mlp_ratio: float = 4.0
    decoder_dim: int = 256
    decoder_mlp_dim: int = 2048
    backbone: str = "plain"
    local_widths: tuple[int, int, int, int] = (64, 64, 128, 256)
    local_blocks: tuple[int, int, int, int] = (0, 0, 0, 0)
    local_hidden: int = 256
    adapter_ratio: float = 0.25
    light_channel_spatial: bool = False
    local_to_neck: bool = False
    dense_prompts: bool = False
    fine_head: bool = False
    context_width: int = 64
    iou_from_mask: bool = False
    clicked_regions: bool = False
    frozen: tuple[str, ...] = ()


SAM_FROZEN = (
    "patch_embed",
    "pos_embed",
    "position_adapter.source",
    "blocks.*.norm1",
    "blocks.*.attn",
    "blocks.*.norm2",
    "blocks.*.mlp",
    "neck",
)

PRESETS: dict[str, Preset] = {
    "vit_t": Preset(
        embed_dim=192,
        depth=4,
        num_heads=6,
        global_blocks=(0, 1, 2, 3),
        position_source=32,
        decoder_dim=128,
        decoder_mlp_dim=512,
        local_widths=(24, 48, 96, 192),
        local_blocks=(0, 1, 2, 2),
        mlp_ratio=3.0,
        local_hidden=80,
        light_channel_spatial=True,
        local_to_neck=True,
        dense_prompts=True,
        fine_head=True,
        iou_from_mask=True,
        clicked_regions=True,
    ),
    "vit_b": Preset(768, 12, 12, (2, 5, 8, 11), frozen=SAM_FROZEN),
    "vit_l": Preset(1024, 24, 16, (5, 11, 17, 23), frozen=SAM_FROZEN),
    "vit_h": Preset(1280, 32, 16, (7, 15, 23, 31), frozen=SAM_FROZEN),
}


def get_preset(name: str) -> Preset:
    """Return a preset's row.

    Raises:
        InputError: there is no preset of that name.
    """
    if name not in PRESETS:
        raise InputError(f"preset '{name}' is unknown: choose one of {', '.join(sorted(PRESETS))}.")
    return PRESETS[name]
