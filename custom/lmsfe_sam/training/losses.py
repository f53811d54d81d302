"""The loss of prompted segmentation, per object.

SAM-Med2D computes focal and Dice loss over the whole batch, so that large objects drown small ones;
here each object counts the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from monai.losses import DiceLoss, FocalLoss
from torch import Tensor, nn
from torch.nn import functional as F

from lmsfe_sam.model.mask_decoder import DecodedTokens


class _Target(NamedTuple):
    """What M masks are compared with, each ``(M, 1, H, W)``."""

    truth: Tensor
    soft: Tensor | None
    band: Tensor | None

    def map(self, function: Callable[[Tensor], Tensor]) -> _Target:
        return _Target(function(self.truth), *(None if maps is None else function(maps) for maps in self[1:]))


class PromptedLoss(nn.Module):
    """Focal loss or cross-entropy, Dice, predicted-IoU error, and cross-entropy near the border.

    By default the paper's ancestors' loss, 20 x focal + Dice + IoU. The single-mask token is trained
    on every object. For a lone click, which is ambiguous, the best of the three other tokens is trained,
    too, as in SAM; the predicted IoU of every token that a user can get is compared with its true IoU.

    Cross-entropy, near the border too, and Dice take soft targets. Dice is then the semimetric of Wang et al.
    (2023), which is the same for targets of 0 and 1; Dice itself would be least at masks of 0 and 1 still.
    The focal loss, the true IoU and the border's place are the truth's.

    Args:
        focal_weight, cross_entropy_weight, dice_weight, iou_weight: weights of the terms.
        boundary_weight: weight of cross-entropy on the pixels within ``boundary_width`` of the border.
        boundary_width: in pixels of the target.
        others_weight: weight, 0 to 1, of the three tokens' mean loss against the best one's for a lone
            click. SAM has 0; where clicks are hardly ever ambiguous, more trains each token on every click.
    """

    def __init__(
        self,
        focal_weight: float = 20.0,
        dice_weight: float = 1.0,
        iou_weight: float = 1.0,
        cross_entropy_weight: float = 0.0,
        boundary_weight: float = 0.0,
        boundary_width: int = 3,
        others_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.focal = FocalLoss(gamma=2.0, alpha=0.25, reduction="none")
        self.dice = DiceLoss(sigmoid=True, reduction="none")
        self.soft_dice = DiceLoss(sigmoid=True, reduction="none", soft_label=True)
        self.focal_weight = focal_weight
        self.cross_entropy_weight = cross_entropy_weight
        self.dice_weight = dice_weight
        self.iou_weight = iou_weight
        self.boundary_weight = boundary_weight
        self.boundary_width = boundary_width
        self.others_weight = others_weight

    def forward(self, tokens: DecodedTokens, target: Tensor, soft: Tensor | None = None) -> Tensor:
        """Return the mean loss of all objects.

        Args:
            tokens: of `lmsfe_sam.LMSFESAM.decode_tokens`, B images with N objects.
            target: ``(B, N, H, W)``, 0 or 1; or ``(B, 1, H, W)``, which all objects of an image mean.
            soft: the same with values from 0 to 1, for the terms that take them; by default the target.
        """
        n = tokens.iou.shape[1]
        truth = target.to(tokens.masks.dtype)
        band = boundary_band(truth, self.boundary_width) if self.boundary_weight else None
        wanted = _Target(truth, soft, band).map(
            lambda maps: maps.expand(-1, n, -1, -1).flatten(0, 1).unsqueeze(1)
        )
        masks = tokens.masks.flatten(0, 1)
        iou = tokens.iou.flatten(0, 1)
        first = upsample(masks[:, :1], target.shape[-1])
        loss = self._mask_loss(first, wanted)
        if iou.shape[1]:  # a network without prompts predicts no IoU
            loss = loss + self._iou_loss(iou[:, :1], first, wanted.truth)
        lone = tokens.lone_click.flatten().nonzero()[:, 0]
        if len(lone):
            others = upsample(masks[lone, 1:], target.shape[-1])
            clicked = wanted.map(lambda maps: maps[lone])
            losses = self._several(others, clicked)
            several = torch.lerp(losses.min(dim=1).values, losses.mean(dim=1), self.others_weight)
            several = several + self._iou_loss(iou[lone, 1:], others, clicked.truth)
            loss = loss.index_add(0, lone, several)
        return loss.mean()

    def _several(self, logits: Tensor, target: _Target) -> Tensor:
        m, k, h, w = logits.shape
        repeated = target.map(lambda maps: maps.repeat_interleave(k, dim=0))
        return self._mask_loss(logits.reshape(m * k, 1, h, w), repeated).reshape(m, k)

    def _mask_loss(self, logits: Tensor, target: _Target) -> Tensor:
        """The terms of each mask ``(M, 1, H, W)``."""
        truth, soft, band = target
        dice, wanted = (self.dice, truth) if soft is None else (self.soft_dice, soft)
        loss = self.dice_weight * dice(logits, wanted).mean(dim=(1, 2, 3))
        if self.focal_weight:
            loss = loss + self.focal_weight * self.focal(logits, truth).mean(dim=(1, 2, 3))
        if self.cross_entropy_weight or band is not None:
            entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
            loss = loss + self.cross_entropy_weight * entropy.mean(dim=(1, 2, 3))
            if band is not None:
                border = (entropy * band).sum(dim=(1, 2, 3)) / band.sum(dim=(1, 2, 3)).clamp(min=1)
                loss = loss + self.boundary_weight * border
        return loss

    def _iou_loss(self, predicted: Tensor, logits: Tensor, truth: Tensor) -> Tensor:
        """Squared error of the predicted IoU, ``(M, K)`` to ``(M,)``."""
        with torch.no_grad():
            inside, wanted = logits > 0, truth > 0.5
            union = (inside | wanted).sum(dim=(2, 3)).clamp(min=1)
            true_iou = (inside & wanted).sum(dim=(2, 3)) / union
        return self.iou_weight * (predicted - true_iou).square().mean(dim=1)


def upsample(masks: Tensor, size: int) -> Tensor:
    """Bring logits ``(M, N, h, w)`` to ``(M, N, size, size)``, bilinearly."""
    return F.interpolate(masks, size=[size, size], mode="bilinear", align_corners=False)


def boundary_band(truth: Tensor, width: int) -> Tensor:
    """Pixels within ``width`` of the border of ``truth (B, N, H, W)``, 0 or 1."""
    return _largest(truth, width) + _largest(-truth, width)


def _largest(maps: Tensor, radius: int) -> Tensor:
    """The maximum of each pixel's square neighbourhood, along one axis after the other."""
    k = 2 * radius + 1
    along_x = F.max_pool2d(maps, (1, k), stride=1, padding=(0, radius))
    return F.max_pool2d(along_x, (k, 1), stride=1, padding=(radius, 0))
