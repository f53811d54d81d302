"""The prompts of a validation, and what each should segment, made from a batch of label maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lmsfe_sam.prompts.prompt import Prompts
from lmsfe_sam.prompts.sampling import PADDING
from lmsfe_sam.prompts.simulate import first_click, tight_box


def largest_objects(labels: Tensor) -> Tensor:
    """Return the largest object of each label map ``(B,1,H,W)``, 0 and 1, the lower number among equals."""
    if labels.max() <= 1:
        return (labels > 0).float()
    areas = torch.stack([torch.bincount(one.flatten().long(), minlength=256)[1:] for one in labels])
    return (labels == areas.argmax(dim=1).view(-1, 1, 1, 1) + 1).float() * (labels > 0)


def mode_targets(
    labels: Tensor, largest: Tensor, modes: Sequence[str], unprompted: Sequence[bool] | Tensor | None = None
) -> Tensor:
    """Return what each mode should segment: ``(B,M,H,W)``, 0 and 1.

    Args:
        labels: label maps ``(B,1,H,W)``.
        largest: their `largest_objects`.
        modes: some of ``box``, ``point`` and ``none``.
        unprompted: for each image, whether it may be segmented without a prompt. Default: all.
    """
    union = (labels > 0).float()
    if unprompted is not None:
        union = union * torch.as_tensor(unprompted).to(union).view(-1, 1, 1, 1)
    return torch.cat([union if mode == "none" else largest for mode in modes], dim=1)


def mode_prompts(target: Tensor, modes: Sequence[str]) -> Prompts:
    """Return one object an image and mode: boxes (B,M,4), points (B,M,1,2) and their labels."""
    if set(modes) == {"none"}:
        return Prompts()
    truths = (target[:, 0] > 0).cpu().numpy()
    boxes = torch.full((len(truths), len(modes), 4), torch.nan)
    points = torch.zeros(len(truths), len(modes), 1, 2)
    labels = torch.full((len(truths), len(modes), 1), PADDING)
    for b, truth in enumerate(truths):
        for m, mode in enumerate(modes):
            if mode == "box":
                boxes[b, m] = torch.as_tensor(tight_box(truth))
            elif mode == "point":
                points[b, m, 0] = torch.tensor(first_click(truth))
                labels[b, m, 0] = 1
    device = target.device
    return Prompts(boxes=boxes.to(device), points=points.to(device), point_labels=labels.to(device))
