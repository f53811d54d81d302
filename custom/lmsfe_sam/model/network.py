"""`LMSFESAM`: encode an image once, decode any number of prompts on it."""

from __future__ import annotations

import logging
import os
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lmsfe_sam.errors import InputError
from lmsfe_sam.model.encoder.image_encoder import PATCH_SIZE, ImageEncoder
from lmsfe_sam.model.mask_decoder import (
    DecodedTokens,
    FineMaskHead,
    ObjectMaskDecoder,
    choose_masks,
    expected_iou,
    resize_logits,
)
from lmsfe_sam.model.presets import Preset, get_preset
from lmsfe_sam.model.prompt_batch import PromptGroup, flatten_prompts, group_prompts, lone_clicks, pad_prompts
from lmsfe_sam.model.prompt_encoder import ObjectPromptEncoder
from lmsfe_sam.model.weights.pretrained import LoadReport, load_pretrained
from lmsfe_sam.prompts.prompt import Prompts

logger = logging.getLogger(__name__)

LISTED = (
    "position_adapter",
    "feature_adapter",
    "channel_spatial_adapter",
    "balancing_adapter",
    "local_encoder",
    "local_to_neck",
)
"""Parts of the image encoder that `LMSFESAM.summary` lists by name."""

Ragged = Tensor | list[Tensor] | None

PROMPT_KINDS: tuple[str, ...] = ("box", "clicks", "none")
"""What an object may be prompted with."""


class ImageEmbedding(NamedTuple):
    """What `LMSFESAM.decode` needs of B images.

    Attributes:
        features: ``(B, C, g, g)``, the image embedding.
        skips: features at 1/2, 1/4 and 1/8 of the input for the fine mask head, or an empty list.
    """

    features: Tensor
    skips: list[Tensor]


class UnpromptedNetwork(nn.Module):
    """The parts of `LMSFESAM`, and what they do without a prompt: all that TorchScript compiles.

    Args:
        image_encoder, prompt_encoder, mask_decoder: the parts.
        image_size: side of the square input in pixels.
    """

    def __init__(
        self,
        image_encoder: ImageEncoder,
        prompt_encoder: ObjectPromptEncoder,
        mask_decoder: ObjectMaskDecoder,
        image_size: int,
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.image_size = image_size

    def forward(self, image: Tensor) -> Tensor:
        """Segment ``image (B, 3, S, S)``: logits ``(B, 1, S, S)``."""
        features, skips = self.image_encoder(image)
        sparse, dense, maps = self.prompt_encoder.unprompted(features)
        positions = self.prompt_encoder.get_dense_pe()
        projected = self.mask_decoder.project_skips(skips)
        masks, _ = self.mask_decoder(features, positions, sparse, dense, projected, maps)
        size = [self.image_size, self.image_size]
        return F.interpolate(masks[:, :1], size=size, mode="bilinear", align_corners=False)


class LMSFESAM(UnpromptedNetwork):
    """SAM with a local multi-scale feature encoder, for ultrasound at 256 x 256.

    Args:
        preset: a row of `lmsfe_sam.model.presets.PRESETS`: ``vit_t``, ``vit_b``, ``vit_l`` or ``vit_h``.
        image_size: side of the square input in pixels, a multiple of 16.
        local_encoder: the local branch of eqs (1)-(3).
        mhpm: its multi-axial Hadamard product modules, algorithm 1; needs ``local_encoder``.
        adapters: position, feature and channel-spatial adapters, "ViTA" in table 5.
        balancing_adapter: the cross-branch balancing adapters of eqs (5)-(8); needs
            ``local_encoder``. Without it F_l enters once, before the neck.
        position_norm: ``layer`` or ``instance``, see `lmsfe_sam.model.encoder.adapters.PositionAdapter`.
        position_mode: ``add`` or ``replace``, see the same.
        backbone: CNN of the local encoder: ``plain``, a network of timm by name, or both (``plain+NAME``,
            see `PairedBackbone`); None for the preset's.

    With the four toggles off, ``vit_b``, ``vit_l`` and ``vit_h`` are segment_anything's networks.

    Attributes:
        prompt_kinds: it takes all of `PROMPT_KINDS`.
        mask_choice: one of `MASK_CHOICES`, the mask that `decode` returns unless told otherwise.

    Raises:
        InputError: an unknown preset, or an image size that is not a multiple of 16.

    Example:
        >>> model = LMSFESAM(preset="vit_t").eval()
        >>> logits, iou = model(torch.zeros(1, 3, 256, 256), boxes=torch.tensor([[[30.0, 42, 180, 171]]]))
        >>> tuple(logits.shape), tuple(iou.shape)
        ((1, 1, 256, 256), (1, 1))
    """

    prompt_kinds = PROMPT_KINDS
    mask_choice = "sam"

    def __init__(
        self,
        preset: str = "vit_t",
        image_size: int = 256,
        local_encoder: bool = True,
        mhpm: bool = True,
        adapters: bool = True,
        balancing_adapter: bool = True,
        position_norm: str = "layer",
        position_mode: str = "add",
        backbone: str | None = None,
    ) -> None:
        sizes = get_preset(preset)
        if not isinstance(image_size, int) or image_size <= 0 or image_size % PATCH_SIZE:
            raise InputError(f"image_size {image_size!r} is not possible: give a multiple of {PATCH_SIZE}.")
        if (mhpm or balancing_adapter) and not local_encoder:
            logger.info("mhpm and balancing_adapter have no effect without local_encoder.")
        toggles = {
            "local_encoder": local_encoder,
            "mhpm": mhpm,
            "adapters": adapters,
            "balancing_adapter": balancing_adapter,
        }
        options = {"position_norm": position_norm, "position_mode": position_mode}
        backbone = backbone or sizes.backbone
        image_encoder = ImageEncoder(
            sizes,
            image_size,
            local_encoder,
            mhpm,
            adapters,
            balancing_adapter,
            position_norm,
            position_mode,
            backbone,
        )
        grid, dim = image_size // PATCH_SIZE, sizes.decoder_dim
        super().__init__(
            image_encoder,
            ObjectPromptEncoder(dim, grid, image_size, sizes.dense_prompts),
            ObjectMaskDecoder(dim, sizes.decoder_mlp_dim, _fine_head(sizes, image_encoder)),
            image_size,
        )
        self.preset = preset
        self.toggles = toggles
        self.position_options = options
        self.backbone = backbone
        self.low_res_size = 4 * grid
        self.iou_from_mask = sizes.iou_from_mask
        self.clicked_regions = sizes.clicked_regions
        self.register_state_dict_post_hook(_to_file_names)
        self.register_load_state_dict_pre_hook(_from_file_names)

    def __prepare_scriptable__(self) -> UnpromptedNetwork:
        """Return what `torch.jit.script` compiles in the place of this network."""
        return UnpromptedNetwork(
            self.image_encoder, self.prompt_encoder, self.mask_decoder, self.image_size
        ).train(self.training)

    def describe(self) -> dict[str, object]:
        """Return the description from which this network is rebuilt, for the file beside a checkpoint."""
        return {
            "preset": self.preset,
            "image_size": self.image_size,
            **self.toggles,
            **self.position_options,
            "backbone": self.backbone,
        }

    @property
    def title(self) -> str:
        """The network in a sentence."""
        return f"preset '{self.preset}'"

    def load_pretrained(self, path: str | os.PathLike[str]) -> LoadReport:
        """Load weights of SAM, SAM-Med2D, MedSAM or this project; see `model.weights.pretrained`."""
        return load_pretrained(self, path)

    def summary(self) -> str:
        """Return a table of the parts with their numbers of parameters and of trained parameters."""
        return _summarise(self)

    def forward(
        self,
        image: Tensor,
        boxes: Ragged = None,
        points: Ragged = None,
        point_labels: Ragged = None,
        masks: Ragged = None,
        multimask_output: bool | None = None,
        return_low_res: bool = False,
    ) -> Any:
        """Segment ``image (B, 3, S, S)``; see `decode` for the prompts and what is returned.

        With an image and nothing else, only logits are returned, ``(B, 1, S, S)``.
        """
        options = (boxes, points, point_labels, masks, multimask_output)
        alone = not return_low_res and all(option is None for option in options)
        if alone and self.mask_choice != "best":
            self._check_image(image)
            return super().forward(image)
        decoded = self.decode(self.encode(image), *options, return_low_res)
        return decoded[0] if alone else decoded

    def encode(self, image: Tensor) -> ImageEmbedding:
        """Encode ``image (B, 3, S, S)``, normalised by SAM's mean and standard deviation.

        Raises:
            ValueError: the image has another shape.
        """
        self._check_image(image)
        features, skips = self.image_encoder(image)
        return ImageEmbedding(features, self.mask_decoder.project_skips(skips))

    def _check_image(self, image: Tensor) -> None:
        size = self.image_size
        if image.dim() != 4 or list(image.shape[1:]) != [3, size, size]:
            raise ValueError(f"image has shape {list(image.shape)}, (B, 3, {size}, {size}) is needed")

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
        """Decode prompts on encoded images, N objects each; without any prompt one object each.

        Args:
            embedding: of `encode`.
            boxes: ``(B, N, 4)``: x0, y0, x1, y1 in pixels of the input; a NaN row for none.
            points: ``(B, N, K, 2)``: x, y in pixels of the input.
            point_labels: ``(B, N, K)``: 1 inside, 0 outside, -1 padding.
            masks: ``(B, N, h, w)``: logits of an earlier round, of any size; all NaN for none.
            multimask_output: True for three masks an object; False for the single-mask token; None
                for ``mask_choice``, by default SAM's advice: the best of the three for a lone click, the
                single-mask token for everything else.
            return_low_res: add the logits at 4 x the grid.

        Instead of padded tensors, lists of B tensors with their own N may be given. The result is not
        post-processed; `lmsfe_sam.predict.decoding.decode_prompts` adds the preset's post-processing.

        Returns:
            Logits ``(B, N, S, S)``, predicted IoU ``(B, N)`` and, on demand, low-res logits
            ``(B, N, 4g, 4g)``; with three masks ``(B, N, 3, ...)``. Lists of B tensors, without
            the padding, where lists were given.

        Raises:
            ValueError: shapes that do not fit together.
        """
        prompts, counts = pad_prompts(boxes, points, point_labels, masks)
        tokens = self.decode_tokens(embedding, **vars(prompts))
        outputs = self.choose(tokens, multimask_output, return_low_res)
        if counts is None:
            return outputs
        return tuple([image[:n] for image, n in zip(output, counts, strict=True)] for output in outputs)

    def choose(
        self, tokens: DecodedTokens, multimask_output: bool | None = None, return_low_res: bool = False
    ) -> tuple[Tensor, ...]:
        """Choose among the tokens of `decode_tokens`, and resize: what `decode` returns for tensors."""
        if self.iou_from_mask:
            tokens = tokens._replace(iou=0.5 * (tokens.iou + expected_iou(tokens.masks)))
        chosen, iou = choose_masks(tokens, multimask_output, self.mask_choice)
        outputs = (resize_logits(chosen, self.image_size), iou)
        return (*outputs, resize_logits(chosen, self.low_res_size)) if return_low_res else outputs

    def decode_tokens(
        self,
        embedding: ImageEmbedding,
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> DecodedTokens:
        """Decode prompts as `decode` does, and return all four mask tokens of every object.

        The prompts are padded tensors with the shapes that `decode` names, on any device.
        SAM's attention sees padding tokens, so objects are grouped by how many tokens they have,
        and each group is one pass.
        """
        batch, device = embedding.features.shape[0], embedding.features.device
        prompts, n = flatten_prompts(Prompts(boxes, points, point_labels, masks), batch, device)
        groups = group_prompts(prompts, n)
        parts = [self._decode_group(embedding, group) for group in groups]
        order = torch.argsort(torch.cat([group.flat_index for group in groups]))
        return DecodedTokens(
            torch.cat([part[0] for part in parts])[order].unflatten(0, (batch, n)),
            torch.cat([part[1] for part in parts])[order].unflatten(0, (batch, n)),
            lone_clicks(prompts).reshape(batch, n),
        )

    def _decode_group(self, embedding: ImageEmbedding, group: PromptGroup) -> tuple[Tensor, Tensor]:
        features = embedding.features[group.image]
        skips = [skip[group.image] for skip in embedding.skips]
        sparse, dense, maps = self.prompt_encoder(group.prompts, features)
        positions = self.prompt_encoder.get_dense_pe()
        return self.mask_decoder(features, positions, sparse, dense, skips, maps)


def _fine_head(sizes: Preset, image_encoder: ImageEncoder) -> FineMaskHead | None:
    if not sizes.fine_head:
        return None
    return FineMaskHead(
        sizes.decoder_dim, image_encoder.skip_widths(), sizes.dense_prompts, sizes.context_width
    )


FILE_NAMES = {
    "mask_decoder.fine_head.": "fine_head.",
    "prompt_encoder.map_encoder.": "dense_prompt_encoder.",
}
"""How the names of some tensors begin here, and in files, where they stay those of version 0.1."""


def _to_file_names(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    _rename(state, {prefix + here: prefix + file for here, file in FILE_NAMES.items()})


def _from_file_names(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    _rename(state, {prefix + file: prefix + here for here, file in FILE_NAMES.items()})


def _rename(state: dict[str, Tensor], beginnings: dict[str, str]) -> None:
    """Rename tensors in place, and keep their order."""
    renamed = {}
    for name in list(state):
        old = next((old for old in beginnings if name.startswith(old)), "")
        renamed[beginnings.get(old, "") + name.removeprefix(old)] = state.pop(name)
    state.update(renamed)


def _summarise(model: nn.Module) -> str:
    """Count parameters by part: the adapters each by name, everything else by its module."""
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        row = counts.setdefault(_part(name), [0, 0])
        row[0] += parameter.numel()
        row[1] += parameter.numel() if parameter.requires_grad else 0
    total = [sum(row[i] for row in counts.values()) for i in range(2)]
    width = max(len(part) for part in counts)
    lines = [f"{'part':<{width}}  {'parameters':>12}  {'trained':>12}"]
    lines += [f"{part:<{width}}  {row[0]:>12,}  {row[1]:>12,}" for part, row in counts.items()]
    lines.append(f"{'total':<{width}}  {total[0]:>12,}  {total[1]:>12,}")
    return "\n".join(lines)


def _part(name: str) -> str:
    pieces = name.split(".")
    for adapter in LISTED:
        if adapter in pieces:
            return f"image_encoder: {adapter}"
    return "image_encoder: ViT" if pieces[0] == "image_encoder" else pieces[0]
