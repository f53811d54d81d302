"""Inferers that look at parts of an image: what they share, and the one that zooms in on each object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from monai.inferers import Inferer
from torch import Tensor

from lmsfe_sam.inference.inferer import IOU, carried_prompts
from lmsfe_sam.model.network import LMSFESAM
from lmsfe_sam.predict.embedding_cache import EmbeddingCache
from lmsfe_sam.predict.postprocessing import paint_objects
from lmsfe_sam.predict.zoom import Encode, ObjectMask, WindowEncoder, Zoom
from lmsfe_sam.prompts.coordinates import Size

LABELS = "labels"
"""The key of a label map that is ready."""


class Segment(Protocol):
    """Segments the objects of one image, part by part."""

    def __call__(
        self, network: LMSFESAM, encode: Encode, packed: np.ndarray, size: Size, /
    ) -> Sequence[ObjectMask]:
        """Return the mask of each object; the packed prompts are in pixels of the image."""
        ...


def segment_painted(
    segment: Segment, inputs: Tensor, network: Any, cache: EmbeddingCache | None = None
) -> dict[str, Tensor]:
    """Segment one image with the prompts in its metadata, and paint its objects into one label map.

    Args:
        segment: finds the objects.
        inputs: (1, 3, H, W) in 0..255, prompts in its own pixels (see `AttachPromptsd`).
        network: in evaluation mode.
        cache: of embeddings, or None.

    Returns:
        ``labels`` (1, 1, H, W), 0 outside of all objects and k in the k-th, and ``predicted_iou`` (1, N).

    Raises:
        ValueError: more than one image.
    """
    packed = carried_prompts(inputs)
    image = inputs.as_subclass(Tensor)[0]
    size = (image.shape[1], image.shape[2])
    encode = WindowEncoder(network, image, None if cache is None else partial(cache.encode, network))
    objects = segment(network, encode, packed, size)
    iou = [float(one.iou) for one in objects]
    labels = paint_objects([one.blocks() for one in objects], iou, size)
    return {LABELS: torch.from_numpy(labels)[None, None], IOU: torch.tensor(iou)[None]}


class ZoomInferer(Inferer):
    """Segments each object in a window of its own, around its prompt.

    Args:
        share: of each side of the window that the object's box takes.
        below: objects that take at least this share of an image that is not large are answered from the
            whole of it, see `Zoom`.
        least: the least side of a window, in pixels of the image; None for the network's.
        batch_size: windows encoded together.
        cached_batches: how many of their embeddings are kept, for the next prompts in the same windows.
    """

    def __init__(
        self,
        share: float = Zoom.share,
        below: float | None = Zoom.below,
        least: int | None = Zoom.least,
        batch_size: int = Zoom.batch_size,
        cached_batches: int = 8,
    ) -> None:
        super().__init__()
        self.zoom = Zoom(share, below, least=least, batch_size=batch_size)
        self.cache = EmbeddingCache(cached_batches)

    def __call__(
        self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Segment ``inputs`` (1, 3, H, W), an image of any size in 0..255; see `segment_painted`."""
        return segment_painted(self.zoom.segment, inputs, network, self.cache)
