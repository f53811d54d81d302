"""Networks that take no prompt, such as MONAI's ``UNet``, behind the methods of a promptable one."""

from __future__ import annotations

import os
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lmsfe_sam.errors import InputError
from lmsfe_sam.model.checkpoints import load_weights
from lmsfe_sam.model.mask_decoder import DecodedTokens
from lmsfe_sam.model.network import LMSFESAM, ImageEmbedding
from lmsfe_sam.model.pretrained import read_state
from lmsfe_sam.model.prompt_batch import flatten_prompts, group_prompts
from lmsfe_sam.prompts.prompt import Prompts


@runtime_checkable
class Promptable(Protocol):
    """What tells a promptable network from others: an image is encoded once, prompts are decoded on it."""

    def encode(self, image: Tensor) -> Any:
        """Encode ``image (B,3,S,S)``."""
        ...

    def decode(self, embedding: Any, **prompts: Any) -> Any:
        """Return logits ``(B,N,S,S)`` and predicted IoU ``(B,N)`` of N objects an image."""
        ...


class PromptFreeNetwork(nn.Module):
    """A network from ``(B,3,H,W)`` to logits ``(B,1,H,W)``: to encode is to run it, to decode to return that.

    Its state dict is the network's own, so that a checkpoint fits the network with and without this class.

    Args:
        network: the network.
        image_size: side of the input it is used at.
    """

    def __init__(self, network: nn.Module, image_size: int = 256) -> None:
        super().__init__()
        self.network = network
        self.image_size = image_size
        self.register_state_dict_post_hook(_drop_prefix)
        self.register_load_state_dict_pre_hook(_add_prefix)

    def forward(self, image: Tensor) -> Tensor:
        """Segment ``image``.

        Raises:
            InputError: the network has more than one output channel.
        """
        logits: Tensor = self.network(image)
        if logits.shape[1] != 1:
            raise InputError(
                f"network_def gives {logits.shape[1]} channels: build it with one, the logits of the lesion."
            )
        return logits

    def encode(self, image: Tensor) -> ImageEmbedding:
        """Run the network on ``image``."""
        return ImageEmbedding(self(image), [])

    def decode(
        self,
        embedding: ImageEmbedding,
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        masks: Tensor | None = None,
        multimask_output: bool | None = None,
        return_low_res: bool = False,
    ) -> tuple[Tensor, ...]:
        """Return the logits ``(B,N,H,W)`` for each of N objects without a prompt, as `LMSFESAM.decode` does.

        The predicted IoU ``(B,N)`` is NaN: the network predicts none.

        Raises:
            InputError: there is a prompt.
        """
        given = Prompts(boxes, points, point_labels, masks)
        batch, device = embedding.features.shape[0], embedding.features.device
        flat, count = flatten_prompts(given, batch, device)
        if any(group.prompts.given() for group in group_prompts(flat, count)):
            raise InputError("network_def takes no prompts: use the prompt mode none.")
        logits = embedding.features.expand(-1, count, -1, -1)
        outputs = (logits, torch.full(logits.shape[:2], torch.nan, device=device))
        return (*outputs, logits) if return_low_res else outputs

    def decode_tokens(self, embedding: ImageEmbedding, **prompts: Any) -> DecodedTokens:
        """Return the logits as the only token of one object an image, without a predicted IoU."""
        logits = self.decode(embedding, **prompts)[0]
        batch = len(logits)
        return DecodedTokens(
            masks=logits[:, :, None],
            iou=logits.new_empty(batch, 1, 0),
            lone_click=torch.zeros(batch, 1, dtype=torch.bool, device=logits.device),
        )

    def load_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Load a state dict, every tensor of which must fit.

        Raises:
            InputError: no such file, no state dict, or one of another network.
        """
        try:
            self.load_state_dict(read_state(path))
        except RuntimeError as error:
            reason = " ".join(str(error).split("\n", 2)[1].split())[:200]
            raise InputError(
                f"checkpoint '{path}' does not fit network_def ({reason}): "
                "give the network_def that it was made with."
            ) from error

    def describe(self) -> dict[str, object]:
        """Say which class it is, for the file beside a checkpoint: its arguments are the config's to keep."""
        kind = type(self.network)
        return {"network": f"{kind.__module__}.{kind.__qualname__}", "image_size": self.image_size}


def as_promptable(network: nn.Module, image_size: int | None = None) -> nn.Module:
    """Return ``network`` itself if it is promptable, else in a `PromptFreeNetwork`."""
    return network if isinstance(network, Promptable) else PromptFreeNetwork(network, image_size or 256)


def _drop_prefix(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}network.")]:
        state[prefix + name.removeprefix(f"{prefix}network.")] = state.pop(name)


def _add_prefix(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        state[f"{prefix}network.{name.removeprefix(prefix)}"] = state.pop(name)


def load_network(network: nn.Module, checkpoint: str | os.PathLike[str], image_size: int) -> nn.Module:
    """Load a checkpoint of this project into the network that it was trained as.

    Args:
        network: `LMSFESAM`, or a network without prompts, which is returned in a `PromptFreeNetwork`.
        checkpoint: every tensor must fit.
        image_size: side of the input of a network without prompts.

    Raises:
        InputError: it does not fit.
    """
    if isinstance(network, LMSFESAM):
        return load_weights(network, checkpoint)
    ready = as_promptable(network, image_size)
    if isinstance(ready, PromptFreeNetwork):
        ready.load_pretrained(checkpoint)
    return ready
