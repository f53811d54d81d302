"""Sliding windows that take prompts.

MONAI's sliding window puts every window of a grid through the network and keeps all outputs at the
image's size. Here the windows come from the same grid and are blended with the same weights, but each
object is predicted only in those that its prompt concerns, and no more of its logits is kept in memory than
the row of windows that is being blended.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator

import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import SlidingWindowInferer
from monai.utils import BlendMode
from torch import Tensor
from torch.nn import functional

from lmsfe_sam.errors import InputError
from lmsfe_sam.inference.inferers import PromptedInferer
from lmsfe_sam.model.network import LMSFESAM
from lmsfe_sam.predict.postprocessing import MaskPart, PackedMask
from lmsfe_sam.predict.zoom import Encode, View, WindowPrediction, predict_windows
from lmsfe_sam.prompts.coordinates import Size, Window
from lmsfe_sam.prompts.prompt import Prompts

logger = logging.getLogger(__name__)

MAX_WINDOWS = 50_000
"""Windows of one image: some 20 minutes with the default preset on two cores of a CPU."""

LONG = 60.0
"""Seconds from which on an image's time is announced."""


class PromptedWindowInferer(PromptedInferer):
    """Segments each object in those windows of a grid that its prompt concerns, blended.

    A box goes to the windows that share some area with it, cut at their borders; a click to the windows
    that it lies in; an object without any prompt to all windows. Each window is encoded once, whatever
    the number of objects in it.

    Args:
        roi_size: side of a window in pixels of the image, None for the network's. An image that is
            smaller along an axis is one window there. Windows are resized to the network's square.
        sw_batch_size: windows encoded together.
        overlap: of neighbouring windows, a share of their side in 0..1.
        mode: how windows are blended, "gaussian" or "constant".
        sigma_scale: the standard deviation of the Gaussian, a share of the side.
        cached_embeddings: see `PromptedInferer`.
    """

    def __init__(
        self,
        roi_size: int | None = None,
        sw_batch_size: int = 4,
        overlap: float = 0.5,
        mode: BlendMode | str = BlendMode.GAUSSIAN,
        sigma_scale: float = 0.125,
        cached_embeddings: int = 0,
    ) -> None:
        super().__init__(cached_embeddings)
        # MONAI's inferer checks the options that both have.
        self.grid = SlidingWindowInferer(roi_size or -1, sw_batch_size, overlap, mode, sigma_scale)
        self.side = roi_size
        self.step = 1 - overlap
        self._weights: dict[Size, Tensor] = {}

    @torch.no_grad()
    def segment(  # noqa: D102
        self, network: LMSFESAM, encode: Encode, prompts: Prompts, size: Size
    ) -> list[BlendedObject]:
        windows = window_grid(size, self.side or network.image_size, self.step)
        views = select_windows(windows, prompts)
        started, announced = time.monotonic(), False
        remaining = Counter(number for view in views for number in view.objects)
        objects = [BlendedObject(columns) for columns in column_ranges(views, len(prompts))]
        for prediction in predict_windows(network, encode, views, prompts, self.grid.sw_batch_size):
            if not announced:
                self._announce(len(views), size, time.monotonic() - started)
                announced = True
            number = prediction.object
            objects[number].add(prediction, self.weights(prediction.window.size, prediction.logits.device))
            remaining[number] -= 1
            if remaining[number] == 0:
                objects[number].finish()
        return objects

    def _announce(self, count: int, size: Size, seconds_a_batch: float) -> None:
        seconds = seconds_a_batch * math.ceil(count / self.grid.sw_batch_size)
        if seconds > LONG:
            logger.info(
                "%d windows of %d x %d pixels: about %.0f minutes.", count, size[1], size[0], seconds / 60
            )

    def weights(self, size: Size, device: torch.device) -> Tensor:
        """Return the weight of each pixel of a window, (height, width), on ``device``."""
        if size not in self._weights or self._weights[size].device != device:
            mode, sigma = self.grid.mode, self.grid.sigma_scale
            self._weights[size] = compute_importance_map(size, mode, sigma, device)
        return self._weights[size]


def window_grid(size: Size, side: int, step: float) -> list[Window]:
    """Return the windows of MONAI's sliding window over an image, row by row.

    Args:
        size: height and width of the image.
        side: of the windows; the image's own where that is smaller.
        step: from one window to the next, a share of the side.

    Raises:
        InputError: they are more than `MAX_WINDOWS`.
    """
    interval = max(1, int(side * step))
    count = math.prod(math.ceil(max(0, length - side) / interval) + 1 for length in size)
    if count > MAX_WINDOWS:
        raise InputError(
            f"window_size {side} makes {count} windows of an image of {size[1]} x {size[0]} pixels, more "
            f"than {MAX_WINDOWS}: give a larger --window_size or a smaller --window_overlap."
        )
    return [
        Window(
            int(rows.start),
            int(columns.start),
            int(rows.stop - rows.start),
            int(columns.stop - columns.start),
        )
        for rows, columns in dense_patch_slices(size, (side, side), (interval, interval))
    ]


def select_windows(windows: Iterable[Window], prompts: Prompts) -> list[View]:
    """Return those of the windows that the prompts of N objects concern, with the objects of each."""
    views = [View(window, prompts.relevant_to(window).nonzero()[:, 0].tolist()) for window in windows]
    return [view for view in views if view.objects]


def column_ranges(views: Iterable[View], count: int) -> list[slice]:
    """Return for each of ``count`` objects the columns of the image that its windows cover."""
    columns = [slice(0, 0)] * count
    for view in views:
        own = view.window.slices[1]
        for number in view.objects:
            before = columns[number]
            started = before.stop > 0
            left = min(before.start, own.start) if started else own.start
            columns[number] = slice(left, max(before.stop, own.stop))
    return columns


class BlendedObject:
    """One object's mask, blended from windows of one size that come row by row.

    Of the logits only as many rows are kept as a window is high; those above are stored as the sign of
    their weighted sum, which is that of their weighted mean.

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
        """Predicted IoU: the mean over the windows, weighted by the object's area in each of them."""
        areas = torch.stack(self._areas).float().cpu() + 1  # a mean, also where nothing was found
        return float((torch.stack(self._iou).float().cpu() * areas).sum() / areas.sum())

    def add(self, prediction: WindowPrediction, weights: Tensor) -> None:
        """Add the prediction of a window.

        Args:
            prediction: of a window no higher up in the image than the one before.
            weights: (height, width) of the window.
        """
        window = prediction.window
        logits = prediction.logits.float()
        if logits.shape != weights.shape:
            logits = functional.interpolate(
                logits[None, None], size=window.size, mode="bilinear", align_corners=False
            )[0, 0]
        sums = self._move_to(window, logits.device)
        left = window.left - self._columns.start
        sums[:, left : left + window.width] += logits * weights
        self._iou.append(prediction.iou)
        self._areas.append((prediction.logits > 0).sum())

    def finish(self) -> None:
        """Store the rows that are left: there are no more windows."""
        if self._sums is not None:
            self._store(self._sums)
        self._sums = None

    def parts(self) -> Iterator[MaskPart]:
        """Yield the mask, strip by strip."""
        for top, strip in self._strips:
            yield (slice(top, top + strip.shape[0]), self._columns), strip.unpack()

    def _move_to(self, window: Window, device: torch.device) -> Tensor:
        """Return the sums over the rows of ``window``, those above it stored."""
        if self._sums is None:
            width = self._columns.stop - self._columns.start
            self._sums = torch.zeros(window.height, width, device=device)
        elif window.top > self._top:
            count = min(window.top - self._top, len(self._sums))
            self._store(self._sums[:count])
            self._sums = torch.cat([self._sums[count:], torch.zeros_like(self._sums[:count])])
        self._top = window.top
        return self._sums

    def _store(self, sums: Tensor) -> None:
        """Turn rows of sums, the first of which is the top one, into a strip of the mask."""
        inside = (sums > 0).cpu().numpy()
        if inside.any():
            self._strips.append((self._top, PackedMask.pack(inside)))
