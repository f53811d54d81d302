"""Predict masks from prompts in the pixels of the true mask, on images that were encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmsfe_sam.baselines.preprocessing import Frame
from lmsfe_sam.model.promptable import PromptableNetwork
from lmsfe_sam.predict.decoding import decode_prompts
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


def full_input(network: PromptableNetwork, size: Size) -> Frame:
    """Return the frame of an image that was resized to the network's square, for a mask of ``size``."""
    side = network.image_size
    return Frame(size, (side, side), (0, 0), side)


def predict_without_prompt(
    network: PromptableNetwork, embedding: Any, frames: Sequence[Frame]
) -> list[Prediction]:
    """Predict without a prompt on each of B images.

    Args:
        network: the network.
        embedding: of the B images.
        frames: where each image lies in the input; ``original`` is the size of its mask.
    """
    decoded = _decode(network, embedding, Prompts())
    return [decoded.prediction(i, 0, frame) for i, frame in enumerate(frames)]


def predict_boxes(
    network: PromptableNetwork, embedding: Any, frames: Sequence[Frame], boxes: NDArray[np.float64]
) -> list[list[Prediction]]:
    """Predict from N boxes on each of B images, all in one pass of the decoder.

    Args:
        network: the network.
        embedding: of the B images.
        frames: as `predict_without_prompt` takes them.
        boxes: (B,N,4) in the pixels of the masks.
    """
    moved = np.stack([frame.boxes(own) for own, frame in zip(boxes, frames, strict=True)])
    decoded = _decode(network, embedding, Prompts(boxes=_tensor(moved, embedding)))
    return [
        [decoded.prediction(i, n, frame) for n in range(boxes.shape[1])] for i, frame in enumerate(frames)
    ]


def predict_clicks(
    network: PromptableNetwork,
    embedding: Any,
    truths: Sequence[Mask],
    count: int,
    frames: Sequence[Frame] | None = None,
) -> tuple[list[list[Prediction]], list[list[Click]]]:
    """Click on each of B images ``count`` times, each click in the largest error of the prediction before.

    The logits of each prediction are the next one's mask prompt. An image whose prediction is perfect gets no
    more clicks and keeps it.

    Args:
        network: decodes one object an image.
        embedding: of the B images.
        truths: (H,W) bool, one an image, each of a size of its own.
        count: clicks an image.
        frames: as `predict_without_prompt` takes them; None where each image fills the input.

    Returns:
        For each image the predictions after 1..count clicks, and the clicks, of which there may be fewer.
    """
    if frames is None:
        frames = [full_input(network, (truth.shape[0], truth.shape[1])) for truth in truths]
    clicks = [[(*first_click(truth), 1)] for truth in truths]
    predictions: list[list[Prediction]] = [[] for _ in truths]
    low_res: Tensor | None = None
    for step in range(1, count + 1):
        points = np.full((len(truths), 1, step, 2), np.nan)
        labels = np.full((len(truths), 1, step), -1)
        for i, (frame, own) in enumerate(zip(frames, clicks, strict=True)):
            points[i, 0, : len(own)] = frame.points([(x, y) for x, y, _ in own])
            labels[i, 0, : len(own)] = [label for _, _, label in own]
        decoded = _decode(
            network,
            embedding,
            Prompts(None, _tensor(points, embedding), _tensor(labels, embedding), low_res),
        )
        low_res = decoded.low_res
        for i, truth in enumerate(truths):
            if len(clicks[i]) < step:
                predictions[i].append(predictions[i][-1])
                continue
            prediction = decoded.prediction(i, 0, frames[i])
            predictions[i].append(prediction)
            correction = corrective_click(truth, prediction.mask)
            if step < count and correction is not None:
                (x, y), label = correction
                clicks[i].append((x, y, label))
    return predictions, clicks


class _Decoded(NamedTuple):
    """What `decode_prompts` returns of N objects in each of B images."""

    logits: Tensor
    iou: Tensor
    low_res: Tensor

    def prediction(self, image: int, obj: int, frame: Frame) -> Prediction:
        """Return one object's mask, of the size that ``frame`` states, and its predicted IoU."""
        logits, low_res = (maps[image, obj][None, None].float() for maps in (self.logits, self.low_res))
        mask = frame.masks(logits, low_res)[0, 0].cpu().numpy()
        return Prediction(mask, float(self.iou[image, obj]))


def _decode(network: PromptableNetwork, embedding: Any, prompts: Prompts) -> _Decoded:
    return _Decoded(*decode_prompts(network, embedding, prompts, return_low_res=True))


def _tensor(values: NDArray[Any], embedding: Any) -> Tensor:
    features: Tensor = embedding.features
    kind = torch.float32 if values.dtype.kind == "f" else torch.int64
    return torch.as_tensor(values, dtype=kind, device=features.device)
