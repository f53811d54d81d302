"""Distillation: soft masks of finished networks as part of the target (Hinton, Vinyals and Dean, 2015).

A soft mask says how sure several networks are of each pixel, so that a border that readers would draw
differently, or one that was drawn carelessly, is learnt as uncertain.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmsfe_sam.errors import InputError
from lmsfe_sam.model.checkpoints import BASELINE, network_from_checkpoint, read_sidecar
from lmsfe_sam.prompts.prompt import Prompts


class Teachers:
    """Finished networks whose mean soft mask is a part of the target of another one's training.

    An object's soft mask counts as much as it agrees with the truth, so that teachers that take one thing for
    another do not teach it: no image or target has to be left out.

    Args:
        networks: promptable networks of one ``image_size``, which are put into evaluation mode for good.
        share: of the soft mask in the target, 0 to 1, where its IoU with the truth is 1.
    """

    def __init__(self, networks: Sequence[nn.Module], share: float = 0.3) -> None:
        self.networks: list[Any] = [network.eval().requires_grad_(False) for network in networks]
        self.share = share

    @torch.no_grad()
    def predict(self, image: Tensor, prompts: Prompts, rng: np.random.Generator) -> Tensor:
        """Return the mean probability of the networks, of the images or of their mirror images.

        Args:
            image: ``(B,3,S,S)``, normalised.
            prompts: of N objects an image.
            rng: draws whether the whole batch is mirrored for them.

        Returns:
            ``(B,N,S,S)``, float32.
        """
        mirrored = rng.random() < 0.5
        if mirrored:
            image, prompts = image.flip(-1), prompts.mirror(image.shape[-1])
        masks = [network.decode(network.encode(image), **vars(prompts))[0] for network in self.networks]
        mean = torch.stack([logits.float().sigmoid() for logits in masks]).mean(dim=0)
        return mean.flip(-1) if mirrored else mean

    def soften(self, target: Tensor, probabilities: Tensor) -> Tensor:
        """Return ``(1 - w) target + w probabilities``, w being ``share`` times the IoU of the two.

        Args:
            target: ``(B,N,H,W)`` or ``(B,1,H,W)``, 0 and 1.
            probabilities: of `predict`, ``(B,N,H,W)``.
        """
        truth = target.expand_as(probabilities)
        inside, wanted = probabilities > 0.5, truth > 0.5
        union = (inside | wanted).sum(dim=(2, 3), keepdim=True).clamp(min=1)
        agreement = (inside & wanted).sum(dim=(2, 3), keepdim=True) / union
        return torch.lerp(truth, probabilities, self.share * agreement)


def read_teachers(
    files: Sequence[str] | None, image_size: int, device: str | torch.device, share: float = 0.3
) -> Teachers | None:
    """Read teachers from their files, each with the description beside it; None without files.

    Args:
        files: weights of this project.
        image_size: side of the images that are trained on, which has to be theirs.
        device: where they are used.
        share: see `Teachers`.

    Raises:
        InputError: a file is missing, damaged, of a network of other authors or of another image size.
    """
    if not files:
        return None
    networks: list[nn.Module] = []
    for file in files:
        described = {"network", BASELINE} & set(read_sidecar(file))
        if described:
            raise InputError(
                f"teachers '{Path(file)}' holds no LMSFESAM, as its description says: give weights of this "
                "project's own network, which take every prompt."
            )
        network = network_from_checkpoint(file)
        if network.image_size != image_size:
            raise InputError(
                f"teachers '{Path(file)}' was trained at {network.image_size} pixels and image_size is "
                f"{image_size}: give --image_size {network.image_size}, or leave the teacher out."
            )
        networks.append(network.to(device).to(memory_format=torch.channels_last))
    return Teachers(networks, share)
