"""The loss of prompted segmentation, per object.

SAM-Med2D computes focal and Dice loss over the whole batch, so that large objects drown small ones;
here each object counts the same.
"""

from __future__ import annotations

import torch
from monai.losses import DiceLoss, FocalLoss
from torch import Tensor, nn
from torch.nn import functional as F

from lmsfe_sam.model.mask_decoder import DecodedTokens


class PromptedLoss(nn.Module):
    """Focal loss or cross-entropy, Dice, predicted-IoU error, and cross-entropy near the border.

    By default the paper's ancestors' loss, 20 x focal + Dice + IoU. The single-mask token is trained
    on every object. For a lone click, which is ambiguous, the best of the three other tokens is trained,
    too, as in SAM; the predicted IoU of every token that a user can get is compared with its true IoU.

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
        self.focal_weight = focal_weight
        self.cross_entropy_weight = cross_entropy_weight
        self.dice_weight = dice_weight
        self.iou_weight = iou_weight
        self.boundary_weight = boundary_weight
        self.boundary_width = boundary_width
        self.others_weight = others_weight

    def forward(self, tokens: DecodedTokens, target: Tensor) -> Tensor:
        """Return the mean loss of all objects.

        Args:
            tokens: of `lmsfe_sam.LMSFESAM.decode_tokens`, B images with N objects.
            target: ``(B, N, H, W)``, 0 or 1; or ``(B, 1, H, W)``, which all objects of an image mean.
        """
        n = tokens.iou.shape[1]
        maps = target.to(tokens.masks.dtype)[:, :, None]
        if self.boundary_weight:
            maps = torch.cat(
                [maps, boundary_band(maps.flatten(0, 1), self.boundary_width).view_as(maps)], dim=2
            )
        truth = maps.expand(-1, n, -1, -1, -1).flatten(0, 1)
        masks = tokens.masks.flatten(0, 1)
        iou = tokens.iou.flatten(0, 1)
        first = upsample(masks[:, :1], target.shape[-1])
        loss = self._mask_loss(first, truth)
        if iou.shape[1]:  # a network without prompts predicts no IoU
            loss = loss + self._iou_loss(iou[:, :1], first, truth[:, :1])
        lone = tokens.lone_click.flatten().nonzero()[:, 0]
        if len(lone):
            others = upsample(masks[lone, 1:], target.shape[-1])
            losses = self._several(others, truth[lone])
            several = torch.lerp(losses.min(dim=1).values, losses.mean(dim=1), self.others_weight)
            several = several + self._iou_loss(iou[lone, 1:], others, truth[lone, :1])
            loss = loss.index_add(0, lone, several)
        return loss.mean()

    def _several(self, logits: Tensor, truth: Tensor) -> Tensor:
        m, k, h, w = logits.shape
        repeated = truth[:, None].expand(-1, k, -1, -1, -1).flatten(0, 1)
        return self._mask_loss(logits.reshape(m * k, 1, h, w), repeated).reshape(m, k)

    def _mask_loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """The terms of each mask ``(M, 1, H, W)``; ``truth`` has the border's band as second channel."""
        truth, band = truth[:, :1], truth[:, 1:]
        loss = self.dice_weight * self.dice(logits, truth).mean(dim=(1, 2, 3))
        if self.focal_weight:
            loss = loss + self.focal_weight * self.focal(logits, truth).mean(dim=(1, 2, 3))
        if self.cross_entropy_weight or self.boundary_weight:
            entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
            loss = loss + self.cross_entropy_weight * entropy.mean(dim=(1, 2, 3))
            if self.boundary_weight:
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
    """Pixels within ``width`` of the border of ``truth (M, 1, H, W)``, 0 or 1."""
    return _largest(truth, width) + _largest(-truth, width)


def _largest(maps: Tensor, radius: int) -> Tensor:
    """The maximum of each pixel's square neighbourhood, along one axis after the other."""
    k = 2 * radius + 1
    along_x = F.max_pool2d(maps, (1, k), stride=1, padding=(0, radius))
    return F.max_pool2d(along_x, (k, 1), stride=1, padding=(radius, 0))
