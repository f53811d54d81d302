"""Asking the network about objects in windows of an image, and choosing a window for each object.

`ask` encodes windows in batches, each of them once, whatever the number of objects in it. `Zoom` looks
at each object in a window around it. `lmsfe_sam.inference.sliding` looks at a grid of windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from lmsfe_sam.predict.decoding import decode_pairs, scale_prompts, unpack_prompts
from lmsfe_sam.predict.postprocessing import Block, object_blocks
from lmsfe_sam.predict.windows import View, Window, clip_prompts, load_windows, whole, window_around
from lmsfe_sam.prompts.coordinates import Size, scale_boxes

if TYPE_CHECKING:
    from lmsfe_sam.model.network import LMSFESAM, ImageEmbedding

Encode = Callable[[Sequence[Window]], "ImageEmbedding"]
"""Encodes windows of one image."""


class ObjectMask(Protocol):
    """The mask of one object at the image's size, and how good the network takes it to be."""

    @property
    def iou(self) -> Tensor | float:
        """Predicted IoU."""
        ...

    def blocks(self) -> Iterator[Block]:
        """Yield the mask, in pixels of the image."""
        ...


class Found(NamedTuple):
    """The network's answer for one object in one window.

    Attributes:
        row: which object.
        window: where.
        logits: (S, S) over the window, or (3, S, S).
        iou: predicted, () or (3,).
        low_res: logits (h, w) to feed back as a mask prompt, or (3, h, w).
    """

    row: int
    window: Window
    logits: Tensor
    iou: Tensor
    low_res: Tensor

    def blocks(self) -> Iterator[Block]:
        """Yield the mask of the window."""
        return object_blocks(self.logits, (self.window.top, self.window.left), self.window.size)


class WindowEncoder:
    """Encodes windows of an image.

    Args:
        network: in evaluation mode.
        image: (3, H, W) in 0..255, in memory; windows go to the network's device batch by batch.
        encode: what encodes a batch (B, 3, S, S); the network's own ``encode`` if left out.
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


def ask(
    network: LMSFESAM,
    encode: Encode,
    views: Sequence[View],
    packed: np.ndarray,
    batch_size: int = 4,
    masks: Tensor | None = None,
    multimask_output: bool | None = None,
) -> Iterator[Found]:
    """Ask about the objects of each view.

    Args:
        network: in evaluation mode.
        encode: encodes windows of the image.
        views: which objects to ask about in which windows.
        packed: (N, 4 + 3 K) in pixels of the image.
        batch_size: windows encoded together.
        masks: logits (N, h, w) of an earlier round over the same windows, or None.
        multimask_output: as `LMSFESAM.decode` takes it.

    Yields:
        An answer for each object of each view, view by view.
    """
    square = (network.image_size, network.image_size)
    for start in range(0, len(views), batch_size):
        batch = views[start : start + batch_size]
        embedding = encode([view.window for view in batch])
        rows = [row for view in batch for row in view.objects]
        places = [place for place, view in enumerate(batch) for _ in view.objects]
        prompts = [
            scale_prompts(clip_prompts(packed[view.objects], view.window), view.window.size, square)
            for view in batch
        ]
        own_masks = None if masks is None else masks[rows]
        answers = decode_pairs(
            network, embedding, np.concatenate(prompts), places, own_masks, multimask_output
        )
        for row, place, answer in zip(rows, places, answers, strict=True):
            yield Found(row, batch[place].window, *answer)


@dataclass(frozen=True)
class Zoom:
    """Looks at each object in a window around it.

    An object with a box is looked at once, around its box and the clicks inside of it. One with clicks
    alone is first looked for in the whole image, in a large one near its clicks, and then looked at
    around what was found there. One without any prompt is looked for in the whole image.

    Args:
        share: of each side of the window that is the object's; less shows more of what is around.
        below: an object whose box takes at least this share of an image is answered from the whole image,
            unless that is large; None for zooming in on all.
        large: an image with a side of more than so many sides of the network's input is large; half of
            them are near.
        least: the least side of a window, in pixels of the image; None for the side of the network's
            input, so that no window is enlarged.
        batch_size: windows encoded together.
    """

    share: float = 0.7
    below: float | None = None
    large: int = 4
    least: int | None = None
    batch_size: int = 4

    @torch.no_grad()
    def segment(self, network: LMSFESAM, encode: Encode, packed: np.ndarray, size: Size) -> list[Found]:
        """Segment N objects.

        Args:
            network: in evaluation mode.
            encode: encodes windows of the image.
            packed: (N, 4 + 3 K) in pixels of the image.
            size: height and width of the image.
        """
        boxes, _, labels = unpack_prompts(packed)
        boxed = ~np.isnan(boxes).any(axis=1)
        clicked = ~boxed & (labels >= 0).any(axis=1)
        side = network.image_size
        windows = [whole(size)] * len(packed)
        for row in np.flatnonzero(clicked).tolist():
            windows[row] = self._near(packed[row], size, side)
        found = self._ask(
            network, encode, packed, {row: windows[row] for row in np.flatnonzero(clicked).tolist()}
        )
        for row in np.flatnonzero(boxed).tolist():
            windows[row] = self._closer(boxes[row], packed[row], windows[row], size, side)
        for row, answer in found.items():
            box = extent(answer.logits, answer.window)
            if box is not None:
                windows[row] = self._closer(box, packed[row], answer.window, size, side)
        left = {
            row: window
            for row, window in enumerate(windows)
            if row not in found or found[row].window != window
        }
        found |= self._ask(network, encode, packed, left)
        return [found[row] for row in range(len(packed))]

    def _ask(
        self, network: LMSFESAM, encode: Encode, packed: np.ndarray, windows: dict[int, Window]
    ) -> dict[int, Found]:
        answers = ask(network, encode, sharing(windows), packed, self.batch_size)
        return {answer.row: answer for answer in answers}

    def _near(self, prompts: np.ndarray, size: Size, side: int) -> Window:
        """Return the window to look for an object in that has nothing but clicks."""
        if not self._is_large(size, side):
            return whole(size)
        _, points, labels = unpack_prompts(prompts[None])
        clicks = points[labels == 1] if (labels == 1).any() else points[labels == 0]
        return window_around(_reach(clicks), size, self.share, self.large * side // 2)

    def _is_large(self, size: Size, side: int) -> bool:
        return max(size) > self.large * side

    def _closer(self, box: np.ndarray, prompts: np.ndarray, seen: Window, size: Size, side: int) -> Window:
        """Return the window to look at an object in whose box (4,) is known from the window ``seen``."""
        width, height = box[2:] - box[:2]
        if (
            self.below is not None
            and not self._is_large(size, side)
            and width * height >= self.below * size[0] * size[1]
        ):
            return seen
        _, points, labels = unpack_prompts(prompts[None])
        corners = np.concatenate([box.reshape(2, 2), points[labels == 1]])
        return window_around(_reach(corners), size, self.share, self.least or side)


AUTO = Zoom(below=0.01)
"""The way that measures best; the values of ``configs/inference.json``."""


def sharing(windows: Mapping[int, Window]) -> list[View]:
    """Put objects (rows) that are looked at in the very same window into one view."""
    objects: dict[Window, list[int]] = {}
    for row, window in windows.items():
        objects.setdefault(window, []).append(row)
    return [View(window, rows) for window, rows in objects.items()]


def extent(logits: Tensor, window: Window) -> np.ndarray | None:
    """Return the box (4,) around the positive logits (S, S) of a window, in pixels of the image; or None."""
    positive = logits > 0
    rows, columns = (positive.any(dim=dim).nonzero()[:, 0].tolist() for dim in (1, 0))
    if not rows:
        return None
    corners = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    box = scale_boxes(corners, (logits.shape[0], logits.shape[1]), window.size)
    return box + np.array([window.left, window.top] * 2)


def _reach(points: np.ndarray) -> np.ndarray:
    """Return the box (4,) around points (K, 2)."""
    return np.concatenate([points.min(axis=0), points.max(axis=0)])
