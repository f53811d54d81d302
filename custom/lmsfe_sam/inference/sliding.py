"""Sliding windows that understand prompts: the image in its own detail, window by window.

MONAI's sliding window puts every window of a grid through the network and keeps all outputs at the
image's size. Here the windows come from the same grid and are blended with the same weights, but only
those that a prompt touches are looked at, and no more of an object's logits is kept than the row of
windows that is being blended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import SlidingWindowInferer
from monai.utils import BlendMode
from torch import Tensor
from torch.nn import functional

from lmsfe_sam.inference.zooming import segment_painted
from lmsfe_sam.model.network import LMSFESAM
from lmsfe_sam.predict.postprocessing import Block, PackedMask
from lmsfe_sam.predict.windows import View, Window, touches
from lmsfe_sam.predict.zoom import Encode, Found, ask
from lmsfe_sam.prompts.coordinates import Size


class PromptedWindowInferer(SlidingWindowInferer):
    """Segments objects in those windows of a grid that their prompts touch, blended.

    A box goes to the windows that share some area with it, cut at their borders; a click to the windows
    that it lies in; an object without any prompt to all windows. Each window is encoded once, whatever
    the number of objects in it.

    Args:
        roi_size: side of a window in pixels of the image, None for the network's. An image that is
            smaller along an axis is one window there. Windows are squashed to the network's square.
        sw_batch_size: windows encoded together.
        overlap: of neighbouring windows, a share of their side in 0..1.
        mode: how windows are blended, "gaussian" or "constant".
        sigma_scale: the standard deviation of the Gaussian, a share of the side.
    """

    def __init__(
        self,
        roi_size: int | None = None,
        sw_batch_size: int = 4,
        overlap: float = 0.5,
        mode: BlendMode | str = BlendMode.GAUSSIAN,
        sigma_scale: float = 0.125,
    ) -> None:
        super().__init__(roi_size or -1, sw_batch_size, overlap, mode, sigma_scale)
        self.side = roi_size
        self.step = 1 - overlap
        self._weights: dict[Size, Tensor] = {}

    def __call__(
        self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Segment ``inputs`` (1, 3, H, W), an image of any size in 0..255, with an `LMSFESAM`.

        Its prompts are in its metadata, in its own pixels (see `AttachPromptsd`).

        Returns:
            ``labels`` (1, 1, H, W) and ``predicted_iou`` (1, N).

        Raises:
            ValueError: more than one image.
        """
        return segment_painted(self.segment, inputs, network)

    @torch.no_grad()
    def segment(
        self, network: LMSFESAM, encode: Encode, packed: np.ndarray, size: Size
    ) -> list[BlendedObject]:
        """Segment N objects.

        Args:
            network: in evaluation mode.
            encode: encodes windows of the image.
            packed: (N, 4 + 3 K) in pixels of the image.
            size: height and width of the image.
        """
        windows = window_grid(size, self.side or network.image_size, self.step)
        views = touched(windows, packed)
        to_come = Counter(row for view in views for row in view.objects)
        objects = [BlendedObject(columns) for columns in reaches(views, len(packed))]
        for found in ask(network, encode, views, packed, self.sw_batch_size):
            objects[found.row].add(found, self.weights(found.window.size, found.logits.device))
            to_come[found.row] -= 1
            if to_come[found.row] == 0:
                objects[found.row].finish()
        return objects

    def weights(self, size: Size, device: torch.device) -> Tensor:
        """Return how much each pixel of a window counts, (height, width), on ``device``."""
        if size not in self._weights or self._weights[size].device != device:
            self._weights[size] = compute_importance_map(size, self.mode, self.sigma_scale, device)
        return self._weights[size]


def window_grid(size: Size, side: int, step: float) -> list[Window]:
    """Return the windows of MONAI's sliding window over an image, row by row.

    Args:
        size: height and width of the image.
        side: of the windows; the image's own where that is smaller.
        step: from one window to the next, a share of the side.
    """
    interval = max(1, int(side * step))
    return [
        Window(
            int(rows.start),
            int(columns.start),
            int(rows.stop - rows.start),
            int(columns.stop - columns.start),
        )
        for rows, columns in dense_patch_slices(size, (side, side), (interval, interval))
    ]


def touched(windows: Iterable[Window], packed: np.ndarray) -> list[View]:
    """Return those of the windows that the prompts (N, 4 + 3 K) touch, with the objects in each."""
    views = [View(window, np.flatnonzero(touches(packed, window)).tolist()) for window in windows]
    return [view for view in views if view.objects]


def reaches(views: Iterable[View], count: int) -> list[slice]:
    """Return for each of ``count`` objects the columns of the image that its windows lie in."""
    columns = [slice(0, 0)] * count
    for view in views:
        own = view.window.slices[1]
        for row in view.objects:
            before = columns[row]
            started = before.stop > 0
            left = min(before.start, own.start) if started else own.start
            columns[row] = slice(left, max(before.stop, own.stop))
    return columns


class BlendedObject:
    """One object's mask, blended from windows of one size that come row by row.

    Of the logits only as many rows are kept as a window is high; those above are done with, as the
    sign of their weighted sum, which is that of their weighted mean.

    Args:
        columns: of the image, that the windows lie in.
    """

    def __init__(self, columns: slice) -> None:
        self._columns = columns
        self._top = 0
        self._sums: Tensor | None = None
        self._strips: list[tuple[int, PackedMask]] = []
        self._iou: list[Tensor] = []
        self._areas: list[Tensor] = []

    @property
    def iou(self) -> float:
        """Predicted IoU: the mean over the windows, by how much of the object each of them found."""
        areas = torch.stack(self._areas).float().cpu() + 1  # a mean, also where nothing was found
        return float((torch.stack(self._iou).float().cpu() * areas).sum() / areas.sum())

    def add(self, found: Found, weights: Tensor) -> None:
        """Add what was found in a window.

        Args:
            found: in a window no higher up in the image than the one before.
            weights: (height, width) of the window.
        """
        window = found.window
        logits = found.logits.float()
        if logits.shape != weights.shape:
            logits = functional.interpolate(
                logits[None, None], size=window.size, mode="bilinear", align_corners=False
            )[0, 0]
        sums = self._move_to(window, logits.device)
        left = window.left - self._columns.start
        sums[:, left : left + window.width] += logits * weights
        self._iou.append(found.iou)
        self._areas.append((found.logits > 0).sum())

    def finish(self) -> None:
        """Be done with the rows that are left: there are no more windows."""
        if self._sums is not None:
            self._keep(self._sums)
        self._sums = None

    def blocks(self) -> Iterator[Block]:
        """Yield the mask, strip by strip."""
        for top, strip in self._strips:
            yield (slice(top, top + strip.shape[0]), self._columns), strip.unpack()

    def _move_to(self, window: Window, device: torch.device) -> Tensor:
        """Return the sums over the rows of ``window``, those above it done with."""
        if self._sums is None:
            width = self._columns.stop - self._columns.start
            self._sums = torch.zeros(window.height, width, device=device)
        elif window.top > self._top:
            count = min(window.top - self._top, len(self._sums))
            self._keep(self._sums[:count])
            self._sums = torch.cat([self._sums[count:], torch.zeros_like(self._sums[:count])])
        self._top = window.top
        return self._sums

    def _keep(self, sums: Tensor) -> None:
        """Turn rows of sums, the first of which is the top one, into a strip of the mask."""
        inside = (sums > 0).cpu().numpy()
        if inside.any():
            self._strips.append((self._top, PackedMask.pack(inside)))
