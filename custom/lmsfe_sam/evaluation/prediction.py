"""Predict masks from prompts in the pixels of the true mask, on images that were encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from lmsfe_sam.model.promptable import PromptableNetwork
from lmsfe_sam.predict.decoding import decode_prompts
from lmsfe_sam.prompts.coordinates import scale_boxes, scale_points
from lmsfe_sam.prompts.prompt import Prompts
from lmsfe_sam.prompts.simulate import corrective_click, first_click

Mask = NDArray[np.bool_]
Size = tuple[int, int]

Click = tuple[int, int, int]
"""Pixel x and y of the true mask; label 1 for lesion and 0 for background."""


class Prediction(NamedTuple):
    """The network's prediction for one prompt; the IoU is NaN where it predicts none."""

    mask: Mask
    predicted_iou: float


def predict_without_prompt(
    network: PromptableNetwork, embedding: Any, sizes: Sequence[Size]
) -> list[Prediction]:
    """Predict without a prompt on each of B images.

    Args:
        network: the network.
        embedding: of the B images.
        sizes: height and width of each image's mask.
    """
    logits, iou = decode_prompts(network, embedding, Prompts())
    return [Prediction(_threshold(logits[i, 0], size), float(iou[i, 0])) for i, size in enumerate(sizes)]


def predict_boxes(
    network: PromptableNetwork, embedding: Any, sizes: Sequence[Size], boxes: NDArray[np.float64]
) -> list[list[Prediction]]:
    """Predict from N boxes on each of B images, all in one pass of the decoder.

    Args:
        network: the network.
        embedding: of the B images.
        sizes: height and width of each image's mask.
        boxes: (B,N,4) in the pixels of those masks.
    """
    square = (network.image_size, network.image_size)
    scaled = np.stack([scale_boxes(own, size, square) for own, size in zip(boxes, sizes, strict=True)])
    logits, iou = decode_prompts(network, embedding, Prompts(boxes=_tensor(scaled, embedding)))
    return [
        [Prediction(_threshold(logits[i, n], size), float(iou[i, n])) for n in range(boxes.shape[1])]
        for i, size in enumerate(sizes)
    ]


def predict_clicks(
    network: PromptableNetwork, embedding: Any, truths: Sequence[Mask], count: int
) -> tuple[list[list[Prediction]], list[list[Click]]]:
    """Click on each of B images ``count`` times, each click in the largest error of the prediction before.

    The logits of each prediction are the next one's mask prompt. An image whose prediction is perfect gets no
    more clicks and keeps it.

    Args:
        network: decodes one object an image.
        embedding: of the B images.
        truths: (H,W) bool, one an image, each of a size of its own.
        count: clicks an image.

    Returns:
        For each image the predictions after 1..count clicks, and the clicks, of which there may be fewer.
    """
    square = (network.image_size, network.image_size)
    clicks = [[(*first_click(truth), 1)] for truth in truths]
    predictions: list[list[Prediction]] = [[] for _ in truths]
    low_res: Tensor | None = None
    for step in range(1, count + 1):
        points = np.full((len(truths), 1, step, 2), np.nan)
        labels = np.full((len(truths), 1, step), -1)
        for i, (truth, own) in enumerate(zip(truths, clicks, strict=True)):
            size = (truth.shape[0], truth.shape[1])
            points[i, 0, : len(own)] = scale_points([(x, y) for x, y, _ in own], size, square)
            labels[i, 0, : len(own)] = [label for _, _, label in own]
        logits, iou, low_res = decode_prompts(
            network,
            embedding,
            Prompts(None, _tensor(points, embedding), _tensor(labels, embedding), low_res),
            return_low_res=True,
        )
        for i, truth in enumerate(truths):
            if len(clicks[i]) < step:
                predictions[i].append(predictions[i][-1])
                continue
            size = (truth.shape[0], truth.shape[1])
            prediction = Prediction(_threshold(logits[i, 0], size), float(iou[i, 0]))
            predictions[i].append(prediction)
            correction = corrective_click(truth, prediction.mask)
            if step < count and correction is not None:
                (x, y), label = correction
                clicks[i].append((x, y, label))
    return predictions, clicks


def _tensor(values: NDArray[Any], embedding: Any) -> Tensor:
    features: Tensor = embedding.features
    kind = torch.float32 if values.dtype.kind == "f" else torch.int64
    return torch.as_tensor(values, dtype=kind, device=features.device)


def _threshold(logits: Tensor, size: Size) -> Mask:
    """Return the mask of ``size`` from logits (H,W): bilinear where the sizes differ, above 0."""
    if tuple(logits.shape) != size:
        logits = functional.interpolate(
            logits[None, None].float(), size=size, mode="bilinear", align_corners=False
        )[0, 0]
    return (logits > 0).cpu().numpy()
