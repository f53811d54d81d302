"""`LMSFESAM`: encode an image once, decode any number of prompts on it."""

from __future__ import annotations

import logging
import os
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lmsfe_sam.errors import InputError
from lmsfe_sam.model.checkpoints import LoadReport, load_pretrained
from lmsfe_sam.model.dense_prompts import DensePromptEncoder, draw_prompts
from lmsfe_sam.model.image_encoder import PATCH_SIZE, ImageEncoder
from lmsfe_sam.model.mask_decoder import FineMaskHead, ObjectMaskDecoder, ObjectPromptEncoder
from lmsfe_sam.model.presets import get_preset
from lmsfe_sam.model.prompt_batch import ObjectPrompts, flatten_prompts, pad_prompts
from lmsfe_sam.model.summary import summarise
from lmsfe_sam.predict.clicked_regions import drop_unclicked

logger = logging.getLogger(__name__)


class ImageEmbedding(NamedTuple):
    """What `LMSFESAM.decode` needs of B images.

    Attributes:
        features: ``(B, C, g, g)``, the image embedding.
        skips: features at 1/2, 1/4 and 1/8 of the input for the fine mask head, or an empty list.
    """

    features: Tensor
    skips: list[Tensor]


class DecodedTokens(NamedTuple):
    """All four mask tokens of every object, before one is chosen.

    Attributes:
        masks: logits ``(B, N, 4, s, s)``; s is 4 x the grid, or 8 x with the fine head.
        iou: predicted IoU ``(B, N, 4)``.
        lone_click: ``(B, N)``, objects whose only prompt is one click.
    """

    masks: Tensor
    iou: Tensor
    lone_click: Tensor


class LMSFESAM(nn.Module):
    """SAM with a local multi-scale feature encoder, for ultrasound at 256 x 256.

    Args:
        preset: a row of `lmsfe_sam.model.presets.PRESETS`: ``vit_t``, ``vit_b``, ``vit_l`` or ``vit_h``.
        image_size: side of the square input in pixels, a multiple of 16.
        local_encoder: the local branch of eqs (1)-(3).
        mhpm: its multi-axial Hadamard product modules, algorithm 1; needs ``local_encoder``.
        adapters: position, feature and channel-spatial adapters, "ViTA" in table 5.
        balancing_adapter: the cross-branch balancing adapters of eqs (5)-(8); needs
            ``local_encoder``. Without it F_l enters once, before the neck.
        position_norm: ``layer`` or ``instance``, see `lmsfe_sam.model.adapters.PositionAdapter`.
        position_mode: ``add`` or ``replace``, see the same.
        backbone: CNN of the local encoder: ``plain``, or the name of a network in timm; None for the
            preset's.

    With the four toggles off, ``vit_b``, ``vit_l`` and ``vit_h`` are segment_anything's networks.

    Raises:
        InputError: an unknown preset, or an image size that is no multiple of 16.

    Example:
        >>> model = LMSFESAM(preset="vit_t").eval()
        >>> logits, iou = model(torch.zeros(1, 3, 256, 256), boxes=torch.tensor([[[30.0, 42, 180, 171]]]))
        >>> tuple(logits.shape), tuple(iou.shape)
        ((1, 1, 256, 256), (1, 1))
    """

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
        super().__init__()
        sizes = get_preset(preset)
        if not isinstance(image_size, int) or image_size <= 0 or image_size % PATCH_SIZE:
            raise InputError(f"image_size {image_size!r} is not possible: give a multiple of {PATCH_SIZE}.")
        if (mhpm or balancing_adapter) and not local_encoder:
            logger.info("mhpm and balancing_adapter have no effect without local_encoder.")
        self.preset = preset
        self.image_size = image_size
        self.toggles = {
            "local_encoder": local_encoder,
            "mhpm": mhpm,
            "adapters": adapters,
            "balancing_adapter": balancing_adapter,
        }
        self.position_options = {"position_norm": position_norm, "position_mode": position_mode}
        self.backbone = backbone or sizes.backbone
        grid = image_size // PATCH_SIZE
        dim = sizes.decoder_dim
        self.low_res_size = 4 * grid
        self.iou_from_mask = sizes.iou_from_mask
        self.clicked_regions = sizes.clicked_regions
        self.image_encoder = ImageEncoder(
            sizes,
            image_size,
            local_encoder,
            mhpm,
            adapters,
            balancing_adapter,
            position_norm,
            position_mode,
            self.backbone,
        )
        self.prompt_encoder = ObjectPromptEncoder(dim, grid, image_size)
        self.mask_decoder = ObjectMaskDecoder(dim, sizes.decoder_mlp_dim)
        self.dense_prompt_encoder = DensePromptEncoder(dim) if sizes.dense_prompts else None
        self.fine_head = (
            FineMaskHead(
                dim,
                self.image_encoder.skip_widths(),
                sizes.dense_prompts,
                sizes.context_width,
            )
            if sizes.fine_head
            else None
        )

    def describe(self) -> dict[str, object]:
        """What it takes to build this network again, for the file beside a checkpoint."""
        return {
            "preset": self.preset,
            "image_size": self.image_size,
            **self.toggles,
            **self.position_options,
            "backbone": self.backbone,
        }

    @torch.jit.unused
    def load_pretrained(self, path: str | os.PathLike[str]) -> LoadReport:
        """Load weights of SAM, SAM-Med2D, MedSAM or this project; see `lmsfe_sam.model.checkpoints`."""
        return load_pretrained(self, path)

    @torch.jit.unused
    def summary(self) -> str:
        """A table of the parts with their parameters, and how many of these train."""
        return summarise(self)

    def forward(
        self,
        image: Tensor,
        boxes: Tensor | list[Tensor] | None = None,
        points: Tensor | list[Tensor] | None = None,
        point_labels: Tensor | list[Tensor] | None = None,
        masks: Tensor | list[Tensor] | None = None,
        multimask_output: bool | None = None,
        return_low_res: bool = False,
    ) -> Any:
        """Segment ``image (B, 3, S, S)``; see `decode` for the prompts and what is returned.

        With an image and nothing else, logits alone, ``(B, 1, S, S)``.
        """
        if torch.jit.is_scripting():
            return self._unprompted(image)
        else:  # TorchScript compiles whatever stands outside of the branch
            return self._segment(image, boxes, points, point_labels, masks, multimask_output, return_low_res)

    @torch.jit.unused
    def _segment(self, image: Tensor, *prompts_and_options: Any) -> Any:
        *prompts, return_low_res = prompts_and_options
        if not return_low_res and all(p is None for p in prompts):
            return self._unprompted(image)
        return self.decode(self.encode(image), *prompts_and_options)

    def encode(self, image: Tensor) -> ImageEmbedding:
        """Encode ``image (B, 3, S, S)``, normalised by SAM's mean and deviation.

        Raises:
            ValueError: another shape.
        """
        size = self.image_size
        if image.dim() != 4 or list(image.shape[1:]) != [3, size, size]:
            raise ValueError(f"image has shape {list(image.shape)}, (B, 3, {size}, {size}) is needed")
        features, skips = self.image_encoder(image)
        if self.fine_head is not None:
            return ImageEmbedding(features, self.fine_head.project(skips))
        skips = skips[:0]
        return ImageEmbedding(features, skips)

    def _unprompted(self, image: Tensor) -> Tensor:
        embedding = self.encode(image)
        features = embedding.features
        sparse = torch.zeros(
            features.shape[0], 0, features.shape[1], dtype=features.dtype, device=features.device
        )
        dense = self.prompt_encoder.no_mask_embed.weight[:, :, None, None]
        maps: Tensor | None = None
        if self.dense_prompt_encoder is not None:
            maps = self.dense_prompt_encoder.blank(features)
        masks, _ = self._decode_objects(features, embedding.skips, sparse, dense, maps)
        size = [self.image_size, self.image_size]
        return F.interpolate(masks[:, :1], size=size, mode="bilinear", align_corners=False)

    def _decode_objects(
        self, features: Tensor, skips: list[Tensor], sparse: Tensor, dense: Tensor, maps: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """All four masks ``(M, 4, s, s)`` and predicted IoU ``(M, 4)`` of M objects."""
        positions = self.prompt_encoder.get_dense_pe()
        features, vectors, iou = self.mask_decoder(features + dense, positions, sparse)
        fine = self.mask_decoder.upscale_once(features)
        if self.fine_head is not None:
            fine = self.fine_head.join(fine, skips, maps)
        fine = self.mask_decoder.upscale_again(fine)
        if self.fine_head is not None:
            fine = self.fine_head(fine, skips, maps)
        m, c, h, w = fine.shape
        return torch.bmm(vectors, fine.reshape(m, c, h * w)).reshape(m, -1, h, w), iou

    @torch.jit.unused
    def decode(
        self,
        embedding: ImageEmbedding,
        boxes: Tensor | list[Tensor] | None = None,
        points: Tensor | list[Tensor] | None = None,
        point_labels: Tensor | list[Tensor] | None = None,
        masks: Tensor | list[Tensor] | None = None,
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
                for SAM's advice: the best of the three for a lone click, the single-mask token
                for everything else.
            return_low_res: add the logits at 4 x the grid.

        Instead of padded tensors, lists of B tensors with their own N may be given. `vit_t` drops
        regions that no click inside touches where clicks are all there is (`drop_unclicked`).

        Returns:
            Logits ``(B, N, S, S)``, predicted IoU ``(B, N)`` and, on demand, low-res logits
            ``(B, N, 4g, 4g)``; with three masks ``(B, N, 3, ...)``. Lists of B tensors, without
            the padding, where lists were given.

        Raises:
            ValueError: shapes that do not fit together.
        """
        prompts, counts = pad_prompts(boxes, points, point_labels, masks)
        tokens = self.decode_tokens(embedding, *prompts, clicked_regions=self.clicked_regions)
        if self.iou_from_mask:
            tokens = tokens._replace(iou=0.5 * (tokens.iou + expected_iou(tokens.masks)))
        chosen, iou = choose_masks(tokens, multimask_output)
        outputs = [self._resize(chosen, self.image_size), iou]
        if return_low_res:
            outputs.append(self._resize(chosen, self.low_res_size))
        if counts is None:
            return tuple(outputs)
        return tuple([image[:n] for image, n in zip(output, counts, strict=True)] for output in outputs)

    @torch.jit.unused
    def decode_tokens(
        self,
        embedding: ImageEmbedding,
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        masks: Tensor | None = None,
        *,
        clicked_regions: bool = False,
    ) -> DecodedTokens:
        """Decode prompts as `decode` does, and return all four mask tokens of every object.

        The prompts are padded tensors with the shapes that `decode` names, on any device.
        SAM's attention sees padding tokens, so objects are grouped by how many tokens they have,
        and each group is one pass. With ``clicked_regions`` what `drop_unclicked` drops is gone.
        """
        batch = embedding.features.shape[0]
        prompts = flatten_prompts(batch, boxes, points, point_labels, masks, embedding.features.device)
        groups = prompts.groups()
        parts = [self._decode_group(embedding, group) for group in groups]
        masks_of_groups = [part[0] for part in parts]
        if clicked_regions:
            pairs = zip(masks_of_groups, groups, strict=True)
            masks_of_groups = [drop_unclicked(part, group, self.image_size) for part, group in pairs]
        order = torch.argsort(torch.cat([group.index for group in groups]))
        logits = torch.cat(masks_of_groups)[order]
        iou = torch.cat([part[1] for part in parts])[order]
        n = prompts.per_image
        return DecodedTokens(
            logits.reshape(batch, n, *logits.shape[1:]),
            iou.reshape(batch, n, -1),
            prompts.lone_clicks().reshape(batch, n),
        )

    def _decode_group(self, embedding: ImageEmbedding, group: ObjectPrompts) -> tuple[Tensor, Tensor]:
        features = embedding.features[group.image]
        skips = [skip[group.image] for skip in embedding.skips]
        sparse, dense = self._embed(group)
        maps: Tensor | None = None
        if self.dense_prompt_encoder is not None:
            maps = self.dense_prompt_encoder.blank(features)
            if group.any():
                maps = draw_prompts(
                    group.boxes, group.points, group.labels, group.masks, self.image_size, maps.shape[-1]
                ).to(features.dtype)
                dense = dense + self.dense_prompt_encoder(maps)
        return self._decode_objects(features, skips, sparse, dense, maps)

    def _embed(self, group: ObjectPrompts) -> tuple[Tensor, Tensor]:
        clicks = None
        if group.points is not None and group.labels is not None:
            clicks = (group.points, group.labels)
        masks = group.masks
        if masks is not None:
            size = [self.low_res_size, self.low_res_size]
            masks = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
        sparse, dense = self.prompt_encoder(clicks, group.boxes, masks)
        count = group.image.shape[0]
        return sparse.expand(count, -1, -1), dense.expand(count, -1, -1, -1)

    @staticmethod
    def _resize(logits: Tensor, size: int) -> Tensor:
        if logits.shape[-1] == size:
            return logits
        flat = logits.reshape(-1, 1, *logits.shape[-2:])
        if logits.shape[-1] == 2 * size:
            flat = F.avg_pool2d(flat, 2)
        else:
            flat = F.interpolate(flat, size=[size, size], mode="bilinear", align_corners=False)
        return flat.reshape(*logits.shape[:-2], size, size)


def choose_masks(tokens: DecodedTokens, multimask_output: bool | None) -> tuple[Tensor, Tensor]:
    """Choose among the mask tokens: see `LMSFESAM.decode`.

    Returns:
        Logits ``(B, N, s, s)`` and predicted IoU ``(B, N)``; ``(B, N, 3, s, s)`` and ``(B, N, 3)`` where
        ``multimask_output`` is true.
    """
    if multimask_output:
        return tokens.masks[:, :, 1:], tokens.iou[:, :, 1:]
    choice = torch.zeros_like(tokens.lone_click, dtype=torch.long)
    if multimask_output is None:
        best = 1 + tokens.iou[:, :, 1:].argmax(dim=-1)
        choice = torch.where(tokens.lone_click, best, choice)
    side = tokens.masks.shape[-1]
    masks = tokens.masks.gather(2, choice[:, :, None, None, None].expand(-1, -1, 1, side, side))
    return masks[:, :, 0], tokens.iou.gather(2, choice[:, :, None])[:, :, 0]


def expected_iou(logits: Tensor) -> Tensor:
    """The IoU that a mask has with the truth, on average, as far as its own probabilities are right.

    Probability inside the mask over its area and the probability outside: ``(..., H, W)`` to ``(...)``.
    """
    probability, inside = logits.float().sigmoid(), logits > 0
    shared = (probability * inside).sum(dim=(-2, -1))
    union = inside.sum(dim=(-2, -1)) + probability.sum(dim=(-2, -1)) - shared
    return shared / union.clamp(min=1e-6)
