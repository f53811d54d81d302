"""SAM's mask decoder for batches of images, a fine head that refines its masks, and the choice among them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from segment_anything.modeling import MaskDecoder
from torch import Tensor, nn
from torch.nn import functional as F

from lmsfe_sam.model.prompt_encoder import CHANNELS
from lmsfe_sam.model.two_way import FewTokenTransformer

MASK_CHOICES = ("sam", "first", "best")
"""Which mask an object gets where ``multimask_output`` is None: see `choose_masks`."""


class DecodedTokens(NamedTuple):
    """All four mask tokens of every object, before one is chosen.

    Attributes:
        masks: logits ``(B, N, 4, s, s)``; s is 4 x the grid, or 8 x with the fine head.
        iou: predicted IoU ``(B, N, 4)``.
        lone_click: ``(B, N)``, objects whose only prompt is one click.
    """

    masks: Tensor
    iou: Tensor
    lone_click: Tensor


class PromptedContext(nn.Module):
    """Convolutions over an object's surroundings at 1/8 of the input, which see its drawn prompts.

    SAM's decoder combines the prompt with the image at 1/16 of the input only. Here, with a field of view
    of some 120 of 256 pixels, a border can be placed with the full box in view. The last convolution
    starts at zero, so that the weights of a network without this part can be trained further.

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
        """Add the features of the surroundings to ``features (M, channels, H, W)``.

        Args:
            features: at 1/8 of the input.
            maps: drawn prompts ``(M, extra, 4H, 4W)``; None where the network draws none.
        """
        x = features
        if maps is not None:
            x = torch.cat([x, F.avg_pool2d(maps.to(x.dtype), 4)], dim=1)
        return features + self.out(self.layers(x))


class FineMaskHead(nn.Module):
    """Extends SAM's upscaling to half the input's size, with skips from the local encoder.

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
        """Project an image's skips to the head's widths, once per image for all of its prompts.

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
        """Add the skip at 1/8 and the surroundings to SAM's upscaled features, as SAM 2's decoder does.

        Args:
            features: ``(M, dim / 4, 2g, 2g)``, of SAM's first transposed convolution.
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
            upscaled: ``(M, dim / 8, 4g, 4g)``, the result of SAM's upscaling.
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


class ObjectMaskDecoder(MaskDecoder):
    """SAM's mask decoder for M objects, each with its own image embedding.

    It keeps segment_anything's parameters and, without a fine head, its arithmetic.

    Args:
        dim: channels of the embeddings.
        mlp_dim: hidden channels of the two-way transformer.
        fine_head: refines SAM's upscaling, or None.
    """

    def __init__(self, dim: int, mlp_dim: int, fine_head: FineMaskHead | None = None) -> None:
        super().__init__(
            transformer_dim=dim,
            transformer=FewTokenTransformer(dim, num_heads=8, mlp_dim=mlp_dim),
            iou_head_hidden_dim=dim,
        )
        self.fine_head = fine_head

    def project_skips(self, skips: list[Tensor]) -> list[Tensor]:
        """Project an image's skips to the fine head's widths; an empty list without a fine head."""
        projected: list[Tensor] = []
        if self.fine_head is not None:
            projected = self.fine_head.project(skips)
        return projected

    def forward(
        self,
        features: Tensor,
        positions: Tensor,
        sparse: Tensor,
        dense: Tensor,
        skips: list[Tensor],
        maps: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Decode M objects.

        Args:
            features: image embeddings ``(M, C, g, g)``.
            positions: ``(1, C, g, g)``.
            sparse: the prompts' tokens ``(M, T, C)``.
            dense: addition to the image embedding, ``(M, C, g, g)`` or ``(M, C, 1, 1)``.
            skips: of `project_skips`, ``(M, ...)`` each.
            maps: drawn prompts ``(M, CHANNELS, 8g, 8g)``, or None.

        Returns:
            Logits of the four mask tokens ``(M, 4, s, s)``, s being 4g, or 8g with the fine head, and
            predicted IoU ``(M, 4)``.
        """
        m, c, h, w = features.shape
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight], dim=0)
        tokens = torch.cat([output_tokens[None].expand(m, -1, -1), sparse], dim=1)
        hs, src = self.transformer(features + dense, positions, tokens)
        vectors: list[Tensor] = []
        for i, mlp in enumerate(self.output_hypernetworks_mlps):
            vectors.append(mlp(hs[:, 1 + i]))
        upscaled = self._upscale(src.transpose(1, 2).reshape(m, c, h, w), skips, maps)
        masks = torch.bmm(torch.stack(vectors, dim=1), upscaled.flatten(2))
        size = upscaled.shape[-2:]
        return masks.reshape(m, -1, size[0], size[1]), self.iou_prediction_head(hs[:, 0])

    def _upscale(self, features: Tensor, skips: list[Tensor], maps: Tensor | None) -> Tensor:
        """Upscale ``(M, C, g, g)`` to ``(M, C/8, 4g, 4g)`` as SAM does, to 8g with the fine head."""
        for i, layer in enumerate(self.output_upscaling):
            features = layer(features)
            if i == 0 and self.fine_head is not None:
                features = self.fine_head.join(features, skips, maps)
        if self.fine_head is not None:
            features = self.fine_head(features, skips, maps)
        return features


def choose_masks(
    tokens: DecodedTokens, multimask_output: bool | None = None, choice: str = "sam"
) -> tuple[Tensor, Tensor]:
    """Choose among the mask tokens.

    Args:
        tokens: of a network with SAM's four tokens, or with a single one and no predicted IoU.
        multimask_output: True for the three behind the first, False for the first, None for ``choice``.
        choice: ``first``, the single-mask token; ``best``, that of the three with the highest predicted IoU;
            ``sam``, ``best`` for a lone click and ``first`` for everything else.

    Returns:
        Logits ``(B, N, s, s)`` and predicted IoU ``(B, N)``; ``(B, N, 3, s, s)`` and ``(B, N, 3)`` where
        ``multimask_output`` is true.
    """
    if multimask_output:
        return tokens.masks[:, :, 1:], tokens.iou[:, :, 1:]
    token = torch.zeros_like(tokens.lone_click, dtype=torch.long)
    if multimask_output is None and choice != "first":
        best = 1 + tokens.iou[:, :, 1:].argmax(dim=-1)
        token = best if choice == "best" else torch.where(tokens.lone_click, best, token)
    side = tokens.masks.shape[-1]
    masks = tokens.masks.gather(2, token[:, :, None, None, None].expand(-1, -1, 1, side, side))
    return masks[:, :, 0], tokens.iou.gather(2, token[:, :, None])[:, :, 0]


def expected_iou(logits: Tensor) -> Tensor:
    """Return the expected IoU of a mask with the true one, given the mask's own probabilities.

    Sum of the probabilities inside, over the mask's area plus the sum outside: ``(..., H, W)`` to ``(...)``.
    """
    probability, inside = logits.float().sigmoid(), logits > 0
    shared = (probability * inside).sum(dim=(-2, -1))
    union = inside.sum(dim=(-2, -1)) + probability.sum(dim=(-2, -1)) - shared
    return shared / union.clamp(min=1e-6)


def resize_logits(logits: Tensor, size: int) -> Tensor:
    """Resize logits ``(..., s, s)`` to ``(..., size, size)``: bilinearly, to half the size by 2 x 2 means."""
    if logits.shape[-1] == size:
        return logits
    flat = logits.reshape(-1, 1, *logits.shape[-2:])
    if logits.shape[-1] == 2 * size:
        flat = F.avg_pool2d(flat, 2)
    else:
        flat = F.interpolate(flat, size=[size, size], mode="bilinear", align_corners=False)
    return flat.reshape(*logits.shape[:-2], size, size)


def _convolution(inputs: int, outputs: int, dilation: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=False),
        nn.GroupNorm(4, outputs),
        nn.ReLU(inplace=True),
    ]


def _refinement(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(*_convolution(inputs, outputs), *_convolution(outputs, outputs))
