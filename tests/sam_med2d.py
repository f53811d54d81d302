"""SAM and SAM-Med2D written plainly, from segment_anything's own classes, for any sizes.

SAM-Med2D (Cheng et al., 2023) is SAM's ViT-B at 256 x 256 with an adapter beside the MLP of each block.
Here it pads windows before the projections and convolves by `nn.Conv2d` and `nn.ConvTranspose2d`, as its
authors do; parameter names are those of their checkpoint.
"""

from __future__ import annotations

import functools

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.image_encoder import Block, window_partition, window_unpartition
from torch import Tensor, nn

from lmsfe_sam.model.presets import Preset


class Adapter(nn.Module):
    """Channel gate, strided convolution, transposed convolution, skip, norm; ``(B, H, W, C)``."""

    def __init__(self, dim: int, ratio: float) -> None:
        super().__init__()
        hidden = int(dim * ratio)
        self.norm = nn.LayerNorm(dim)
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.channel = nn.Sequential(
            nn.Linear(dim, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, dim, bias=False), nn.Sigmoid()
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(dim, dim, 3, stride=2, padding=1, bias=False),
            nn.ReLU(),
            nn.ConvTranspose2d(dim, dim, 4, stride=2, padding=1, bias=False),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2)
        gate = self.channel(self.avg_pool(x).flatten(1))
        x = x + self.spatial(gate[:, :, None, None] * x)
        return self.norm(x.permute(0, 2, 3, 1))


class AdaptedBlock(Block):
    """segment_anything's block with SAM-Med2D's adapter beside the MLP."""

    def __init__(self, dim: int, ratio: float, **options: object) -> None:
        super().__init__(dim, **options)
        self.Adapter = Adapter(dim, ratio)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.norm1(x)
        height, width = x.shape[1:3]
        if self.window_size > 0:
            x, padded = window_partition(x, self.window_size)
        x = self.attn(x)
        if self.window_size > 0:
            x = window_unpartition(x, self.window_size, padded, (height, width))
        x = shortcut + x
        normed = self.norm2(x)
        return x + self.mlp(normed) + self.Adapter(normed)


def build_sam(preset: Preset, image_size: int, med2d: bool = False) -> Sam:
    """SAM, or SAM-Med2D, in the sizes of a preset; its ``state_dict()`` is that network's checkpoint."""
    grid = image_size // 16
    norm = functools.partial(nn.LayerNorm, eps=1e-6)
    encoder = ImageEncoderViT(
        img_size=image_size,
        embed_dim=preset.embed_dim,
        depth=preset.depth,
        num_heads=preset.num_heads,
        mlp_ratio=preset.mlp_ratio,
        norm_layer=norm,
        use_rel_pos=True,
        window_size=preset.window_size,
        global_attn_indexes=preset.global_blocks,
        out_chans=preset.decoder_dim,
    )
    if med2d:
        encoder.blocks = nn.ModuleList(
            AdaptedBlock(
                preset.embed_dim,
                preset.adapter_ratio,
                num_heads=preset.num_heads,
                mlp_ratio=preset.mlp_ratio,
                norm_layer=norm,
                use_rel_pos=True,
                window_size=0 if i in preset.global_blocks else preset.window_size,
                input_size=(grid, grid),
            )
            for i in range(preset.depth)
        )
    dim = preset.decoder_dim
    decoder = MaskDecoder(
        transformer_dim=dim,
        transformer=TwoWayTransformer(
            depth=2, embedding_dim=dim, mlp_dim=preset.decoder_mlp_dim, num_heads=8
        ),
        iou_head_hidden_dim=dim,
    )
    prompt_encoder = PromptEncoder(dim, (grid, grid), (image_size, image_size), 16)
    return Sam(encoder, prompt_encoder, decoder).eval()


def randomise(module: nn.Module, seed: int, gain: float = 0.5) -> nn.Module:
    """Give every parameter a random value of a size that keeps activations of order one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise * gain / parameter[0].numel() ** 0.5)
            else:
                parameter.add_(noise * 0.1)
    return module
