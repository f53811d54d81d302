"""SAM's prompt encoder and mask decoder for batches of images, and a finer mask head.

Both subclasses keep segment_anything's parameters and arithmetic; what they change is the shape of
a batch (objects of several images at once), and that TorchScript can compile what runs without a
prompt.
"""

from __future__ import annotations

import math

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom
from torch import Tensor, nn
from torch.nn import functional as F

from lmsfe_sam.model.dense_prompts import CHANNELS
from lmsfe_sam.model.two_way import FewTokenTransformer


class PointPositions(PositionEmbeddingRandom):
    """SAM's random Fourier positions, with a grid that TorchScript can compile."""

    def forward(self, size: tuple[int, int]) -> Tensor:
        """Return the encoding of a grid's pixel centres, ``(C, H, W)``."""
        h, w = size
        matrix = self.positional_encoding_gaussian_matrix
        y = (torch.arange(h, device=matrix.device, dtype=matrix.dtype) + 0.5) / h
        x = (torch.arange(w, device=matrix.device, dtype=matrix.dtype) + 0.5) / w
        grid = torch.stack([x[None, :].expand(h, w), y[:, None].expand(h, w)], dim=-1)
        angles = 2 * math.pi * ((2 * grid - 1) @ matrix)
        return torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1).permute(2, 0, 1)


class ObjectPromptEncoder(PromptEncoder):
    """SAM's prompt encoder for objects that all have the same number of tokens.

    Args:
        embed_dim: channels C of a token.
        grid_size: side g of the token grid.
        image_size: side of the input in pixels, which the prompts' coordinates count.
    """

    def __init__(self, embed_dim: int, grid_size: int, image_size: int) -> None:
        super().__init__(embed_dim, (grid_size, grid_size), (image_size, image_size), mask_in_chans=16)
        self.pe_layer = PointPositions(embed_dim // 2)

    def get_dense_pe(self) -> Tensor:
        """Return the grid's positions, ``(1, C, g, g)``."""
        return self.pe_layer(self.image_embedding_size)[None]

    @torch.jit.unused
    def forward(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Embed the prompts of M objects; see segment_anything.

        Args:
            points: coordinates ``(M, K, 2)`` in pixels of the input, x before y, and labels ``(M, K)``.
            boxes: ``(M, 4)``: x0, y0, x1, y1 in pixels of the input.
            masks: logits ``(M, 1, 4g, 4g)``.

        Returns:
            Tokens ``(M, T, C)`` and the dense embedding ``(M, C, g, g)``.
        """
        return super().forward(points, boxes, masks)


class ObjectMaskDecoder(MaskDecoder):
    """SAM's mask decoder for M objects, each with its own image embedding.

    Args:
        dim: channels of the embeddings.
        mlp_dim: hidden channels of the two-way transformer.
    """

    def __init__(self, dim: int, mlp_dim: int) -> None:
        super().__init__(
            transformer_dim=dim,
            transformer=FewTokenTransformer(dim, num_heads=8, mlp_dim=mlp_dim),
            iou_head_hidden_dim=dim,
        )

    def forward(self, features: Tensor, positions: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the two-way transformer.

        Args:
            features: ``(M, C, g, g)``, image embedding plus dense prompts.
            positions: ``(1, C, g, g)``.
            sparse: ``(M, T, C)``, the prompts' tokens.

        Returns:
            Image features ``(M, C, g, g)``, one vector per mask token ``(M, 4, C/8)``, and the
            predicted IoU ``(M, 4)``.
        """
        m, c, h, w = features.shape
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight], dim=0)
        tokens = torch.cat([output_tokens[None].expand(m, -1, -1), sparse], dim=1)
        hs, src = self.transformer(features, positions, tokens)
        vectors: list[Tensor] = []
        for i, mlp in enumerate(self.output_hypernetworks_mlps):
            vectors.append(mlp(hs[:, 1 + i]))
        iou = self.iou_prediction_head(hs[:, 0])
        return src.transpose(1, 2).reshape(m, c, h, w), torch.stack(vectors, dim=1), iou

    def upscale_once(self, features: Tensor) -> Tensor:
        """SAM's first transposed convolution, ``(M, C, g, g)`` to ``(M, C/4, 2g, 2g)``."""
        for i, layer in enumerate(self.output_upscaling):
            if i == 0:
                features = layer(features)
        return features

    def upscale_again(self, features: Tensor) -> Tensor:
        """The rest of SAM's upscaling, ``(M, C/4, 2g, 2g)`` to ``(M, C/8, 4g, 4g)``."""
        for i, layer in enumerate(self.output_upscaling):
            if i > 0:
                features = layer(features)
        return features


class PromptedContext(nn.Module):
    """Convolutions over an object's surroundings at 1/8 of the input, which see its drawn prompts.

    SAM's decoder knows a prompt and the image's content together at 1/16 alone. Here, with a field of
    view of some 120 of 256 pixels, a border can be sought in the light of the whole box. The last
    convolution starts at zero, so that a network without this part goes on from where it was.

    Args:
        channels: of the features, which come back with the same shape.
        extra: channels of the drawn prompts.
        width: channels within.
    """

    def __init__(self, channels: int, extra: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_convolution(channels + extra, width),
            *_convolution(width, width, dilation=2),
            *_convolution(width, width, dilation=4),
        )
        self.out = nn.Conv2d(width, channels, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor, maps: Tensor | None) -> Tensor:
        """Add what the surroundings tell to ``features (M, channels, H, W)``.

        Args:
            features: at 1/8 of the input.
            maps: drawn prompts ``(M, extra, 4H, 4W)``; None where the network draws none.
        """
        x = features
        if maps is not None:
            x = torch.cat([x, F.avg_pool2d(maps.to(x.dtype), 4)], dim=1)
        return features + self.out(self.layers(x))


class FineMaskHead(nn.Module):
    """Joins SAM's upscaling and goes on from it to half the input's size, with skips from the local encoder.

    Convolutions at 1/8, 1/4 and 1/2 of the input see the skips and, once more, the drawn prompts.

    Args:
        dim: channels of the decoder; the head returns ``dim / 8``.
        skip_widths: channels of the skips at 1/2, 1/4 and 1/8; None without a local encoder.
        prompts: drawn prompts will be given.
        context_width: channels of the convolutions at 1/8; 0 for none.
    """

    def __init__(
        self, dim: int, skip_widths: tuple[int, int, int] | None, prompts: bool, context_width: int = 64
    ) -> None:
        super().__init__()
        fine_width, quarter_width = dim // 8, dim // 4
        outputs = (fine_width, quarter_width, quarter_width)
        self.skip_projections = (
            None
            if skip_widths is None
            else nn.ModuleList(nn.Conv2d(i, o, 1) for i, o in zip(skip_widths, outputs, strict=True))
        )
        extra = CHANNELS if prompts else 0
        joined = 0 if skip_widths is None else quarter_width
        self.context = PromptedContext(quarter_width, extra, context_width) if context_width else None
        self.refine_quarter = _refinement(fine_width + joined + extra, quarter_width)
        self.to_half = nn.Conv2d(quarter_width, fine_width, 1)
        self.refine_half = _refinement(fine_width + extra, fine_width)
        self.out = nn.Conv2d(fine_width, fine_width, 1)

    def project(self, skips: list[Tensor]) -> list[Tensor]:
        """Bring an image's skips to the head's widths: once an image, whatever its prompts.

        Args:
            skips: of the local encoder, ``(B, C, H, W)`` each, at 1/2, 1/4 and 1/8 of the input.

        Returns:
            The same with ``dim / 8``, ``dim / 4`` and ``dim / 4`` channels; no skips, where there is no
            local encoder.
        """
        projected: list[Tensor] = []
        if self.skip_projections is not None:
            for i, projection in enumerate(self.skip_projections):
                projected.append(projection(skips[i]))
        return projected

    def join(self, features: Tensor, skips: list[Tensor], maps: Tensor | None) -> Tensor:
        """Bring the skip at 1/8 and the surroundings into SAM's upscaling, as SAM 2's decoder does.

        Args:
            features: ``(M, dim / 4, 2g, 2g)``, of `ObjectMaskDecoder.upscale_once`.
            skips: projected skips at 1/2, 1/4 and 1/8, ``(M, ...)`` each, or none.
            maps: drawn prompts ``(M, CHANNELS, 8g, 8g)``; None where the network draws none.
        """
        if len(skips) > 0:
            features = features + skips[2]
        if self.context is not None:
            features = self.context(features, maps)
        return features

    def forward(self, upscaled: Tensor, skips: list[Tensor], maps: Tensor | None) -> Tensor:
        """Return mask features ``(M, dim / 8, 8g, 8g)``.

        Args:
            upscaled: ``(M, dim / 8, 4g, 4g)``, of `ObjectMaskDecoder.upscale_again`.
            skips: as for `join`.
            maps: as for `join`.
        """
        if maps is not None:  # single precision in one part would spread to all of them under autocast
            maps = maps.to(upscaled.dtype)
        parts = [upscaled]
        if len(skips) > 0:
            parts.append(skips[1])
        if maps is not None:
            parts.append(F.avg_pool2d(maps, 2))
        quarter = self.refine_quarter(torch.cat(parts, dim=1))
        half = F.interpolate(self.to_half(quarter), scale_factor=2.0, mode="bilinear", align_corners=False)
        if len(skips) > 0:
            half = half + skips[0]
        if maps is not None:
            half = torch.cat([half, maps], dim=1)
        return self.out(self.refine_half(half))


def _convolution(inputs: int, outputs: int, dilation: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=False),
        nn.GroupNorm(4, outputs),
        nn.ReLU(inplace=True),
    ]


def _refinement(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(*_convolution(inputs, outputs), *_convolution(outputs, outputs))
