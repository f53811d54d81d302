"""One interface for networks with and without prompts of their own.

`PromptableNetwork` is what training and evaluation ask of a network; `LMSFESAM` and the promptable
baselines have it by themselves. `Prompted` gives it to a network that maps an image to logits, in one of
two forms: ``none`` segments the image as it is and takes no prompt; ``box`` gets the box as one more
input channel, so that a comparison with prompted networks is fair, and takes one box for each object.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lmsfe_sam.errors import InputError
from lmsfe_sam.model.mask_decoder import DecodedTokens, expected_iou
from lmsfe_sam.model.network import ImageEmbedding

FORMS = ("none", "box")

CHUNK = 8
"""Objects that pass the network together in evaluation, so that many boxes need no more memory."""

Prompt = Tensor | list[Tensor] | None


class PromptableNetwork(Protocol):
    """What training and evaluation ask of a network; `LMSFESAM` says more of each.

    Attributes:
        image_size: side of the square input in pixels.
        low_res_size: side of the low-resolution logits.
    """

    image_size: int
    low_res_size: int

    def encode(self, image: Tensor) -> ImageEmbedding:
        """Encode ``image (B, 3, S, S)`` once, for any number of prompts."""

    def decode(
        self,
        embedding: ImageEmbedding,
        boxes: Prompt = None,
        points: Prompt = None,
        point_labels: Prompt = None,
        masks: Prompt = None,
        multimask_output: bool | None = None,
        return_low_res: bool = False,
    ) -> Any:
        """Return logits ``(B, N, S, S)``, predicted IoU ``(B, N)`` and, on demand, low-resolution logits."""

    def decode_tokens(
        self,
        embedding: ImageEmbedding,
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> DecodedTokens:
        """Return all mask tokens of every object, for training."""

    def describe(self) -> dict[str, object]:
        """Return what it takes to build the network again."""


class Prompted(nn.Module):
    """A network without prompts behind `PromptableNetwork`'s interface.

    The predicted IoU is what the mask's own probabilities say (`expected_iou` of `LMSFESAM`), without
    a gradient. All four mask tokens are the one mask.

    Args:
        network: ``(B, C, S, S)`` to logits ``(B, 1, S, S)``; C counts the box's channel in the form ``box``.
        description: ``name`` and ``prompt`` (one of `FORMS`), ``image_size``, and the options that
            `lmsfe_sam.baselines.build_promptable` needs to build it again.

    Example:
        >>> from lmsfe_sam.baselines import build_promptable
        >>> network = build_promptable("ukan", prompt="box").eval()
        >>> logits, iou = network(torch.zeros(1, 3, 256, 256), boxes=torch.tensor([[[30.0, 42, 180, 171]]]))
        >>> tuple(logits.shape), tuple(iou.shape)
        ((1, 1, 256, 256), (1, 1))
    """

    def __init__(self, network: nn.Module, description: dict[str, Any]) -> None:
        super().__init__()
        self.network = network
        self.description = description
        self.name: str = description["name"]
        self.form: str = description["prompt"]
        self.image_size: int = description["image_size"]
        self.low_res_size = self.image_size // 4

    def describe(self) -> dict[str, object]:
        """What `lmsfe_sam.baselines.build_promptable` needs to build this network again."""
        return dict(self.description)

    def forward(self, image: Tensor, boxes: Prompt = None, **prompts_and_options: Any) -> Any:
        """Segment ``image (B, C, S, S)``; see `decode`. With an image and nothing else, logits alone."""
        if self.form == "none" and boxes is None and not prompts_and_options:
            return self.encode(image).features
        return self.decode(self.encode(image), boxes, **prompts_and_options)

    def encode(self, image: Tensor) -> ImageEmbedding:
        """Take ``image (B, C, S, S)``: its logits in the form ``none``, itself in the form ``box``.

        Raises:
            InputError: another size.
        """
        size = [self.image_size, self.image_size]
        if image.dim() != 4 or list(image.shape[2:]) != size:
            raise InputError(
                f"{self.name} was given shape {list(image.shape)}: give (B, C, {size[0]}, {size[1]})."
            )
        return ImageEmbedding(self.network(image) if self.form == "none" else image, [])

    def decode(
        self,
        embedding: ImageEmbedding,
        boxes: Prompt = None,
        points: Prompt = None,
        point_labels: Prompt = None,
        masks: Prompt = None,
        multimask_output: bool | None = None,
        return_low_res: bool = False,
    ) -> Any:
        """Return one mask for each object, as `LMSFESAM.decode` does.

        Args:
            embedding: of `encode`.
            boxes: ``(B, N, 4)``: x0, y0, x1, y1 in pixels of the input, or a list of B tensors; in the form
                ``none`` a NaN row for each object, or None for one object an image.
            points, point_labels, masks: without a click or mask in them, or None.
            multimask_output: False or None; there is one mask.
            return_low_res: add the logits at a quarter of the size.

        Returns:
            Logits ``(B, N, S, S)``, predicted IoU ``(B, N)`` and, on demand, low-resolution logits; lists
            of B tensors where lists were given.

        Raises:
            InputError: a prompt that this form does not take, an object without one that it needs, or
                ``multimask_output``.
        """
        if multimask_output:
            raise InputError(f"{self.name} gives one mask for each object: leave multimask_output out.")
        given = {"boxes": boxes, "points": points, "point_labels": point_labels, "masks": masks}
        self._refuse(given)
        outputs = [self._with_iou(maps, return_low_res) for maps in self._segment(embedding.features, given)]
        columns = zip(*outputs, strict=True)
        if any(isinstance(prompt, list) for prompt in given.values()):
            return tuple(list(column) for column in columns)
        return tuple(torch.stack(column) for column in columns)

    def decode_tokens(
        self,
        embedding: ImageEmbedding,
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> DecodedTokens:
        """Decode as `decode` does, and return the mask as each of SAM's four tokens.

        Raises:
            InputError: as `decode`.
        """
        logits, iou = self.decode(embedding, boxes, points, point_labels, masks)
        lone_click = torch.zeros_like(iou, dtype=torch.bool)
        return DecodedTokens(
            logits[:, :, None].expand(-1, -1, 4, -1, -1), iou[:, :, None].expand(-1, -1, 4), lone_click
        )

    def _refuse(self, given: dict[str, Prompt]) -> None:
        kinds = _kinds(given)
        if self.form == "none":
            if kinds:
                raise InputError(
                    f"{self.name} in this form takes no prompt, but was given {' and '.join(kinds)}: "
                    "leave that out, or build the network with prompt='box' to give boxes."
                )
            return
        boxes, subject = given["boxes"], f"{self.name} with the box as a channel"
        if boxes is None or kinds[:1] != ["boxes"]:
            raise InputError(f"{subject} needs a box for every object: give boxes.")
        if len(kinds) > 1:
            raise InputError(f"{subject} takes boxes alone: leave {' and '.join(kinds[1:])} out.")
        if any(bool(image.isnan().any()) for image in boxes):
            raise InputError(f"{subject} needs a box for every object: one has none.")

    def _segment(self, features: Tensor, given: dict[str, Prompt]) -> list[Tensor]:
        """Logits ``(N, S, S)`` of each image."""
        first = next((prompt for prompt in given.values() if prompt is not None), None)
        counts = [1] * len(features) if first is None else [len(image) for image in first]
        if len(counts) != len(features):
            raise InputError(f"prompts of {len(counts)} images were given for {len(features)}: give as many.")
        owner = torch.arange(len(features), device=features.device)
        owner = owner.repeat_interleave(torch.tensor(counts, device=features.device))
        if self.form == "none":
            return list(features[owner, 0].split(counts))
        assert given["boxes"] is not None
        boxes = torch.cat(list(given["boxes"])).to(features.device)
        chunk = len(owner) if self.training else CHUNK
        parts = [
            self.network(torch.cat([features[image], draw_boxes(box, self.image_size, features)], dim=1))
            for image, box in zip(owner.split(chunk), boxes.split(chunk), strict=True)
        ]
        return list(torch.cat(parts)[:, 0].split(counts))

    def _with_iou(self, logits: Tensor, low_res: bool) -> list[Tensor]:
        outputs = [logits, expected_iou(logits.detach())]
        if low_res:
            outputs.append(F.adaptive_avg_pool2d(logits, self.low_res_size))
        return outputs


def draw_boxes(boxes: Tensor, size: int, like: Tensor) -> Tensor:
    """Draw M boxes as maps ``(M, 1, size, size)``: 1 where a pixel's centre lies inside, 0 elsewhere.

    Args:
        boxes: ``(M, 4)``: x0, y0, x1, y1 in pixels of the map, of which pixel 0 reaches from 0 to 1.
        size: side of the maps.
        like: gives them their type and device.
    """
    centre = torch.arange(size, device=boxes.device) + 0.5
    x0, y0, x1, y1 = boxes[:, :, None].unbind(1)
    columns = (centre >= x0) & (centre < x1)
    rows = (centre >= y0) & (centre < y1)
    return (rows[:, None, :, None] & columns[:, None, None, :]).to(like)


def _kinds(given: dict[str, Prompt]) -> list[str]:
    """Which prompts are there at all, in the order boxes, clicks, masks; padding is none."""
    there = {
        "boxes": _any(given["boxes"], lambda boxes: ~boxes.isnan().all(dim=-1)),
        "clicks": _any(given["point_labels"], lambda labels: labels >= 0),
        "masks": _any(given["masks"], lambda masks: ~masks.isnan()),
    }
    return [kind for kind, found in there.items() if found]


def _any(prompt: Prompt, real: Any) -> bool:
    return prompt is not None and any(bool(real(image).any()) for image in prompt)
