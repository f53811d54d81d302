"""How an image is prepared for the network: as this project does, or as the network's authors do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from monai.transforms import MapTransform
from numpy.typing import ArrayLike

from lmsfe_sam.baselines.preprocessing import Prepared
from lmsfe_sam.errors import InputError
from lmsfe_sam.model.checkpoints import read_sidecar

logger = logging.getLogger(__name__)

OURS, AUTHORS = "ours", "authors"

Prepare = Callable[[ArrayLike, int], Prepared]
"""From an image array and the side of the input to that input, see `lmsfe_sam.baselines.preprocessing`."""


class PrepareAsAuthorsd(MapTransform):
    """Prepare the image as the network's authors do, in one step, in place of resizing and normalising.

    ``image (3, H, W)``, RGB in 0..255, becomes ``(3, S, S)``, and ``frame`` says where in it the image lies.

    Args:
        prepare: of the network.
        image_size: side S of its input.
    """

    def __init__(self, prepare: Prepare, image_size: int) -> None:
        super().__init__("image")
        self.prepare = prepare
        self.image_size = int(image_size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:  # noqa: D102
        pixels = data["image"].round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        image, frame = self.prepare(pixels, self.image_size)
        return {**data, "image": image, "frame": frame}


def authors_prepare(network: Any, checkpoint: str, preprocessing: str | None) -> Prepare | None:
    """Return the function with which the network's authors prepare an image, or None for this project's way.

    Args:
        network: the network that is evaluated.
        checkpoint: its file. One that was trained here has a description beside it; any other is taken to be
            published, and expects the input that its authors give it.
        preprocessing: `OURS`, `AUTHORS`, or None for what the checkpoint expects.

    Raises:
        InputError: `AUTHORS` for a network that has no preprocessing of its own.
    """
    prepare: Prepare | None = getattr(network, "prepare", None)
    if preprocessing == AUTHORS and prepare is None:
        title = getattr(network, "title", "a run of controls alone")
        raise InputError(
            f"preprocessing is 'authors', but {title} has none of its own: leave it out, or add the config "
            "of sam, edgesam, medsam or sam_med2d."
        )
    if prepare is None or preprocessing == OURS or (preprocessing is None and read_sidecar(checkpoint)):
        return None
    if network.image_size != network.published_size:
        logger.warning(
            "%s was published at %d pixels and is evaluated at %d: give --image_size %d for that size.",
            network.title,
            network.published_size,
            network.image_size,
            network.published_size,
        )
    return prepare
