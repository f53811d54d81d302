"""Inferers that segment prompted objects: their common interface, and those that use one window or zoom."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from monai.engines.utils import default_prepare_batch
from monai.inferers import Inferer, SlidingWindowInferer
from torch import Tensor

from lmsfe_sam.model.network import LMSFESAM
from lmsfe_sam.predict.embedding_cache import EmbeddingCache
from lmsfe_sam.predict.postprocessing import paint_objects, probability_map
from lmsfe_sam.predict.zoom import Encode, ObjectMask, WindowEncoder, WindowPrediction, Zoom
from lmsfe_sam.prompts.coordinates import Size
from lmsfe_sam.prompts.prompt import Prompts

PROMPTS = "prompts"
"""The key of the prompts, in a record and in an image's metadata."""

LABELS = "labels"
IOU = "predicted_iou"
PROBABILITIES = "probabilities"


class PromptedInferer(Inferer, ABC):
    """Segments one image with the prompts in its metadata (see `AttachPromptsd`), or without any.

    The image comes as it was read, and the label map has its size. Any other MONAI inferer may take the
    place of this one; it is given a normalised image, and gives logits.

    Args:
        cached_embeddings: how many batches of windows keep their embeddings for the next prompts on the
            same windows, as an annotation server wants it; 0 for none.
    """

    def __init__(self, cached_embeddings: int = 0) -> None:
        super().__init__()
        self.cache = EmbeddingCache(cached_embeddings)

    @abstractmethod
    def segment(
        self, network: LMSFESAM, encode: Encode, prompts: Prompts, size: Size
    ) -> Sequence[ObjectMask]:
        """Return the mask of each of N objects.

        Args:
            network: in evaluation mode.
            encode: encodes windows of the image.
            prompts: of the objects, in pixels of the image.
            size: height and width of the image.
        """

    def __call__(
        self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Segment ``inputs`` (1, 3, H, W), an image of any size in 0..255.

        Returns:
            ``labels`` (1, 1, H, W), 0 outside of all objects and k in the k-th, the one of higher predicted
            IoU where objects overlap, ``predicted_iou`` (1, N) and, if they are kept, ``probabilities``
            (1, N, H, W) uint8.

        Raises:
            ValueError: more than one image.
        """
        model: Any = network
        prompts = carried_prompts(inputs)
        image = inputs.as_subclass(Tensor)[0]
        size = (image.shape[1], image.shape[2])
        encode = WindowEncoder(model, image, partial(self.cache.encode, model))
        masks = self.segment(model, encode, prompts, size)
        iou = [float(mask.iou) for mask in masks]
        labels = paint_objects([mask.parts() for mask in masks], iou, size)
        result = {LABELS: torch.from_numpy(labels)[None, None], IOU: torch.tensor(iou)[None]}
        probabilities = self.probabilities_of(masks, size)
        return result if probabilities is None else {**result, PROBABILITIES: probabilities[None]}

    def probabilities_of(self, masks: Sequence[ObjectMask], size: Size) -> Tensor | None:
        """Return the probabilities (N, H, W) uint8 of N objects, 255 for 1; None where they are not kept."""
        return None


class ZoomInferer(PromptedInferer):
    """Segments each object in a window around it; see `lmsfe_sam.predict.zoom.Zoom`.

    Args:
        share, below, large, min_side, batch_size: of `Zoom`.
        cached_embeddings: see `PromptedInferer`.
        probabilities: keep them, a byte for each pixel and object.
    """

    def __init__(
        self,
        share: float = Zoom.share,
        below: float | None = Zoom.below,
        large: int | None = Zoom.large,
        min_side: int | None = Zoom.min_side,
        batch_size: int = Zoom.batch_size,
        cached_embeddings: int = 0,
        probabilities: bool = False,
    ) -> None:
        super().__init__(cached_embeddings)
        self.probabilities = probabilities
        self.zoom = Zoom(share, below, large, min_side, batch_size)

    def segment(  # noqa: D102
        self, network: LMSFESAM, encode: Encode, prompts: Prompts, size: Size
    ) -> Sequence[ObjectMask]:
        return self.zoom.segment(network, encode, prompts, size)

    def probabilities_of(self, masks: Sequence[ObjectMask], size: Size) -> Tensor | None:  # noqa: D102
        if not self.probabilities:
            return None
        predictions = [mask for mask in masks if isinstance(mask, WindowPrediction)]
        return torch.stack([probability_map(each.logits, each.window, size) for each in predictions])


class FullImageInferer(ZoomInferer):
    """Segments all objects in the full image, resized to the network's input.

    Args:
        cached_embeddings: see `PromptedInferer`.
        probabilities: see `ZoomInferer`.
    """

    def __init__(self, cached_embeddings: int = 0, probabilities: bool = False) -> None:
        super().__init__(
            below=0.0, large=None, cached_embeddings=cached_embeddings, probabilities=probabilities
        )


class Bfloat16Inferer(Inferer):
    """Runs another inferer under autocast to bfloat16, on a CPU or a GPU, as training and evaluation do.

    MONAI's ``SupervisedEvaluator(amp=True)`` supports only CUDA.

    Args:
        inferer: whose logits come back in single precision.
        device: the network's.
    """

    def __init__(self, inferer: Inferer, device: torch.device | str) -> None:
        super().__init__()
        self.inferer = inferer
        self.device_type = torch.device(device).type

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return what the inferer returns."""
        with torch.autocast(self.device_type, dtype=torch.bfloat16):
            output = self.inferer(inputs, network, *args, **kwargs)
        return output.float() if isinstance(output, Tensor) else output


def in_precision(inferer: Inferer, device: torch.device | str, amp: bool) -> Inferer:
    """Return the inferer in bfloat16 if ``amp`` is true, otherwise unchanged."""
    return Bfloat16Inferer(inferer, device) if amp else inferer


def takes_prompts(inferer: Inferer) -> bool:
    """Whether an inferer takes the image as it was read, with its prompts."""
    return isinstance(inferer, PromptedInferer)


def input_size(inferer: Inferer, image_size: int) -> int | None:
    """Return the side that the image is resized to for an inferer, or None where it keeps its size.

    `PromptedInferer` and MONAI's sliding windows take an image of any size, and every other inferer gives
    the network what it is given.
    """
    return None if isinstance(inferer, PromptedInferer | SlidingWindowInferer) else image_size


def prepare_batch_for(inferer: Inferer) -> Callable[..., Any]:
    """Return the ``prepare_batch`` of MONAI's evaluator for an inferer.

    A `PromptedInferer` moves the windows that the network is to see to the GPU, and not the whole image.
    """
    return _leave_where_it_is if takes_prompts(inferer) else default_prepare_batch


def _leave_where_it_is(batch: Mapping[str, Any], *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    return batch["image"], None


def carried_prompts(inputs: Tensor) -> Prompts:
    """Return the prompts in the metadata of one image (1, C, H, W).

    Raises:
        ValueError: more than one image; their prompts would not be of one shape.
    """
    if len(inputs) != 1:
        raise ValueError(f"The inferer takes one image at a time, not {len(inputs)}: set batch_size to 1.")
    meta: Mapping[str, Any] = getattr(inputs, "meta", {})
    if PROMPTS not in meta:
        return Prompts.of([])
    prompts = Prompts(**{name: torch.as_tensor(tensor) for name, tensor in meta[PROMPTS].items()})
    assert prompts.boxes is not None
    return prompts if prompts.boxes.ndim == 2 else prompts.select(0)  # collated, there is one axis more
