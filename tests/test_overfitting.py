"""The default network, its loss and its prompts learn four images by heart."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from lmsfe_sam import LMSFESAM
from lmsfe_sam.data.phantoms.rendering import render_phantom
from lmsfe_sam.evaluation.protocol import inscribed_ellipse
from lmsfe_sam.predict.preprocessing import prepare
from lmsfe_sam.prompts.simulate import tight_box
from lmsfe_sam.training.losses import PromptedLoss

STEPS = 45
RATE = 2e-3


def dice(predicted: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Of each image, ``(B, 1, H, W)`` bool."""
    both = (predicted & truth).sum(dim=(1, 2, 3))
    return 2 * both / (predicted.sum(dim=(1, 2, 3)) + truth.sum(dim=(1, 2, 3)))


def test_four_phantoms_with_boxes(bundle_root: Path) -> None:
    pictures = [render_phantom(seed, (256, 256)) for seed in range(4)]
    images = torch.stack([prepare(image, 256) for image, _ in pictures])
    masks = [mask.astype(bool) for _, mask in pictures]
    truth = torch.stack([torch.from_numpy(mask) for mask in masks])[:, None]
    tight = [tight_box(mask) for mask in masks]
    boxes = torch.stack([torch.from_numpy(box) for box in tight]).float()[:, None]
    ellipses = torch.stack([torch.from_numpy(inscribed_ellipse(box, (256, 256))) for box in tight])[:, None]

    config = json.loads((bundle_root / "configs" / "train.json").read_text())["train"]["loss"]
    loss_function = PromptedLoss(**{name: value for name, value in config.items() if name != "_target_"})
    torch.manual_seed(0)
    model = LMSFESAM("vit_t").train()
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    losses = []
    for _ in range(STEPS):
        tokens = model.decode_tokens(model.encode(images), boxes=boxes)
        loss = loss_function(tokens, truth.float())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())

    model.eval()
    with torch.no_grad():
        logits, iou = model(images, boxes=boxes)
    learned = dice(logits > 0, truth)
    assert losses[-1] < 0.2 * losses[0]
    assert learned.mean() > 0.95, learned
    assert learned.mean() > dice(ellipses, truth).mean() + 0.02  # more than the box gives away
    assert (iou[:, 0] - learned / (2 - learned)).abs().max() < 0.15  # Dice d is IoU d / (2 - d)
