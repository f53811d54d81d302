"""The prompts file: the objects of many images, in JSON.

It is keyed by the image's file name; coordinates are pixels of the original image, x to the
right, y down, boxes ``[x0, y0, x1, y1]`` with x1 and y1 exclusive::

    {"case_12.png": {"objects": [
        {"box": [30, 42, 180, 171]},
        {"points": [[250, 90], [260, 120]], "labels": [1, 0]},
        {"box": [10, 10, 60, 70], "points": [[33, 41]], "labels": [1]}]}}

An object may have a ``category`` of `lmsfe_sam.prompts.categories`, such as ``"category": "nerve"``.
"""

from __future__ import annotations

import difflib
import json
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from lmsfe_sam.errors import InputError
from lmsfe_sam.files import check_is_file
from lmsfe_sam.prompts.categories import CATEGORIES
from lmsfe_sam.prompts.prompt import ObjectPrompt

PromptsByName = dict[str, list[ObjectPrompt]]

MAX_OBJECTS = 2**16 - 1
"""Objects of one image: label maps of 16 bits have no more numbers."""


def read_prompts(path: str | os.PathLike[str]) -> PromptsByName:
    """Read a prompts file.

    Returns:
        For each file name, in Unicode's form NFC, its objects, at least one.

    Raises:
        InputError: no such file, not JSON, or an invalid entry.
    """
    file = Path(path)
    check_is_file(file, f"prompts file '{file}'", "a JSON file")
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
            f"prompts file '{file}' is not JSON ({error.msg} in line {error.lineno}, column {error.colno}): "
            "correct it there."
        ) from error
    except InputError as error:
        raise InputError(f"prompts file '{file}': {error}") from error
    except (
        ValueError,
        RecursionError,
    ) as error:  # not UTF-8, numbers of thousands of digits, bottomless nesting
        raise InputError(
            f"prompts file '{file}' is not JSON ({error}): give a JSON file in UTF-8."
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            f"prompts file '{file}' holds a {_kind(content)}: give an object keyed by file name."
        )
    prompts = {nfc(name): _read_entry(entry, name, file) for name, entry in content.items()}
    if len(prompts) < len(content):
        raise InputError(f"prompts file '{file}' names one file twice, in two Unicode forms: unite them.")
    return prompts


def nfc(name: str) -> str:
    """Return a name in Unicode's composed form: macOS stores "é" as two characters, and people type one."""
    return unicodedata.normalize("NFC", name)


def check_names(prompts: PromptsByName, names: Iterable[str], path: str | os.PathLike[str]) -> None:
    """Refuse prompts for files that do not exist.

    Args:
        prompts: what `read_prompts` returned.
        names: the existing file names.
        path: the prompts file, for the message.

    Raises:
        InputError: an unknown name; the message lists similar ones.
    """
    known = sorted({nfc(name) for name in names})
    for name in prompts:
        if nfc(name) not in known:
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
    return read_objects(entry["objects"], f"prompts file '{file}', '{name}'")


def read_objects(items: Any, where: str) -> list[ObjectPrompt]:
    """Read a list of objects, as it stands in a prompts file.

    Args:
        items: a list of dictionaries with ``box``, ``points`` and ``labels``.
        where: what the list belongs to, for the message.

    Raises:
        InputError: an invalid object.
    """
    if not isinstance(items, list):
        raise InputError(f"{where}: the objects are a {_kind(items)}: give a list of them.")
    if len(items) > MAX_OBJECTS:
        raise InputError(f"{where}: there are {len(items)} objects: give {MAX_OBJECTS} at most.")
    return [_read_object(item, f"{where}, object {k}") for k, item in enumerate(items, 1)]


def _read_object(item: Any, where: str) -> ObjectPrompt:
    if not isinstance(item, dict):
        raise InputError(
            f"{where} is a {_kind(item)}: "
            'give {"box": [x0, y0, x1, y1]} or {"points": [[x, y]], "labels": [1]}.'
        )
    for key in item:
        if key not in ("box", "points", "labels", "category"):
            raise InputError(
                f"{where} has the unknown key '{key}': the keys are box, points, labels and category."
            )
    for key in ("points", "labels"):
        if not isinstance(item.get(key, []), list):
            raise InputError(f"{where}: {key} is a {_kind(item[key])}: give a list.")
    category = item.get("category")
    if category is not None and (not isinstance(category, str) or category not in CATEGORIES):
        raise InputError(f"{where}: category is {category!r}: give one of {', '.join(CATEGORIES)}.")
    try:
        prompt = ObjectPrompt(item.get("box"), item.get("points", ()), item.get("labels", ()), category)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if not prompt:
        raise InputError(f"{where} has neither a box nor a point: give one of them, or remove the object.")
    return prompt


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InputError(f"'{twice}' is there twice: put all of its objects into one list.")
    return content


def _refuse_constant(constant: str) -> NoReturn:
    raise InputError(f"{constant} is not a coordinate: give a finite number.")


def _kind(value: Any) -> str:
    kinds = {dict: "JSON object", list: "list", str: "text", bool: "truth value", type(None): "null"}
    return kinds.get(type(value), "number")
