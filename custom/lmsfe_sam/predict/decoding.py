"""Decoding many objects at bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lmsfe_sam.prompts.prompt import Prompts

if TYPE_CHECKING:
    from lmsfe_sam.model.network import LMSFESAM, ImageEmbedding

CHUNK = 32
"""Objects decoded in one pass: enough to be fast, few enough that memory stays bounded."""


class DecodedObjects(NamedTuple):
    """What the network predicts for N objects; without the axis N, for one.

    Attributes:
        logits: ``(N, S, S)`` at the network's input size, or ``(N, 3, S, S)``.
        iou: predicted IoU, ``(N,)`` or ``(N, 3)``.
        low_res: logits ``(N, h, w)`` to feed back as a mask prompt, or ``(N, 3, h, w)``.
    """

    logits: Tensor
    iou: Tensor
    low_res: Tensor


@torch.no_grad()
def decode_chunks(
    network: LMSFESAM,
    embedding: ImageEmbedding,
    prompts: Prompts,
    images: Sequence[int] | None = None,
    multimask_output: bool | None = None,
) -> Iterator[DecodedObjects]:
    """Decode N objects, `CHUNK` of them at a time.

    Args:
        network: in evaluation mode.
        embedding: of B images.
        prompts: of the objects, in pixels of the network's input.
        images: for each object the image, 0..B-1, that it is on; None where B is 1.
        multimask_output: as ``LMSFESAM.decode`` takes it.

    Yields:
        The predictions, chunk by chunk.
    """
    device = embedding.features.device
    for start in range(0, len(prompts), CHUNK):
        rows = slice(start, start + CHUNK)
        chunk = prompts.select(rows).map(lambda tensor: tensor.to(device))
        if images is None:
            own, batch = embedding, chunk.map(lambda tensor: tensor[None])
        else:
            index = torch.tensor(images[rows], device=device)
            skips = [skip[index] for skip in embedding.skips]
            own = embedding._replace(features=embedding.features[index], skips=skips)
            batch = chunk.map(lambda tensor: tensor[:, None])
        outputs = network.decode(own, **batch.given(), multimask_output=multimask_output, return_low_res=True)
        yield DecodedObjects(*(output.flatten(0, 1) for output in outputs))


def decode_objects(
    network: LMSFESAM,
    embedding: ImageEmbedding,
    prompts: Prompts,
    multimask_output: bool | None = None,
) -> DecodedObjects:
    """Decode N objects of one image; see `decode_chunks`."""
    chunks = decode_chunks(network, embedding, prompts, multimask_output=multimask_output)
    return DecodedObjects(*(torch.cat(parts) for parts in zip(*chunks, strict=True)))
