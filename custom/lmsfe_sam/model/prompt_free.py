"""Networks that take no prompt by themselves, such as MONAI's ``UNet``, behind a promptable one's methods.

They come in two forms: ``none`` segments the image as it is and takes no prompt; ``box`` gets the box of an
object as one more input channel, so that a comparison with prompted networks is fair.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lmsfe_sam.errors import InputError
from lmsfe_sam.model.mask_decoder import DecodedTokens
from lmsfe_sam.model.network import ImageEmbedding, Ragged
from lmsfe_sam.model.promptable import PromptableNetwork
from lmsfe_sam.model.weights.pretrained import read_state

FORMS = ("none", "box")

CHUNK = 8
"""Objects that pass the network together in evaluation, so that many boxes need no more memory."""


class PromptFreeNetwork(nn.Module):
    """A network from ``(B, C, S, S)`` to logits ``(B, 1, S, S)``, with the methods of `PromptableNetwork`.

    Its state dict is the network's own, so that a file of weights fits the network with and without this
    class. It predicts no IoU: that is NaN.

    Args:
        network: C counts the box's channel in the form ``box``.
        image_size: side S of the input it is used at.
        form: one of `FORMS`.
        description: what it takes to build it again; by default the network's class, whose arguments are the
            config's to keep.

    Raises:
        InputError: an unknown form.

    Example:
        >>> network = PromptFreeNetwork(nn.Conv2d(4, 1, 1), 64, form="box").eval()
        >>> logits, iou = network(torch.zeros(1, 3, 64, 64), boxes=torch.tensor([[[30.0, 12, 60, 44]]]))
        >>> tuple(logits.shape), tuple(iou.shape)
        ((1, 1, 64, 64), (1, 1))
    """

    def __init__(
        self,
        network: nn.Module,
        image_size: int = 256,
        form: str = "none",
        description: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise InputError(f"prompt_form '{form}' is unknown: give one of {', '.join(FORMS)}.")
        self.network = network
        self.image_size = image_size
        self.low_res_size = image_size // 4
        self.form = form
        self.prompt_kinds: tuple[str, ...] = (form,)
        kind = type(network)
        self.description: dict[str, object] = dict(
            description
            or {
                "network": f"{kind.__module__}.{kind.__qualname__}",
                "image_size": image_size,
                "prompt_form": form,
            }
        )
        self.register_state_dict_post_hook(_drop_prefix)
        self.register_load_state_dict_pre_hook(_add_prefix)

    @property
    def title(self) -> str:
        """The network in a sentence."""
        return str(self.description.get("baseline", "network_def"))

    def describe(self) -> dict[str, object]:
        """Return what goes into the file beside a checkpoint."""
        return dict(self.description)

    def load_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Load a state dict with the network's own names, every tensor of which must fit.

        Raises:
            InputError: no such file, no state dict, or one of another network.
        """
        load_exactly(self, path, self.title)

    def load_backbone(self, path: str | os.PathLike[str]) -> None:
        """Load start weights of the network's encoder, if the network has a method for it.

        Raises:
            InputError: it has none, or the file does not fit.
        """
        load = getattr(self.network, "load_backbone", None)
        if load is None:
            raise InputError(f"backbone_weights '{path}' has no place in {self.title}: leave it out.")
        load(read_state(path))

    def forward(self, image: Tensor, boxes: Ragged = None, **prompts_and_options: Any) -> Any:
        """Segment ``image (B, 3, S, S)``; see `decode`. With an image and nothing else, logits alone."""
        if self.form == "none" and boxes is None and not prompts_and_options:
            return self._logits(image)
        return self.decode(self.encode(image), boxes, **prompts_and_options)

    def encode(self, image: Tensor) -> ImageEmbedding:
        """Encode ``image (B, 3, S, S)``: to its logits in the form ``none``, to itself in the form ``box``.

        Raises:
            InputError: another size than that at which boxes are drawn.
        """
        side = self.image_size
        if self.form == "box" and list(image.shape[2:]) != [side, side]:
            raise InputError(
                f"{self.title} was given shape {list(image.shape)}: give (B, 3, {side}, {side})."
            )
        return ImageEmbedding(self._logits(image) if self.form == "none" else image, [])

    def decode(
        self,
        embedding: ImageEmbedding,
        boxes: Ragged = None,
        points: Ragged = None,
        point_labels: Ragged = None,
        masks: Ragged = None,
        multimask_output: bool | None = None,
        return_low_res: bool = False,
    ) -> Any:
        """Return one mask for each object, as `LMSFESAM.decode` does.

        Args:
            embedding: of `encode`.
            boxes: ``(B, N, 4)``: x0, y0, x1, y1 in pixels of the input, or a list of B tensors; in the form
                ``none`` a NaN row for each object, or None for one object an image. In training an object of
                the form ``box`` may have none, too: its channel is empty.
            points, point_labels, masks: without a click or mask in them, or None.
            multimask_output: False or None; there is one mask.
            return_low_res: add the logits at a quarter of the size.

        Returns:
            Logits ``(B, N, S, S)``, predicted IoU ``(B, N)``, which is NaN, and, on demand, low-resolution
            logits; lists of B tensors where lists were given.

        Raises:
            InputError: a prompt that this form does not take, an object without one that it needs, or
                ``multimask_output``.
        """
        if multimask_output:
            raise InputError(f"{self.title} gives one mask for each object: leave multimask_output out.")
        given = {"boxes": boxes, "points": points, "point_labels": point_labels, "masks": masks}
        self._refuse(given)
        outputs = [self._outputs(maps, return_low_res) for maps in self._segment(embedding.features, given)]
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
        """Decode as `decode` does, and return the mask as the only token, without a predicted IoU."""
        logits, _ = self.decode(embedding, boxes, points, point_labels, masks)
        objects = logits.shape[:2]
        return DecodedTokens(
            masks=logits[:, :, None],
            iou=logits.new_empty(*objects, 0),
            lone_click=torch.zeros(objects, dtype=torch.bool, device=logits.device),
        )

    def _logits(self, inputs: Tensor) -> Tensor:
        """Logits ``(B, 1, S, S)`` of ``inputs (B, C, S, S)``.

        Raises:
            InputError: the network takes other channels, or gives something else.
        """
        try:
            logits: Any = self.network(inputs)
        except RuntimeError as error:
            if self.form == "box" and "channels" in str(error):
                raise InputError(
                    f"{self.title} cannot take {inputs.shape[1]} channels, the last of which is the box: "
                    "build it with as many input channels, or leave prompt_form 'box' out."
                ) from error
            raise
        if not isinstance(logits, Tensor):
            raise InputError(
                f"{self.title} gives a {type(logits).__name__}: let its forward return the logits alone, "
                "(B, 1, H, W), in training and in evaluation."
            )
        batch, _, *size = inputs.shape
        if logits.ndim == 4 and logits.shape[1] != 1:
            raise InputError(
                f"{self.title} gives {logits.shape[1]} channels: build it with one, the logits of the lesion."
            )
        if list(logits.shape) != [batch, 1, *size]:
            raise InputError(
                f"{self.title} gives shape {list(logits.shape)} for an input of shape {list(inputs.shape)}: "
                "let its forward return logits (B, 1, H, W) of the input's height and width."
            )
        return logits

    def _refuse(self, given: Mapping[str, Ragged]) -> None:
        kinds = _kinds(given)
        if self.form == "none":
            if kinds:
                raise InputError(
                    f"{self.title} takes no prompts, but was given {' and '.join(kinds)}: leave them out "
                    "(the prompt mode none), or train it with --prompt_form box to give boxes."
                )
            return
        subject = f"{self.title} with the box as a channel"
        boxes = given["boxes"]
        others = [kind for kind in kinds if kind != "boxes"]
        if self.training and not others:
            return  # an object that augmentation moved out of the image has no box
        if boxes is None or "boxes" not in kinds:
            raise InputError(f"{subject} needs a box for every object: give boxes.")
        if others:
            raise InputError(f"{subject} takes boxes alone: leave {' and '.join(others)} out.")
        if any(bool(image.isnan().any()) for image in boxes):
            raise InputError(f"{subject} needs a box for every object: one has none.")

    def _segment(self, features: Tensor, given: Mapping[str, Ragged]) -> list[Tensor]:
        """Logits ``(N, S, S)`` of each image."""
        first = next((prompt for prompt in given.values() if prompt is not None), None)
        counts = [1] * len(features) if first is None else [len(image) for image in first]
        if len(counts) != len(features):
            raise InputError(f"prompts of {len(counts)} images were given for {len(features)}: give as many.")
        owner = torch.arange(len(features), device=features.device)
        owner = owner.repeat_interleave(torch.tensor(counts, device=features.device))
        if self.form == "none":
            return list(features[owner, 0].split(counts))
        given_boxes = given["boxes"]
        if given_boxes is None:  # in training, where no object of the batch is left in its image
            boxes = torch.full((len(owner), 4), torch.nan, device=features.device)
        else:
            boxes = torch.cat(list(given_boxes)).to(features.device)
        chunk = len(owner) if self.training else CHUNK
        parts = [
            self._logits(torch.cat([features[image], draw_boxes(box, self.image_size, features)], dim=1))
            for image, box in zip(owner.split(chunk), boxes.split(chunk), strict=True)
        ]
        return list(torch.cat(parts)[:, 0].split(counts))

    def _outputs(self, logits: Tensor, low_res: bool) -> list[Tensor]:
        outputs = [logits, torch.full(logits.shape[:1], torch.nan, device=logits.device)]
        return [*outputs, F.adaptive_avg_pool2d(logits, self.low_res_size)] if low_res else outputs


def as_promptable(network: nn.Module, image_size: int | None = None, form: str | None = None) -> nn.Module:
    """Return ``network`` itself if it is promptable, otherwise wrapped in a `PromptFreeNetwork`.

    Raises:
        InputError: an unknown form, or one that is not the network's.
    """
    if isinstance(network, PromptableNetwork):
        if form is not None and network.prompt_kinds != (form,):
            raise InputError(
                f"prompt_form '{form}' is not the network's: it is for networks that take no prompts by "
                "themselves; leave it out."
            )
        return network
    return PromptFreeNetwork(network, image_size or 256, form or "none")


def load_exactly(network: nn.Module, path: str | os.PathLike[str], title: str) -> None:
    """Load a state dict of which every tensor must fit without any change; nothing in the file is executed.

    Args:
        network: what gets the weights.
        path: a bare state dict, or one under ``model`` or ``state_dict``.
        title: the network's name, for the sentence.

    Raises:
        InputError: no such file, no file of weights, or weights of another network.
    """
    state, target = read_state(path), network.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in target.items()}
    wrong = [name for name in shapes if name not in state or tuple(state[name].shape) != shapes[name]]
    wrong += [name for name in state if name not in shapes]
    if wrong:
        raise InputError(
            f"checkpoint '{path}' does not fit {title}: {len(wrong)} tensors are missing, too many or of "
            f"another shape, '{wrong[0]}' first; name the network that it was made for, with its options."
        )
    network.load_state_dict(state)


def draw_boxes(boxes: Tensor, size: int, like: Tensor) -> Tensor:
    """Draw M boxes as maps ``(M, 1, size, size)``: 1 where a pixel's centre lies inside, 0 elsewhere.

    A row of NaN gives zeros.

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


def _kinds(given: Mapping[str, Ragged]) -> list[str]:
    """Return the kinds of prompts given, in the order boxes, clicks, masks; padding does not count."""
    present = {
        "boxes": _any(given["boxes"], lambda boxes: ~boxes.isnan().all(dim=-1)),
        "clicks": _any(given["point_labels"], lambda labels: labels >= 0),
        "masks": _any(given["masks"], lambda masks: ~masks.isnan()),
    }
    return [kind for kind, found in present.items() if found]


def _any(prompt: Ragged, real: Callable[[Tensor], Tensor]) -> bool:
    return prompt is not None and any(bool(real(image).any()) for image in prompt)


def _drop_prefix(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}network.")]:
        state[prefix + name.removeprefix(f"{prefix}network.")] = state.pop(name)


def _add_prefix(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        state[f"{prefix}network.{name.removeprefix(prefix)}"] = state.pop(name)
