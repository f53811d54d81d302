"""`Predictor`: encode an image once, segment its objects from many prompts, numpy in and numpy out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from lmsfe_sam.errors import InputError, short_repr
from lmsfe_sam.model.checkpoints import network_from_checkpoint
from lmsfe_sam.model.network import LMSFESAM, ImageEmbedding
from lmsfe_sam.predict.decoding import DecodedObjects, decode_objects
from lmsfe_sam.predict.postprocessing import masks_at, paint_objects
from lmsfe_sam.predict.preprocessing import to_rgb_uint8
from lmsfe_sam.predict.zoom import AUTO, WindowEncoder, Zoom
from lmsfe_sam.prompts.coordinates import Size, Window, full_window
from lmsfe_sam.prompts.prompt import ObjectPrompt, Prompts

Prediction = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Masks (C, H, W) bool, predicted IoU (C,) and low-res logits (C, h, w), the last two float32."""


class Predictor:
    """Segments objects of an image, which is encoded once.

    Args:
        model: put into evaluation mode and channels-last memory format; it stays on its device.

    Example:
        >>> predictor = Predictor(LMSFESAM(preset="vit_t"))
        >>> predictor.set_image(np.zeros((300, 400), np.uint8))
        >>> masks, iou, low_res = predictor.predict(box=[30, 42, 180, 171])
        >>> masks.shape, masks.dtype, iou.shape
        ((1, 300, 400), dtype('bool'), (1,))
    """

    def __init__(self, model: LMSFESAM) -> None:
        # Channels last is faster on a processor: benchmarks/vit_t.py.
        self.model: LMSFESAM = model.eval().to(memory_format=torch.channels_last)
        self._image = torch.zeros(3, 0, 0, dtype=torch.uint8)
        self._embedding: ImageEmbedding | None = None
        self._size: Size = (0, 0)

    @classmethod
    def from_bundle(
        cls, bundle: str | os.PathLike[str] = "bundle", device: str | torch.device = "cpu"
    ) -> Predictor:
        """Load ``models/model.pt`` of a bundle's folder.

        Raises:
            InputError: there is none, or it cannot be loaded.
        """
        return cls.from_checkpoint(Path(bundle) / "models" / "model.pt", device)

    @classmethod
    def from_checkpoint(
        cls, checkpoint: str | os.PathLike[str], device: str | torch.device = "cpu"
    ) -> Predictor:
        """Load one of this project's checkpoints, ``NAME.pt`` with ``NAME.json`` beside it.

        Raises:
            InputError: there is none, or it cannot be loaded.
        """
        return cls(network_from_checkpoint(checkpoint).to(device))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def image_size(self) -> Size:
        """Height and width of the current image."""
        self._current_embedding()
        return self._size

    @torch.no_grad()
    def set_image(self, array: ArrayLike) -> None:
        """Encode an image; all prompts refer to it until the next one.

        Args:
            array: (H, W) or (H, W, 3), as `lmsfe_sam.predict.preprocessing.to_rgb_uint8` takes it: uint8 as
                it is, other types stretched from min..max to 0..255.

        Raises:
            InputError: not an image.
        """
        self._embedding = None
        self._image = torch.from_numpy(to_rgb_uint8(array)).permute(2, 0, 1)
        self._size = (self._image.shape[1], self._image.shape[2])
        self._embedding = WindowEncoder(self.model, self._image)([full_window(self._size)])

    def predict(
        self,
        box: ArrayLike | None = None,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        multimask_output: bool | None = None,
    ) -> Prediction:
        """Segment one object, without a prompt whatever the network takes for the object.

        Args:
            box: x0, y0, x1, y1 in pixels of the image, x1 and y1 exclusive; it is cut at the image's
                border.
            points: (K, 2), x before y.
            labels: (K,), 1 inside and 0 outside; all 1 if left out.
            mask: low-res logits of an earlier call, (h, w) or (1, h, w).
            multimask_output: True for three masks; False for one; None for SAM's advice: the best
                of the three for a lone click, the single mask for everything else.

        Returns:
            Masks (C, H, W), predicted IoU (C,) and low-res logits (C, h, w); C is 3 or 1.

        Raises:
            InputError: no image yet, or an invalid prompt, or one outside the image.
        """
        self._current_embedding()
        if multimask_output is not None and not isinstance(multimask_output, (bool, np.bool_)):
            raise InputError(f"multimask_output is {short_repr(multimask_output)}: give True, False or None.")
        prompt = ObjectPrompt(_as_list(box), _as_list(points), _as_list(labels))
        self._check([prompt])
        decoded = self._decode([prompt], None if mask is None else _one_mask(mask), multimask_output)
        if decoded.iou.ndim == 2:
            decoded = DecodedObjects(*(part[0] for part in decoded))
        return self._to_numpy(decoded)

    def predict_objects(self, prompts: Sequence[ObjectPrompt]) -> Prediction:
        """Segment many objects of the image in one batch, one mask each.

        Returns:
            Masks (N, H, W), predicted IoU (N,) and low-res logits (N, h, w).

        Raises:
            InputError: no image yet, no prompt, or one that lies outside the image.
        """
        self._current_embedding()
        self._check(prompts)
        return self._to_numpy(self._decode(prompts))

    def segment(self, prompts: Sequence[ObjectPrompt], zoom: Zoom = AUTO) -> tuple[np.ndarray, np.ndarray]:
        """Segment many objects into one label map, as the command line does, in an image of any size.

        Objects that are small in the image are predicted in a window around them, and each window is
        encoded. Little is stored of an object, so that hundreds of them in a large image take little
        memory, where `predict_objects` would return as many masks of its size.

        Args:
            prompts: of the objects.
            zoom: how their windows are chosen; by default as the command line does it.

        Returns:
            Labels (H, W), 0 outside of all objects and k in the k-th, that of the higher predicted IoU
            where they overlap, and predicted IoU (N,).

        Raises:
            InputError: no image yet, no prompt, or one that lies outside the image.
        """
        embedding = self._current_embedding()
        self._check(prompts)
        encode = WindowEncoder(self.model, self._image)

        def encode_new(windows: Sequence[Window]) -> ImageEmbedding:
            return embedding if list(windows) == [full_window(self._size)] else encode(windows)

        predictions = zoom.segment(self.model, encode_new, Prompts.of(prompts), self._size)
        iou = np.array([float(one.iou) for one in predictions], dtype=np.float32)
        return paint_objects([one.parts() for one in predictions], iou.tolist(), self._size), iou

    def _check(self, prompts: Sequence[ObjectPrompt]) -> None:
        if not isinstance(prompts, Sequence) or not all(isinstance(one, ObjectPrompt) for one in prompts):
            raise InputError(f"The prompts are {short_repr(prompts)}: give a list of ObjectPrompt.")
        if not prompts:
            raise InputError("The list of prompts is empty: give one ObjectPrompt an object.")
        for prompt in prompts:
            prompt.check_inside(*self._size)

    def _decode(
        self,
        prompts: Sequence[ObjectPrompt],
        masks: Tensor | None = None,
        multimask_output: bool | None = None,
    ) -> DecodedObjects:
        side = self.model.image_size
        clipped = Prompts.of(prompts).clip(full_window(self._size))
        scaled = replace(clipped.scale(self._size, (side, side)), masks=masks)
        return decode_objects(self.model, self._current_embedding(), scaled, multimask_output)

    def _to_numpy(self, decoded: DecodedObjects) -> Prediction:
        masks = masks_at(decoded.logits, self._size)
        return masks, decoded.iou.float().cpu().numpy(), decoded.low_res.float().cpu().numpy()

    def _current_embedding(self) -> ImageEmbedding:
        if self._embedding is None:
            raise InputError("There is no image to segment yet: call set_image first.")
        return self._embedding


def _as_list(values: ArrayLike | None) -> Any:
    """Return an array as nested lists; what is none is for `ObjectPrompt` to judge."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    return values.tolist() if isinstance(values, np.ndarray) else values


def _one_mask(mask: ArrayLike) -> Tensor:
    form = "give the finite low-res logits of one mask, (h, w) or (1, h, w)."
    if isinstance(mask, Tensor):
        mask = mask.detach().cpu().numpy()
    try:
        array = np.asarray(mask)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"The mask prompt is {short_repr(mask)}: {form}") from error
    if array.dtype.kind not in "iuf":
        raise InputError(f"The mask prompt is {short_repr(mask)}: {form}")
    if array.ndim == 3 and len(array) > 1:
        raise InputError(
            f"The mask prompt holds {len(array)} masks: choose one of them, such as low_res[iou.argmax()]."
        )
    if array.ndim not in (2, 3) or array.size == 0:
        raise InputError(f"The mask prompt has shape {array.shape}: {form}")
    with np.errstate(over="ignore"):
        logits = array.astype(np.float32)
    if not np.isfinite(logits).all():
        raise InputError(f"The mask prompt holds NaN or infinity: {form}")
    return torch.from_numpy(logits).reshape(1, *logits.shape[-2:])
