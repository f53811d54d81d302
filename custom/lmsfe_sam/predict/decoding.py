"""Decode prompts into masks: with the preset's post-processing, and many objects at bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmsfe_sam.errors import InputError
from lmsfe_sam.model.network import LMSFESAM, ImageEmbedding
from lmsfe_sam.model.promptable import PromptableNetwork
from lmsfe_sam.predict.postprocessing import drop_unclicked
from lmsfe_sam.prompts.prompt import Prompts

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


def decode_prompts(
    network: PromptableNetwork,
    embedding: ImageEmbedding,
    prompts: Prompts,
    multimask_output: bool | None = None,
    return_low_res: bool = False,
) -> tuple[Tensor, ...]:
    """Decode prompts as every user of a network's masks does.

    That is ``network.decode``, between whose mask tokens and the choice among them `drop_unclicked` comes
    where the network's preset says so.

    Args:
        network: `LMSFESAM`, or another network with its methods.
        embedding: of B images.
        prompts: of N objects in each of them, in pixels of the network's input; none for one object an
            image without a prompt.
        multimask_output: as ``LMSFESAM.decode`` takes it.
        return_low_res: add the logits that serve as the next mask prompt.

    Returns:
        Logits ``(B, N, S, S)``, predicted IoU ``(B, N)`` and, on demand, low-res logits ``(B, N, h, w)``;
        with three masks ``(B, N, 3, ...)``.
    """
    given = prompts.given()
    if isinstance(network, LMSFESAM) and network.clicked_regions:
        tokens = network.decode_tokens(embedding, **given)
        tokens = tokens._replace(masks=drop_unclicked(tokens.masks, prompts, network.image_size))
        return network.choose(tokens, multimask_output, return_low_res)
    outputs: tuple[Tensor, ...] = network.decode(
        embedding, **given, multimask_output=multimask_output, return_low_res=return_low_res
    )
    return outputs


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

    Raises:
        InputError: the logits are NaN or infinite, as of weights that are numbers, but far too large ones.
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
        outputs = decode_prompts(network, own, batch, multimask_output, return_low_res=True)
        decoded = DecodedObjects(*(output.flatten(0, 1) for output in outputs))
        if not bool(decoded.low_res.isfinite().all()):
            raise InputError("the network gives NaN or infinity: its weights are damaged, name other ones.")
        yield decoded


def decode_objects(
    network: LMSFESAM,
    embedding: ImageEmbedding,
    prompts: Prompts,
    multimask_output: bool | None = None,
) -> DecodedObjects:
    """Decode N objects of one image; see `decode_chunks`."""
    chunks = decode_chunks(network, embedding, prompts, multimask_output=multimask_output)
    return DecodedObjects(*(torch.cat(parts) for parts in zip(*chunks, strict=True)))
