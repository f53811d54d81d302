"""Prompts that a user gives: one `ObjectPrompt` an object, or a JSON file for many images.

The file is keyed by the image's file name; coordinates are pixels of the original image, x to the
right, y down, boxes ``[x0, y0, x1, y1]`` with x1 and y1 exclusive::

    {"case_12.png": {"objects": [
        {"box": [30, 42, 180, 171]},
        {"points": [[250, 90], [260, 120]], "labels": [1, 0]},
        {"box": [10, 10, 60, 70], "points": [[33, 41]], "labels": [1]}]}}
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from lmsfe_sam.errors import InputError

PromptsByName = dict[str, list["ObjectPrompt"]]

_FAR_AWAY = 2**31
"""No coordinate is as large; NaN and infinity are not smaller either."""


@dataclass(frozen=True)
class ObjectPrompt:
    """What a user says about one object: a box, clicks, both, or nothing at all.

    Lists and arrays are accepted and stored as tuples.

    Attributes:
        box: x0, y0, x1, y1 in pixels of the original image, x1 and y1 exclusive, or None.
        points: (x, y) pairs.
        labels: one for each point, 1 inside the object and 0 outside it; all 1 if left out.

    Raises:
        InputError: not numbers, an inverted or empty box, or labels that do not fit the points.
    """

    box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        points = (
            ()
            if self.points is None
            else tuple(_numbers(p, 2, "a point", "[x, y]") for p in _rows(self.points))
        )
        labels = self.labels
        if labels is None or len(labels) == 0:
            labels = (1,) * len(points)
        if len(labels) != len(points):
            raise InputError(
                f"there are {_count(points, 'point')} but {_count(labels, 'label')}: give one label a point."
            )
        for label in labels:
            if isinstance(label, (bool, np.bool_, str)) or label not in (0, 1):
                raise InputError(
                    f"the label {label!r} is unknown: give 1 for inside the object or 0 for outside it."
                )
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "labels", tuple(int(label) for label in labels))
        if self.box is not None:
            object.__setattr__(self, "box", _checked_box(self.box))

    def __bool__(self) -> bool:
        """Whether there is any prompt."""
        return self.box is not None or bool(self.points)

    def check_inside(self, height: int, width: int, overhang: bool = False) -> None:
        """Refuse prompts outside an image of ``height`` x ``width`` pixels.

        Args:
            height: of the original image.
            width: of the original image.
            overhang: accept a box that reaches over the image's border, as long as a part of it
                lies on the image.

        Raises:
            InputError: a point or a box outside the image.
        """
        size = f"the image, which is {width} x {height} pixels (width x height)"
        if self.box is not None:
            x0, y0, x1, y1 = self.box
            inside = x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height
            touching = x0 < width and y0 < height and x1 > 0 and y1 > 0
            if not touching or not (inside or overhang):
                verb = "reaches" if touching else "lies"
                raise InputError(f"the box {_short(self.box)} {verb} outside {size}: clip it to the image.")
        for x, y in self.points:
            if not (0 <= x < width and 0 <= y < height):
                raise InputError(f"the point {_short((x, y))} lies outside {size}: move or remove it.")


def read_prompts(path: str | os.PathLike[str]) -> PromptsByName:
    """Read a prompts file.

    Returns:
        For each file name its objects, at least one.

    Raises:
        InputError: no such file, no JSON, or an entry that is none.
    """
    file = Path(path)
    try:
        content = json.loads(
            file.read_bytes(), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant
        )
    except FileNotFoundError as error:
        raise InputError(f"prompts file '{file}' does not exist: give the path of a JSON file.") from error
    except OSError as error:
        raise InputError(
            f"prompts file '{file}' cannot be read ({error.strerror}): give a JSON file."
        ) from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"prompts file '{file}' is no JSON ({error.msg} in line {error.lineno}, column {error.colno}): "
            "correct it there."
        ) from error
    except InputError as error:
        raise InputError(f"prompts file '{file}': {error}") from error
    except (
        ValueError,
        RecursionError,
    ) as error:  # no UTF-8, numbers of thousands of digits, bottomless nesting
        raise InputError(f"prompts file '{file}' is no JSON ({error}): give a JSON file in UTF-8.") from error
    if not isinstance(content, dict):
        raise InputError(
            f"prompts file '{file}' holds a {_kind(content)}: give an object keyed by file name."
        )
    return {name: _read_entry(entry, name, file) for name, entry in content.items()}


def check_names(prompts: PromptsByName, names: Iterable[str], path: str | os.PathLike[str]) -> None:
    """Refuse prompts for files that are not there.

    Args:
        prompts: what `read_prompts` returned.
        names: the file names that there are.
        path: the prompts file, for the message.

    Raises:
        InputError: an unknown name; the message lists similar ones.
    """
    known = sorted(set(names))
    for name in prompts:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            remedy = (
                f"did you mean {' or '.join(repr(n) for n in near)}?"
                if near
                else "correct or remove that entry."
            )
            raise InputError(f"prompts file '{path}' names '{name}', which is not among the inputs: {remedy}")


def _read_entry(entry: Any, name: str, file: Path) -> list[ObjectPrompt]:
    if not isinstance(entry, dict) or set(entry) != {"objects"} or not isinstance(entry["objects"], list):
        raise InputError(f"prompts file '{file}', '{name}': give {{\"objects\": [...]}}, a list of objects.")
    if not entry["objects"]:
        raise InputError(
            f"prompts file '{file}', '{name}': the list of objects is empty; "
            "leave the entry out to segment that image without a prompt."
        )
    return [
        _read_object(item, f"prompts file '{file}', '{name}', object {k}")
        for k, item in enumerate(entry["objects"], 1)
    ]


def _read_object(item: Any, where: str) -> ObjectPrompt:
    if not isinstance(item, dict):
        raise InputError(
            f"{where} is a {_kind(item)}: "
            'give {"box": [x0, y0, x1, y1]} or {"points": [[x, y]], "labels": [1]}.'
        )
    for key in item:
        if key not in ("box", "points", "labels"):
            raise InputError(f"{where} has the unknown key '{key}': the keys are box, points and labels.")
    for key in ("points", "labels"):
        if not isinstance(item.get(key, []), list):
            raise InputError(f"{where}: {key} is a {_kind(item[key])}: give a list.")
    try:
        prompt = ObjectPrompt(item.get("box"), item.get("points", ()), item.get("labels", ()))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if not prompt:
        raise InputError(f"{where} has neither a box nor a point: give one of them, or remove the object.")
    return prompt


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
        return points
    raise InputError(f"the points are {points!r}: give a list of [x, y] pairs.")


def _numbers(values: Any, count: int, what: str, form: str) -> tuple[Any, ...]:
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if not isinstance(values, (list, tuple)) or len(values) != count:
        raise InputError(f"{what} is {values!r}: give {form}.")
    for value in values:
        is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
        if not is_number or not abs(value) < _FAR_AWAY:
            raise InputError(f"{what} is {values!r}: give {form} in numbers.")
    return tuple(float(value) for value in values)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"'{twice}' is there twice: put all of its objects into one list.")
    return content


def _refuse_constant(constant: str) -> NoReturn:
    raise InputError(f"{constant} is no coordinate: give a finite number.")


def _kind(value: Any) -> str:
    kinds = {dict: "JSON object", list: "list", str: "text", bool: "truth value", type(None): "null"}
    return kinds.get(type(value), "number")


def _short(values: Iterable[float]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in values) + "]"


def _count(items: Sequence[Any], noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"
