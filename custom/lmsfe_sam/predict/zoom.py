"""Predicting objects in windows of an image, and choosing a window for each object.

`predict_windows` encodes windows in batches, each of them once, whatever the number of objects in it.
`Zoom` predicts each object in a window around it; `lmsfe_sam.inference.sliding` in a grid of windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from lmsfe_sam.predict.decoding import decode_chunks
from lmsfe_sam.predict.postprocessing import MaskPart, mask_parts
from lmsfe_sam.predict.preprocessing import load_windows
from lmsfe_sam.prompts.coordinates import Size, Window, full_window, scale_boxes, window_around
from lmsfe_sam.prompts.prompt import Prompts

if TYPE_CHECKING:
    from lmsfe_sam.model.network import LMSFESAM, ImageEmbedding

Encode = Callable[[Sequence[Window]], "ImageEmbedding"]
"""Encodes windows of one image."""


class View(NamedTuple):
    """A window, and the objects, by their numbers, that are decoded in it."""

    window: Window
    objects: list[int]


class ObjectMask(Protocol):
    """The mask of one object at the image's size, and its predicted IoU."""

    @property
    def iou(self) -> Tensor | float:
        """Predicted IoU."""
        ...

    def parts(self) -> Iterator[MaskPart]:
        """Yield the mask, in pixels of the image."""
        ...


class WindowPrediction(NamedTuple):
    """What the network predicts for one object in one window.

    Attributes:
        object: its number.
        window: where.
        logits: (S, S) over the window, or (3, S, S).
        iou: predicted, () or (3,).
        low_res: logits (h, w) to feed back as a mask prompt, or (3, h, w).
    """

    object: int
    window: Window
    logits: Tensor
    iou: Tensor
    low_res: Tensor

    def parts(self) -> Iterator[MaskPart]:
        """Yield the mask of the window."""
        return mask_parts(self.logits, (self.window.top, self.window.left), self.window.size)


class WindowEncoder:
    """Encodes windows of an image.

    Args:
        network: in evaluation mode.
        image: (3, H, W) in 0..255, in memory; windows go to the network's device batch by batch.
        encode: encodes a batch (B, 3, S, S); the network's own ``encode`` if left out.
    """

    def __init__(
        self, network: LMSFESAM, image: Tensor, encode: Callable[[Tensor], ImageEmbedding] | None = None
    ) -> None:
        self.image = image
        self.side = network.image_size
        self.device = next(network.parameters()).device
        self.encode = encode or network.encode

    @torch.no_grad()
    def __call__(self, windows: Sequence[Window]) -> ImageEmbedding:
        """Encode ``windows`` in one pass."""
        return self.encode(load_windows(self.image, windows, self.side, self.device))


def predict_windows(
    network: LMSFESAM,
    encode: Encode,
    views: Sequence[View],
    prompts: Prompts,
    batch_size: int = 4,
    multimask_output: bool | None = None,
) -> Iterator[WindowPrediction]:
    """Predict the objects of each view.

    Args:
        network: in evaluation mode.
        encode: encodes windows of the image.
        views: which objects to predict in which windows.
        prompts: of N objects, in pixels of the image; mask prompts cover the window they are used in.
        batch_size: windows encoded together.
        multimask_output: as ``LMSFESAM.decode`` takes it.

    Yields:
        A prediction for each object of each view, view by view.
    """
    square = (network.image_size, network.image_size)
    for start in range(0, len(views), batch_size):
        batch = views[start : start + batch_size]
        embedding = encode([view.window for view in batch])
        objects = [number for view in batch for number in view.objects]
        images = [image for image, view in enumerate(batch) for _ in view.objects]
        in_windows = Prompts.concatenate(
            [prompts.select(view.objects).clip(view.window).scale(view.window.size, square) for view in batch]
        )
        chunks = decode_chunks(network, embedding, in_windows, images, multimask_output)
        predictions = (one for chunk in chunks for one in zip(*chunk, strict=True))
        for number, image, prediction in zip(objects, images, predictions, strict=True):
            yield WindowPrediction(number, batch[image].window, *prediction)


@dataclass(frozen=True)
class Zoom:
    """Predicts each object in a window around it.

    An object with a box is predicted in a window around its box and its positive clicks. One with only
    clicks is first predicted in the full image (in a large image, in a window around its clicks) and then
    again in a window around that first mask. One without any prompt is predicted in the full image.

    Args:
        share: of each side of the window that the object takes; a smaller share shows more context.
        below: an object whose box takes at least this share of an image is predicted in the whole
            image, unless that is large; None to zoom in on every object.
        large: an image is large if one of its sides exceeds the network's input by more than this factor;
            the first window around clicks has half of that as its side. None: no image is large.
        min_side: smallest side of a window, in pixels of the image; None for the side of the network's
            input, so that no window is enlarged.
        batch_size: windows encoded together.
    """

    share: float = 0.7
    below: float | None = None
    large: int | None = 4
    min_side: int | None = None
    batch_size: int = 4

    @torch.no_grad()
    def segment(
        self, network: LMSFESAM, encode: Encode, prompts: Prompts, size: Size
    ) -> list[WindowPrediction]:
        """Segment N objects.

        Args:
            network: in evaluation mode.
            encode: encodes windows of the image.
            prompts: of the objects, in pixels of the image.
            size: height and width of the image.
        """
        side = network.image_size
        boxed = prompts.has_box()
        clicked = (~boxed & (prompts.clicks() > 0)).nonzero()[:, 0].tolist()
        windows = [full_window(size)] * len(prompts)
        for number in clicked:
            windows[number] = self._search_window(prompts.select([number]), size, side)
        predicted = self._predict(network, encode, prompts, {number: windows[number] for number in clicked})
        for number in boxed.nonzero()[:, 0].tolist():
            prompt = prompts.select([number])
            assert prompt.boxes is not None
            windows[number] = self._zoom_window(prompt.boxes[0].numpy(), prompt, windows[number], size, side)
        for number, first in predicted.items():
            box = mask_box(first.logits, first.window)
            if box is not None:
                windows[number] = self._zoom_window(box, prompts.select([number]), first.window, size, side)
        rest = {
            number: window
            for number, window in enumerate(windows)
            if number not in predicted or predicted[number].window != window
        }
        predicted |= self._predict(network, encode, prompts, rest)
        return [predicted[number] for number in range(len(prompts))]

    def _predict(
        self, network: LMSFESAM, encode: Encode, prompts: Prompts, windows: dict[int, Window]
    ) -> dict[int, WindowPrediction]:
        predictions = predict_windows(network, encode, group_by_window(windows), prompts, self.batch_size)
        return {prediction.object: prediction for prediction in predictions}

    def _search_window(self, prompt: Prompts, size: Size, side: int) -> Window:
        """Return the window in which an object with clicks alone is first predicted."""
        if self.large is None or not self._is_large(size, side):
            return full_window(size)
        positive = _clicks(prompt, 1)
        clicks = positive if len(positive) else _clicks(prompt, 0)
        return window_around(_bounds(clicks), size, self.share, self.large * side // 2)

    def _is_large(self, size: Size, side: int) -> bool:
        return self.large is not None and max(size) > self.large * side

    def _zoom_window(self, box: np.ndarray, prompt: Prompts, window: Window, size: Size, side: int) -> Window:
        """Return the window around an object with a known box (4,); ``window`` if zooming is not needed."""
        width, height = box[2:] - box[:2]
        if (
            self.below is not None
            and not self._is_large(size, side)
            and width * height >= self.below * size[0] * size[1]
        ):
            return window
        corners = np.concatenate([box.reshape(2, 2), _clicks(prompt, 1)])
        return window_around(_bounds(corners), size, self.share, self.min_side or side)


AUTO = Zoom(below=0.01)
"""The settings that measure best; the values of ``configs/inference.json``."""


def group_by_window(windows: Mapping[int, Window]) -> list[View]:
    """Group objects that are predicted in the same window into one view."""
    objects: dict[Window, list[int]] = {}
    for number, window in windows.items():
        objects.setdefault(window, []).append(number)
    return [View(window, numbers) for window, numbers in objects.items()]


def mask_box(logits: Tensor, window: Window) -> np.ndarray | None:
    """Return the box (4,) around the positive logits (S, S) of a window, in pixels of the image; or None."""
    positive = logits > 0
    rows, columns = (positive.any(dim=dim).nonzero()[:, 0].tolist() for dim in (1, 0))
    if not rows:
        return None
    corners = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    box = scale_boxes(corners, (logits.shape[0], logits.shape[1]), window.size)
    return box + np.array([window.left, window.top] * 2)


def _clicks(prompt: Prompts, label: int) -> np.ndarray:
    """Return the clicks (K, 2) of one object that have this label."""
    if prompt.points is None or prompt.point_labels is None:
        return np.empty((0, 2))
    return prompt.points[prompt.point_labels == label].numpy()


def _bounds(points: np.ndarray) -> np.ndarray:
    """Return the box (4,) around points (K, 2)."""
    return np.concatenate([points.min(axis=0), points.max(axis=0)])
