"""The inferer: encode the image once, decode all of its prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from monai.inferers import Inferer
from torch import Tensor

from lmsfe_sam.inference.prompting import PROMPTS
from lmsfe_sam.predict.decoding import decode_packed, pack_prompts
from lmsfe_sam.predict.embedding_cache import EmbeddingCache

LOGITS = "logits"
IOU = "predicted_iou"


class PromptInferer(Inferer):
    """Segments one image with the prompts in its metadata (see `AttachPromptsd`), or with none.

    Args:
        cached_images: how many embeddings are kept, for the next prompts on the same images.
    """

    def __init__(self, cached_images: int = 8) -> None:
        super().__init__()
        self.cache = EmbeddingCache(cached_images)

    def __call__(
        self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Segment ``inputs`` (1, 3, S, S) with an `LMSFESAM`.

        Returns:
            ``logits`` (1, N, S, S) and ``predicted_iou`` (1, N).

        Raises:
            ValueError: more than one image; their prompts would not be of one shape.
        """
        packed = carried_prompts(inputs)
        model: Any = network
        image = inputs.as_subclass(Tensor).to(next(model.parameters()).device)
        decoded = decode_packed(model, self.cache.encode(model, image), packed)
        return {LOGITS: decoded.logits[None], IOU: decoded.iou[None]}


def image_where_it_is(batch: Mapping[str, Any], *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    """Prepare a batch of MONAI's evaluator without sending the image to the GPU as a whole.

    The inferers send what the network is to see.
    """
    return batch["image"], None


def carried_prompts(inputs: Tensor) -> np.ndarray:
    """Return the packed prompts (N, 4 + 3 K) in the metadata of one image (1, C, H, W).

    Raises:
        ValueError: more than one image; their prompts would not be of one shape.
    """
    if len(inputs) != 1:
        raise ValueError(f"The inferer takes one image at a time, not {len(inputs)}: set batch_size to 1.")
    if PROMPTS not in getattr(inputs, "meta", {}):
        return pack_prompts([])
    carried = np.asarray(inputs.meta[PROMPTS])  # type: ignore[attr-defined]
    return carried.reshape(-1, carried.shape[-1])
