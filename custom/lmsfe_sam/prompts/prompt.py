"""Prompts: a user's boxes and clicks for one object, and those of many objects as tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmsfe_sam.errors import InputError, short_repr
from lmsfe_sam.prompts.coordinates import Size, Window

_FAR_AWAY = 2**31
"""No coordinate is as large; NaN and infinity are not smaller either."""

MAX_POINTS = 500
"""Clicks on one object: each attends to each, so that memory grows with their square."""


@dataclass(frozen=True)
class ObjectPrompt:
    """A user's prompt for one object: a box, clicks, both, or nothing at all.

    Lists and arrays are accepted and stored as tuples.

    Attributes:
        box: x0, y0, x1, y1 in pixels of the original image, x1 and y1 exclusive, or None.
        points: (x, y) pairs.
        labels: one for each point, 1 inside the object and 0 outside it; all 1 if left out.
        category: what the object is, a key of `lmsfe_sam.prompts.categories.CATEGORIES`; None: not said.

    Raises:
        InputError: not numbers, an inverted or empty box, labels that do not fit the points, or more than
            `MAX_POINTS` of them.
    """

    box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    category: str | None = None

    def __post_init__(self) -> None:
        points = (
            ()
            if self.points is None
            else tuple(_numbers(p, 2, "a point", "[x, y]") for p in _rows(self.points))
        )
        labels = _labels(self.labels) or (1,) * len(points)
        if len(labels) != len(points):
            raise InputError(
                f"there are {_count(points, 'point')} but {_count(labels, 'label')}: give one label a point."
            )
        for label in labels:
            if not _is_number(label) or label not in (0, 1):
                raise InputError(
                    f"the label {short_repr(label)} is unknown: give 1 for inside the object "
                    "or 0 for outside it."
                )
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "labels", tuple(int(label) for label in labels))
        if self.box is not None:
            object.__setattr__(self, "box", _checked_box(self.box))

    def __bool__(self) -> bool:
        """Whether there is any prompt."""
        return self.box is not None or bool(self.points)

    def check_inside(self, height: int, width: int) -> None:
        """Refuse prompts outside an image of ``height`` x ``width`` pixels.

        A box may extend beyond the image's border, where it is cut, but may not lie wholly outside.

        Raises:
            InputError: a point or a whole box outside the image.
        """
        size = f"the image, which is {width} x {height} pixels (width x height)"
        if self.box is not None:
            x0, y0, x1, y1 = self.box
            if not (x0 < width and y0 < height and x1 > 0 and y1 > 0):
                raise InputError(f"the box {_short(self.box)} lies outside {size}: move or remove it.")
        for x, y in self.points:
            if not (0 <= x < width and 0 <= y < height):
                raise InputError(f"the point {_short((x, y))} lies outside {size}: move or remove it.")


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts of N objects of one image, or of N objects in each of B images, as the network takes them.

    The shapes are those of one image; a batch has an axis B before them. What no object has is None.

    Attributes:
        boxes: ``(N, 4)``: x0, y0, x1, y1 in pixels; a row of NaN where an object has none.
        points: ``(N, K, 2)``: x before y, in pixels.
        point_labels: ``(N, K)``: 1 inside, 0 outside, -1 padding.
        masks: ``(N, h, w)``: logits of an earlier round; a map of NaN where an object has none.
    """

    boxes: Tensor | None = None
    points: Tensor | None = None
    point_labels: Tensor | None = None
    masks: Tensor | None = None

    @classmethod
    def of(cls, objects: Sequence[ObjectPrompt]) -> Prompts:
        """Return the prompts of an image's objects, in double precision; for none, one empty prompt."""
        objects = list(objects) or [ObjectPrompt()]
        count = max(len(prompt.points) for prompt in objects)
        boxes = torch.full((len(objects), 4), torch.nan, dtype=torch.float64)
        points = torch.zeros(len(objects), count, 2, dtype=torch.float64)
        labels = torch.full((len(objects), count), -1)
        for row, prompt in enumerate(objects):
            if prompt.box is not None:
                boxes[row] = torch.tensor(prompt.box, dtype=torch.float64)
            if prompt.points:
                points[row, : len(prompt.points)] = torch.tensor(prompt.points, dtype=torch.float64)
                labels[row, : len(prompt.points)] = torch.tensor(prompt.labels)
        return cls(boxes, points, labels) if count else cls(boxes)

    @classmethod
    def concatenate(cls, parts: Sequence[Prompts]) -> Prompts:
        """Join prompts of several images' objects that have the same tensors, of the same shapes."""
        names = parts[0].given()
        return cls(**{name: torch.cat([part.given()[name] for part in parts]) for name in names})

    def __len__(self) -> int:
        """Objects of one image; of a batch, its images."""
        return len(next(iter(self.given().values())))

    def given(self) -> dict[str, Tensor]:
        """Return the tensors that are not None, by name: keyword arguments of ``LMSFESAM.decode``."""
        return {name: tensor for name, tensor in vars(self).items() if tensor is not None}

    def map(self, function: Callable[[Tensor], Tensor]) -> Prompts:
        """Apply ``function`` to each tensor."""
        return Prompts(**{name: function(tensor) for name, tensor in self.given().items()})

    def select(self, objects: int | Sequence[int] | slice | Tensor) -> Prompts:
        """Return the prompts of some of the objects; with a single number, without their axis."""
        return self.map(lambda tensor: tensor[objects])

    def has_box(self) -> Tensor:
        """Which objects have a box, ``(N,)`` bool."""
        if self.boxes is None:
            return self._zeros().bool()
        return ~self.boxes.isnan().any(dim=-1)

    def clicks(self) -> Tensor:
        """How many clicks each object has, ``(N,)``."""
        if self.point_labels is None:
            return self._zeros()
        return (self.point_labels >= 0).sum(dim=-1)

    def _zeros(self) -> Tensor:
        some = next(iter(self.given().values()))
        return torch.zeros(len(some), dtype=torch.long, device=some.device)

    def scale(self, from_size: Size, to_size: Size) -> Prompts:
        """Move boxes and points from an image of ``from_size``, height and width, to its resize."""
        ratios = torch.tensor([to_size[1] / from_size[1], to_size[0] / from_size[0]], dtype=torch.float64)
        return Prompts(
            None if self.boxes is None else self.boxes * ratios.repeat(2),
            None if self.points is None else self.points * ratios,
            self.point_labels,
            self.masks,
        )

    def mirror(self, width: int) -> Prompts:
        """Move boxes and points to the mirror image, left for right, of an image of ``width`` pixels."""
        boxes, points, masks = self.boxes, self.points, self.masks
        if boxes is not None:  # a box has borders of pixels, a point is a pixel
            boxes = torch.stack(
                [width - boxes[..., 2], boxes[..., 1], width - boxes[..., 0], boxes[..., 3]], dim=-1
            )
        if points is not None:
            points = torch.stack([width - 1 - points[..., 0], points[..., 1]], dim=-1)
        return Prompts(boxes, points, self.point_labels, None if masks is None else masks.flip(-1))

    def clip(self, window: Window) -> Prompts:
        """Return the prompts of one image in a window of it, in pixels of the window.

        Boxes are cut at the window's border; boxes and clicks outside of it are dropped.
        """
        corner, far = (
            torch.tensor(pair) for pair in ((window.left, window.top), (window.width, window.height))
        )
        boxes, points, labels = self.boxes, self.points, self.point_labels
        if boxes is not None:
            corners = (boxes.reshape(-1, 2, 2) - corner).clamp(torch.zeros(2), far)
            empty = ~(corners[:, 1] > corners[:, 0]).all(dim=1)
            boxes = corners.masked_fill(empty[:, None, None], torch.nan).reshape(-1, 4)
        if points is not None and labels is not None:
            inside = self._in_window(window)
            points = torch.where(inside[..., None], points - corner, 0.0)
            labels = torch.where(inside, labels, -1)
        return Prompts(boxes, points, labels, self.masks)

    def relevant_to(self, window: Window) -> Tensor:
        """Which objects of one image have to be decoded in a window of it, ``(N,)`` bool.

        Those whose box shares some area with it, or that have a positive click in it; an object with
        nothing but negative clicks, where these lie in it; and an object without any prompt.
        """
        result = ~self.has_box() & (self.clicks() == 0)
        if self.boxes is not None:
            x0, y0, x1, y1 = self.boxes.unbind(-1)
            rows, columns = window.slices
            result = result | (
                (x0 < columns.stop) & (x1 > columns.start) & (y0 < rows.stop) & (y1 > rows.start)
            )
        if self.point_labels is not None:
            positive = self.point_labels == 1
            only_negative = ~self.has_box() & ~positive.any(dim=1)
            result = result | (self._in_window(window) & (positive | only_negative[:, None])).any(dim=1)
        return result

    def _in_window(self, window: Window) -> Tensor:
        """Which clicks ``(N, K)`` lie in a window."""
        assert self.points is not None and self.point_labels is not None
        rows, columns = window.slices
        x, y = self.points.unbind(-1)
        in_columns = (x >= columns.start) & (x < columns.stop)
        return (self.point_labels >= 0) & in_columns & (y >= rows.start) & (y < rows.stop)


def _checked_box(box: Sequence[float]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = _numbers(box, 4, "the box", "[x0, y0, x1, y1]")
    if x1 < x0 or y1 < y0:
        raise InputError(
            f"the box {_short((x0, y0, x1, y1))} is inverted: give [x0, y0, x1, y1] with x0 < x1 and y0 < y1."
        )
    if x1 == x0 or y1 == y0:
        raise InputError(
            f"the box {_short((x0, y0, x1, y1))} has no area: give [x0, y0, x1, y1] with x0 < x1 and y0 < y1."
        )
    return x0, y0, x1, y1


def _rows(points: Any) -> Sequence[Any] | np.ndarray:
    if isinstance(points, (list, tuple)) or (isinstance(points, np.ndarray) and points.ndim == 2):
        if len(points) > MAX_POINTS:
            raise InputError(f"there are {len(points)} points on one object: give {MAX_POINTS} at most.")
        return points
    raise InputError(f"the points are {short_repr(points)}: give a list of [x, y] pairs.")


def _labels(labels: Any) -> tuple[Any, ...]:
    if labels is None:
        return ()
    if isinstance(labels, (list, tuple)) or (isinstance(labels, np.ndarray) and labels.ndim == 1):
        return tuple(labels)
    raise InputError(f"the labels are {short_repr(labels)}: give a list with one label a point.")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _numbers(values: Any, count: int, what: str, form: str) -> tuple[Any, ...]:
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if not isinstance(values, (list, tuple)) or len(values) != count:
        raise InputError(f"{what} is {short_repr(values)}: give {form}.")
    for value in values:
        if not _is_number(value) or not abs(value) < _FAR_AWAY:
            raise InputError(f"{what} is {short_repr(values)}: give {form} in numbers.")
    return tuple(float(value) for value in values)


def _short(values: Iterable[float]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in values) + "]"


def _count(items: Sequence[Any], noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"
