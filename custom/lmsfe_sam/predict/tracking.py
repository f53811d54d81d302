"""Objects of a cine: segmented where a frame has prompts, and carried from there to the other frames.

A frame's mask is given to the next one as a mask prompt and as a box, forward from the prompted frame and
backward, until the object is lost. A frame between two prompted ones belongs to the nearer. Frames are
encoded in batches, all in one window; where an object has left the window's middle, the batch ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lmsfe_sam.predict.decoding import decode_objects
from lmsfe_sam.predict.preprocessing import load_windows
from lmsfe_sam.predict.zoom import AUTO, WindowEncoder, WindowPrediction, Zoom, mask_box
from lmsfe_sam.prompts.coordinates import Size, Window, full_window, window_around
from lmsfe_sam.prompts.prompt import ObjectPrompt, Prompts

if TYPE_CHECKING:
    from lmsfe_sam.model.network import LMSFESAM, ImageEmbedding

PROMPTED, CARRIED, LOST = "prompted", "carried", "lost"
"""How an object came into a frame; a lost one is not in it."""

_FAINT = 0.5
"""Below this contrast in the prompted frame an object is too like its surroundings to be judged by it."""

_FEW = 10
"""Pixels from which on the brightness of a place can be told."""

_OUTSIDE = -10.0
"""Logit of what an earlier window did not show."""


@dataclass(frozen=True)
class Tracking:
    """When an object counts as lost, and how frames are encoded.

    Attributes:
        min_iou: lowest predicted IoU of a carried mask.
        min_overlap: lowest IoU of a carried mask with the one that it was carried from.
        min_contrast: lowest contrast of a carried mask with its surroundings, as a share of that in the
            prompted frame; 0 for any. It does not hold for objects that hardly differ from them there.
        margin: share of its sides by which the box of a mask is enlarged on its way to the next frame.
        feed_mask: give the mask itself to the next frame, beside its box.
        batch_size: frames encoded together.
        zoom: how objects of prompted frames are segmented, and which others are zoomed in on.
    """

    min_iou: float = 0.5
    min_overlap: float = 0.3
    min_contrast: float = 0.3
    margin: float = 0.05
    feed_mask: bool = True
    batch_size: int = 4
    zoom: Zoom = field(default_factory=lambda: AUTO)


@dataclass(frozen=True)
class TrackedObject:
    """One object in one frame.

    Attributes:
        state: `PROMPTED`, `CARRIED` or `LOST`.
        prediction: None where it is lost, or nothing was segmented.
    """

    state: str
    prediction: WindowPrediction | None

    @property
    def iou(self) -> float:
        """Predicted IoU; NaN where it is lost."""
        return float("nan") if self.prediction is None else float(self.prediction.iou)


ReadFrame = Callable[[int], Tensor]
"""Reads a frame, (3, H, W) uint8."""


@torch.no_grad()
def track(
    network: LMSFESAM,
    read: ReadFrame,
    frames: Sequence[int],
    prompts: Mapping[int, Sequence[ObjectPrompt]],
    settings: Tracking | None = None,
) -> dict[int, list[TrackedObject]]:
    """Segment the objects of a cine.

    Args:
        network: in evaluation mode.
        read: reads a frame; all have one size.
        frames: the numbers of the frames to segment, ascending.
        prompts: of frames among them; object k of one frame is object k of the others. Without any, each
            frame is segmented for itself, without a prompt.
        settings: by default those that measured best.

    Returns:
        For each frame its objects, as many as the frame with the most prompts has.
    """
    settings = settings or Tracking()
    found: dict[int, list[TrackedObject]] = {}
    given = {frame: list(objects) for frame, objects in prompts.items() if objects and frame in set(frames)}
    for frame in given or frames:
        found[frame] = _segment(network, read(frame), given.get(frame, []), settings)
    if not given:
        return found
    count = max(map(len, given.values()))
    lost = TrackedObject(LOST, None)
    for frame in frames:
        found.setdefault(frame, [])
        found[frame] += [lost] * (count - len(found[frame]))
    for start, path in paths(frames, sorted(given)):
        for number, seed in enumerate(found[start][: len(given[start])]):
            carried = _carry(network, read, start, path, seed, settings)
            for frame, tracked in zip(path, carried):
                found[frame][number] = tracked
    return found


def paths(frames: Sequence[int], prompted: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """Yield each prompted frame with the frames that it is carried to: those after it, then those before.

    A frame belongs to the nearest prompted one, of two equally near ones to the earlier.
    """
    nearest = {frame: min(prompted, key=lambda one: (abs(one - frame), one)) for frame in frames}
    for start in prompted:
        own = [frame for frame in frames if nearest[frame] == start]
        for path in ([f for f in own if f > start], [f for f in reversed(own) if f < start]):
            if path:
                yield start, path


def _segment(
    network: LMSFESAM, image: Tensor, objects: Sequence[ObjectPrompt], settings: Tracking
) -> list[TrackedObject]:
    size = (image.shape[1], image.shape[2])
    encode = WindowEncoder(network, image)
    predictions = settings.zoom.segment(network, encode, Prompts.of(objects), size)
    return [TrackedObject(PROMPTED, prediction) for prediction in predictions]


def _carry(
    network: LMSFESAM,
    read: ReadFrame,
    start: int,
    path: Sequence[int],
    seed: TrackedObject,
    settings: Tracking,
) -> Iterator[TrackedObject]:
    """Yield an object of frame ``start`` in the frames of a path, one after the other, until it is lost."""
    before = seed.prediction
    if before is None or mask_box(before.logits, before.window) is None:
        return
    index = 0
    device = next(network.parameters()).device
    shown = load_windows(read(start), [before.window], network.image_size, device)
    contrast = contrast_of(shown[0], before.logits > 0)
    while index < len(path):
        batch = path[index : index + settings.batch_size]
        images = [read(frame) for frame in batch]
        size = (images[0].shape[1], images[0].shape[2])
        window = _window(before, size, network.image_size, settings)
        inputs = torch.cat([load_windows(image, [window], network.image_size, device) for image in images])
        embedding = network.encode(inputs)
        for number in range(len(batch)):
            if number and _left_image(before, window, size, network.image_size, settings):
                break
            after = _decode(network, _one(embedding, number), before, window, settings)
            if not _is_same(before, after, settings):
                return
            if not _stands_out(contrast_of(inputs[number], after.logits > 0), contrast, settings):
                return
            yield TrackedObject(CARRIED, after)
            before, index = after, index + 1


def _window(before: WindowPrediction, size: Size, side: int, settings: Tracking) -> Window:
    """Return the window in which an object is predicted in the next frames."""
    box = mask_box(before.logits, before.window)
    assert box is not None
    zoom, area = settings.zoom, (box[2] - box[0]) * (box[3] - box[1])
    is_large_image = zoom.large is not None and max(size) > zoom.large * side
    if zoom.below is not None and not is_large_image and area >= zoom.below * size[0] * size[1]:
        return full_window(size)
    return window_around(box, size, zoom.share, zoom.min_side or side)


def _left_image(before: WindowPrediction, window: Window, size: Size, side: int, settings: Tracking) -> bool:
    """Whether an object has moved so far that its window would move by a tenth of its side, or grow."""
    wanted = _window(before, size, side, settings)
    moved = max(abs(wanted.top - window.top) / window.height, abs(wanted.left - window.left) / window.width)
    return moved > 0.1 or not 0.8 < wanted.height / window.height < 1.25


def _decode(
    network: LMSFESAM, embedding: ImageEmbedding, before: WindowPrediction, window: Window, settings: Tracking
) -> WindowPrediction:
    box = mask_box(before.logits, before.window)
    assert box is not None
    grow = settings.margin * np.array([box[2] - box[0], box[3] - box[1]])
    box = np.concatenate([box[:2] - grow, box[2:] + grow])
    prompt = Prompts.of([ObjectPrompt(box.tolist())]).clip(window)
    prompt = prompt.scale(window.size, (network.image_size, network.image_size))
    if settings.feed_mask:
        prompt = Prompts(prompt.boxes, masks=move_logits(before.low_res, before.window, window)[None])
    decoded = decode_objects(network, embedding, prompt)
    return WindowPrediction(before.object, window, decoded.logits[0], decoded.iou[0], decoded.low_res[0])


def move_logits(logits: Tensor, old: Window, new: Window) -> Tensor:
    """Return logits (h, w) that cover one window as logits (h, w) that cover another."""
    if old == new:
        return logits
    height, width = logits.shape
    y = (torch.arange(height) + 0.5) / height * new.height + new.top
    x = (torch.arange(width) + 0.5) / width * new.width + new.left
    y, x = (y - old.top) / old.height * 2 - 1, (x - old.left) / old.width * 2 - 1
    grid = torch.stack(torch.broadcast_tensors(x[None], y[:, None]), dim=-1)[None].to(logits)
    # From the value of what lies outside, as grid_sample fills that with zeros.
    moved = functional.grid_sample(logits[None, None] - _OUTSIDE, grid, align_corners=False)
    return moved[0, 0] + _OUTSIDE


def _is_same(before: WindowPrediction, after: WindowPrediction, settings: Tracking) -> bool:
    """Whether a carried mask is still the object."""
    moved = move_logits(before.low_res, before.window, after.window) > 0
    mask = after.low_res > 0
    union = int((moved | mask).sum())
    overlap = int((moved & mask).sum()) / union if union else 0.0
    return (
        bool((after.logits > 0).any())
        and float(after.iou) >= settings.min_iou
        and overlap >= settings.min_overlap
    )


def contrast_of(image: Tensor, mask: Tensor) -> float:
    """Return how much brighter a mask is than a ring around it, in standard deviations of the two.

    Args:
        image: (3, H, W), of any scale.
        mask: (H, W) bool.

    Returns:
        NaN where the mask or the ring has too few pixels.
    """
    grey, mask = image.mean(dim=0), mask.to(image.device)
    width = max(3, round(0.15 * float(mask.sum()) ** 0.5))
    core = ~_grown(~mask, 2)
    ring = _grown(mask, width) & ~_grown(mask, 1)
    if min(int(core.sum()), int(ring.sum())) < _FEW:
        return float("nan")
    inside, outside = grey[core], grey[ring]
    spread = ((inside.var() + outside.var()) / 2 + 1e-4).sqrt()
    return float((inside.mean() - outside.mean()) / spread)


def _grown(mask: Tensor, by: int) -> Tensor:
    """Dilate a mask (H, W) by a number of rows and columns."""
    return functional.max_pool2d(mask[None, None].float(), 2 * by + 1, 1, by)[0, 0] > 0


def _stands_out(contrast: float, first: float, settings: Tracking) -> bool:
    """Whether an object still differs from its surroundings as it did in the prompted frame."""
    if not settings.min_contrast or not abs(first) >= _FAINT or np.isnan(contrast):
        return True
    return contrast / first >= settings.min_contrast


def _one(embedding: ImageEmbedding, number: int) -> ImageEmbedding:
    """Return the embedding of one image of a batch."""
    rows = slice(number, number + 1)
    return embedding._replace(
        features=embedding.features[rows], skips=[skip[rows] for skip in embedding.skips]
    )
