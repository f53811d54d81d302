"""The prompts of one image as one array of a fixed shape, and their way through the network.

A row is an object: its box (x0, y0, x1, y1; NaN where there is none), then K clicks (x, y, label;
label -1 where there are fewer). One array travels through collation and metadata where a list of
objects would not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lmsfe_sam.prompts.coordinates import Size, scale_boxes, scale_points
from lmsfe_sam.prompts.user import ObjectPrompt

if TYPE_CHECKING:
    from lmsfe_sam.model.network import LMSFESAM, ImageEmbedding

CHUNK = 32
"""Objects decoded in one pass: enough to be fast, few enough that memory stays bounded."""


class DecodedObjects(NamedTuple):
    """The network's answer for N objects of one image.

    Attributes:
        logits: (N, S, S) at the network's input size, or (N, 3, S, S).
        iou: predicted IoU, (N,) or (N, 3).
        low_res: logits (N, h, w) to feed back as a mask prompt, or (N, 3, h, w).
    """

    logits: Tensor
    iou: Tensor
    low_res: Tensor


def pack_prompts(prompts: Sequence[ObjectPrompt]) -> np.ndarray:
    """Pack N objects into an array (N, 4 + 3 K); no object gives one unprompted row."""
    objects = list(prompts) or [ObjectPrompt()]
    clicks = max(len(prompt.points) for prompt in objects)
    boxes = np.full((len(objects), 4), np.nan)
    points = np.tile([0.0, 0.0, -1.0], (len(objects), clicks, 1))
    for row, prompt in enumerate(objects):
        if prompt.box is not None:
            boxes[row] = prompt.box
        if prompt.points:
            points[row, : len(prompt.points)] = np.column_stack([prompt.points, prompt.labels])
    return np.concatenate([boxes, points.reshape(len(objects), 3 * clicks)], axis=1)


def unpack_prompts(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return boxes (N, 4), points (N, K, 2) and labels (N, K) of a packed array."""
    clicks = packed[:, 4:].reshape(len(packed), -1, 3)
    return packed[:, :4], clicks[..., :2], clicks[..., 2]


def scale_prompts(packed: np.ndarray, from_size: Size, to_size: Size) -> np.ndarray:
    """Move packed prompts from an image of ``from_size`` (height, width) to one of ``to_size``."""
    boxes, points, labels = unpack_prompts(packed)
    clicks = np.concatenate([scale_points(points, from_size, to_size), labels[..., None]], axis=-1)
    return np.concatenate([scale_boxes(boxes, from_size, to_size), clicks.reshape(len(packed), -1)], axis=1)


@torch.no_grad()
def decode_packed(
    network: LMSFESAM,
    embedding: ImageEmbedding,
    packed: np.ndarray,
    masks: Tensor | None = None,
    multimask_output: bool | None = None,
) -> DecodedObjects:
    """Decode the packed prompts of one image, `CHUNK` objects at a time.

    Args:
        network: in evaluation mode.
        embedding: of one image.
        packed: (N, 4 + 3 K) in pixels of the network's input.
        masks: logits (N, h, w) of an earlier round, or None.
        multimask_output: as `LMSFESAM.decode` takes it.
    """
    device = embedding.features.device
    boxes, points, labels = (
        torch.from_numpy(part).float().to(device)[None] for part in unpack_prompts(packed)
    )
    parts = []
    for start in range(0, len(packed), CHUNK):
        rows = slice(start, start + CHUNK)
        parts.append(
            network.decode(
                embedding,
                boxes=boxes[:, rows],
                points=points[:, rows] if labels.shape[-1] else None,
                point_labels=labels[:, rows] if labels.shape[-1] else None,
                masks=None if masks is None else masks[None, rows].to(device),
                multimask_output=multimask_output,
                return_low_res=True,
            )
        )
    logits, iou, low_res = (torch.cat(part, dim=1)[0] for part in zip(*parts, strict=True))
    return DecodedObjects(logits, iou, low_res)


@torch.no_grad()
def decode_pairs(
    network: LMSFESAM,
    embedding: ImageEmbedding,
    packed: np.ndarray,
    images: Sequence[int],
    masks: Tensor | None = None,
    multimask_output: bool | None = None,
) -> Iterator[DecodedObjects]:
    """Decode the packed prompts of several images, `CHUNK` objects at a time.

    Args:
        network: in evaluation mode.
        embedding: of B images.
        packed: (N, 4 + 3 K) in pixels of the network's input.
        images: for each object the image, 0..B-1, that it is on.
        masks: logits (N, h, w) of an earlier round, or None.
        multimask_output: as `LMSFESAM.decode` takes it.

    Yields:
        The answer for each object in turn; its parts have no axis for the object.
    """
    device = embedding.features.device
    boxes, points, labels = (
        torch.from_numpy(part).float().to(device)[:, None] for part in unpack_prompts(packed)
    )
    for start in range(0, len(packed), CHUNK):
        rows = slice(start, start + CHUNK)
        own = torch.tensor(images[rows], device=device)
        outputs = network.decode(
            embedding._replace(
                features=embedding.features[own], skips=[skip[own] for skip in embedding.skips]
            ),
            boxes=boxes[rows],
            points=points[rows] if labels.shape[-1] else None,
            point_labels=labels[rows] if labels.shape[-1] else None,
            masks=None if masks is None else masks[rows, None].to(device),
            multimask_output=multimask_output,
            return_low_res=True,
        )
        for answer in zip(*outputs, strict=True):
            yield DecodedObjects(*(part[0] for part in answer))
