"""The image encoder: SAM's ViT with the paper's adapters and its local branch.

`ImageEncoder` keeps the parameter names of segment_anything's ``ImageEncoderViT``; with every part
off it is that network. Token maps are channels-last, ``(B, H, W, C)``.
"""

from __future__ import annotations

from fnmatch import fnmatch

import torch
from segment_anything.modeling.common import LayerNorm2d, MLPBlock
from segment_anything.modeling.image_encoder import PatchEmbed
from torch import Tensor, nn
from torch.nn import functional as F

from lmsfe_sam.model.encoder.adapters import (
    ChannelSpatialAdapter,
    CrossBranchBalancingAdapter,
    FeatureAdapter,
    LightChannelSpatialAdapter,
    PositionAdapter,
)
from lmsfe_sam.model.encoder.backbone import PLAIN, zero_conv
from lmsfe_sam.model.encoder.local_encoder import LocalMultiScaleEncoder
from lmsfe_sam.model.presets import Preset

PATCH_SIZE = 16


class Attention(nn.Module):
    """SAM's multi-head attention with decomposed relative positions; ``(B, H, W, C)`` to the same.

    With a window, tokens are padded late: queries, keys and values are computed for the real
    tokens, the padding gets the projection's bias as key and value (what zeros project to), and
    has no queries. The result is that of segment_anything, which pads before all this.

    Args:
        dim: channels C.
        num_heads: heads; ``C / num_heads`` channels each.
        grid_size: side of the token grid.
        window_size: side of a window in tokens, 0 for global attention.
    """

    def __init__(self, dim: int, num_heads: int, grid_size: int, window_size: int = 0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        side = window_size or grid_size
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, dim // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, dim // num_heads))

    def forward(self, x: Tensor) -> Tensor:
        """Attend within windows, or globally; ``x (B, H, W, C)``."""
        if self.window_size == 0:
            qkv = self.qkv(x)
            return self.proj(self._attend(qkv, qkv))
        return self.proj(self._attend_in_windows(F.linear(x, self.qkv.weight)))

    def _attend_in_windows(self, qkv: Tensor) -> Tensor:
        """Attend in full windows and, apart from these, in those that the far borders cut."""
        _, h, w, _ = qkv.shape
        s = self.window_size
        strips: list[Tensor] = []
        for strip in qkv.split([h - h % s, h % s], dim=1):
            parts: list[Tensor] = []
            for part in strip.split([w - w % s, w % s], dim=2):
                if part.numel() > 0:
                    parts.append(self._attend_in_equal_windows(part))
            if len(parts) > 0:
                strips.append(torch.cat(parts, dim=2))
        return torch.cat(strips, dim=1)

    def _attend_in_equal_windows(self, qkv: Tensor) -> Tensor:
        b, h, w, c3 = qkv.shape
        s = self.window_size
        real_h, real_w = min(h, s), min(w, s)
        rows, columns = h // real_h, w // real_w
        windows = qkv.reshape(b, rows, real_h, columns, real_w, c3).permute(0, 1, 3, 2, 4, 5).flatten(0, 2)
        padded = F.pad(windows, (0, 0, 0, s - real_w, 0, s - real_h)) + self.qkv.bias
        y = self._attend(padded[:, :real_h, :real_w], padded)
        y = y.reshape(b, rows, columns, real_h, real_w, c3 // 3)
        return y.permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c3 // 3)

    def _attend(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Let the queries of ``(B, h, w, 3C)`` attend to the keys and values of ``(B, H, W, 3C)``."""
        b, h, w, c3 = queries.shape
        shape = [b, -1, 3, self.num_heads, c3 // 3 // self.num_heads]
        q = queries.reshape(shape)[:, :, 0].transpose(1, 2)
        k, v = keys.reshape(shape)[:, :, 1:].permute(2, 0, 3, 1, 4).unbind(0)
        grid = q.reshape(b, self.num_heads, h, w, -1)
        rel_h = torch.einsum("bnhwc,hkc->bnhwk", grid, _relative(self.rel_pos_h, h)).flatten(2, 3)
        rel_w = torch.einsum("bnhwc,wkc->bnhwk", grid, _relative(self.rel_pos_w, w)).flatten(2, 3)
        one_hot = _rows_and_columns(keys.shape[1], keys.shape[2], k).expand(b, self.num_heads, -1, -1)
        q = torch.cat([q * q.shape[-1] ** -0.5, rel_h.to(q.dtype), rel_w.to(q.dtype)], dim=-1)
        k = torch.cat([k, one_hot], dim=-1)
        y = F.scaled_dot_product_attention(q, k, F.pad(v, (0, one_hot.shape[-1])), scale=1.0)
        return y[..., : v.shape[-1]].transpose(1, 2).reshape(b, h, w, c3 // 3)


def _rows_and_columns(rows: int, columns: int, like: Tensor) -> Tensor:
    """Row and column of each token of a grid, one-hot: ``(rows * columns, rows + columns)``."""
    row = torch.eye(rows, dtype=like.dtype, device=like.device)[:, None].expand(-1, columns, -1)
    column = torch.eye(columns, dtype=like.dtype, device=like.device)[None].expand(rows, -1, -1)
    return torch.cat([row, column], dim=-1).flatten(0, 1)


def _relative(table: Tensor, queries: int) -> Tensor:
    """Rows of ``table (2s - 1, C)`` for the first of s tokens against all: ``(queries, s, C)``."""
    side = (table.shape[0] + 1) // 2
    token = torch.arange(side, device=table.device)
    return table[token[:queries, None] - token[None, :] + side - 1]


class Block(nn.Module):
    """SAM's ViT block with the adapters beside its MLP; ``(B, H, W, C)`` to the same.

    The feature adapter counts half, as in SAMUS.

    Args:
        dim: channels C.
        num_heads: attention heads.
        grid_size: side of the token grid.
        window_size: side of an attention window in tokens, 0 for global attention.
        mlp_dim: hidden channels of the MLP.
        channel_spatial_adapter: section 1.3.3, or None.
        feature_adapter: eq (10) without skip, or None.
        balancing_adapter: eqs (5)-(8), or None; with one, ``forward`` needs F_l.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        grid_size: int,
        window_size: int,
        mlp_dim: int,
        channel_spatial_adapter: nn.Module | None = None,
        feature_adapter: nn.Module | None = None,
        balancing_adapter: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, grid_size, window_size)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLPBlock(embedding_dim=dim, mlp_dim=mlp_dim)
        self.channel_spatial_adapter = channel_spatial_adapter
        self.feature_adapter = feature_adapter
        self.balancing_adapter = balancing_adapter

    def forward(self, x: Tensor, local: Tensor | None) -> Tensor:
        """Attend, then apply MLP and adapters to the same normalised tokens.

        Args:
            x: tokens ``(B, H, W, C)``.
            local: F_l, the same shape, or None without a local encoder.
        """
        x = x + self.attn(self.norm1(x))
        normed = self.norm2(x)
        x = x + self.mlp(normed)
        if self.channel_spatial_adapter is not None:
            x = x + self.channel_spatial_adapter(normed)
        if self.feature_adapter is not None:
            x = x + 0.5 * self.feature_adapter(normed)
        if self.balancing_adapter is not None:
            assert local is not None
            x = x + self.balancing_adapter(normed, local)
        return x


class ImageEncoder(nn.Module):
    """SAM's ViT encoder with local branch and adapters.

    Args:
        preset: sizes and options.
        image_size: side of the input in pixels, a multiple of 16.
        local_encoder, mhpm, adapters, balancing_adapter: the columns of table 5.
        position_norm, position_mode: see `PositionAdapter`.
        backbone: of the local encoder, see `LocalMultiScaleEncoder`.

    What ``preset.frozen`` names is built with ``requires_grad`` off.
    """

    def __init__(
        self,
        preset: Preset,
        image_size: int,
        local_encoder: bool = True,
        mhpm: bool = True,
        adapters: bool = True,
        balancing_adapter: bool = True,
        position_norm: str = "layer",
        position_mode: str = "add",
        backbone: str = PLAIN,
    ) -> None:
        super().__init__()
        dim = preset.embed_dim
        hidden = int(dim * preset.adapter_ratio)
        grid = image_size // PATCH_SIZE
        balanced = local_encoder and balancing_adapter
        channel_spatial = (
            LightChannelSpatialAdapter if preset.light_channel_spatial else ChannelSpatialAdapter
        )

        self.grid_size = grid
        self.patch_embed = PatchEmbed((PATCH_SIZE, PATCH_SIZE), (PATCH_SIZE, PATCH_SIZE), embed_dim=dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.position_adapter = (
            PositionAdapter(dim, preset.position_source, grid, position_norm, position_mode)
            if adapters
            else None
        )
        self.feature_adapter = FeatureAdapter(dim, hidden, skip=True) if adapters else None
        self.local_encoder = (
            LocalMultiScaleEncoder(
                preset.local_widths,
                preset.local_blocks,
                preset.local_hidden,
                dim,
                mhpm,
                backbone,
                image_size,
            )
            if local_encoder
            else None
        )
        self.local_to_neck = (
            zero_conv(dim, dim) if local_encoder and (preset.local_to_neck or not balancing_adapter) else None
        )
        self.blocks = nn.ModuleList()
        for i in range(preset.depth):
            is_global = i in preset.global_blocks
            self.blocks.append(
                Block(
                    dim,
                    preset.num_heads,
                    grid,
                    0 if is_global else preset.window_size,
                    int(preset.mlp_ratio * dim),
                    channel_spatial(dim, hidden) if adapters else None,
                    FeatureAdapter(dim, hidden, skip=False) if adapters and is_global else None,
                    CrossBranchBalancingAdapter(dim, hidden) if balanced and is_global else None,
                )
            )
        self.neck = nn.Sequential(
            nn.Conv2d(dim, preset.decoder_dim, 1, bias=False),
            LayerNorm2d(preset.decoder_dim),
            nn.Conv2d(preset.decoder_dim, preset.decoder_dim, 3, padding=1, bias=False),
            LayerNorm2d(preset.decoder_dim),
        )
        self._freeze(preset.frozen)

    def _freeze(self, names: tuple[str, ...]) -> None:
        for name, parameter in self.named_parameters():
            if any(fnmatch(name, n) or fnmatch(name, f"{n}.*") for n in names):
                parameter.requires_grad_(False)

    def skip_widths(self) -> tuple[int, int, int] | None:
        """Channels of the local features at 1/2, 1/4 and 1/8; None without a local encoder."""
        return None if self.local_encoder is None else self.local_encoder.stages.widths[:3]

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode ``image (B, 3, S, S)``.

        Returns:
            The embedding ``(B, decoder_dim, S/16, S/16)`` and the local features at 1/2, 1/4 and
            1/8 of the input (an empty list without a local encoder).
        """
        x = self.patch_embed(image)
        x = x + self._positions()
        if self.feature_adapter is not None:
            x = self.feature_adapter(x)
        local: Tensor | None = None
        skips: list[Tensor] = []
        if self.local_encoder is not None:
            features, scales = self.local_encoder(image, [self.grid_size, self.grid_size])
            local = features.permute(0, 2, 3, 1)
            skips = scales[:3]
        for block in self.blocks:
            x = block(x, local)
        x = x.permute(0, 3, 1, 2)
        if self.local_to_neck is not None:
            assert local is not None
            x = x + self.local_to_neck(local.permute(0, 3, 1, 2))
        return self.neck(x), skips

    def _positions(self) -> Tensor:
        if self.position_adapter is not None:
            return self.position_adapter(self.pos_embed)
        return self.pos_embed
