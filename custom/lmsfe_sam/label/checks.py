"""Checks of requests before MONAI Label sees them, and errors of one sentence."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from lmsfe_sam.errors import InputError

INTERNAL = (
    "skip_writer",
    "result_write_to_file",
    "image",
    "model",
    "image_path",
    "image_meta_dict",
    "session",
    "pred",
    "pred_meta_dict",
    "result",
    "objects",
    "prompts",
    "centroids",
    "latencies",
    "bundle_path",
)
"""Parameters of MONAI Label's own pipeline, which no client needs and which break or change its response."""

PIPELINE = (
    "foreground",
    "background",
    "roi",
    "slice",
    "device",
    "model_filename",
    "result_extension",
    "result_dtype",
    "result_compress",
    "restore_label_idx",
)
"""Parameters of an inference that reach the pipeline; clients send others, which are left out."""

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

MAX_NAME = 200
"""Bytes of a name: file systems take 255, with a suffix."""

LARGEST_INFO = 2**18
"""Bytes, as JSON, of what clients may store about one image or label."""

DEEPEST = 16
"""Levels of nesting in it: what copies and writes it goes down as many, and Python's stack is finite."""

LONGEST = 300
"""Characters of a sentence; what a client sent is never repeated at length."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""No space, no quota left, or a file larger than this process may write."""

FULL_DISK = "the server's disk is full, and nothing was changed: free some space and send it again."


class Fault(InputError):
    """A request that cannot be met, with its status."""

    status: ClassVar[int] = 400


class NotFoundError(Fault):
    """A name that the server does not know."""

    status = 404


class TakenError(Fault):
    """A name that is in use."""

    status = 409


class TooLargeError(Fault):
    """More than a limit allows."""

    status = 413


class BusyError(Fault):
    """Something that runs once at a time runs already."""

    status = 429


class UpstreamError(Fault):
    """The DICOMweb server behind this one did not do as it should."""

    status = 502


class FullDiskError(Fault):
    """There is no room to write."""

    status = 507


def check_known(what: str, name: Any, known: Collection[str]) -> None:
    """Refuse an unknown name.

    Raises:
        NotFoundError: the name is unknown.
    """
    if not isinstance(name, str) or name not in known:
        there = f"there are {', '.join(known)}" if 0 < len(known) <= 20 else f"there are {len(known)} others"
        raise NotFoundError(f"there is no {what} '{shorten(name)}': {there}.")


def check_tag(tag: Any) -> None:
    """Refuse a name, of an image, a label's tag or a session, that is not a plain file's name.

    Everything that becomes part of a path comes through here.

    Raises:
        InputError: the name is not that of a plain file.
    """
    if not is_plain(tag):
        raise InputError(f"'{shorten(tag)}' is not a plain name: give letters and digits, such as final.")


def is_plain(name: Any) -> bool:
    """Whether a name is a file's in one folder: no path, not hidden, no control or direction characters."""
    return (
        isinstance(name, str)
        and name.isprintable()
        and not name.startswith((".", " ", "~"))
        and not name.endswith((" ", "."))
        and not set(name) & set('/\\:*?"<>|%\ufffd')
        and 0 < len(name.encode("utf-8", "replace")) <= MAX_NAME
    )


def read_parameters(text: str, key: str = "params") -> dict[str, Any]:
    """Read a form field that holds JSON.

    Raises:
        InputError: it holds something else than an object.
    """
    try:
        parameters = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{key} is not JSON ({shorten(error)}): send an object such as {{}}.") from error
    if not isinstance(parameters, dict):
        raise InputError(f"{key} is not a JSON object: send one such as {{}}.")
    return parameters


def read_info(text: str, key: str = "info") -> dict[str, Any]:
    """Read what a client wants to store about an image or a label.

    Raises:
        InputError: no JSON object, larger than `LARGEST_INFO`, nested deeper than `DEEPEST`, or of numbers or
            characters that JSON does not have.
    """
    info = read_parameters(text, key)
    if not is_shallow(info):
        raise InputError(f"{key} is nested deeper than {DEEPEST} levels: send it flatter.")
    try:
        size = len(json.dumps(info, allow_nan=False))
        json.dumps(info, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{key} holds half of a pair of surrogates: send whole characters.") from error
    except ValueError as error:
        raise InputError(f"{key} holds NaN or infinity: leave it out.") from error
    if size > LARGEST_INFO or not all(key.isprintable() for key in info):
        raise TooLargeError(f"{key} is larger than {LARGEST_INFO // 1024} kB, or has odd keys: send less.")
    return info


def is_shallow(value: Any) -> bool:
    """Whether JSON is nested at most `DEEPEST` levels deep."""
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
    return not level


def check_inference(parameters: Mapping[str, Any], models: Path) -> dict[str, Any]:
    """Refuse parameters of an inference that would end in a crash, or reach for other files.

    Args:
        parameters: of the request.
        models: the folder with the model's weights.

    Returns:
        Those that the pipeline may see.

    Raises:
        InputError: the first that cannot be right.
    """
    for key in INTERNAL:
        if key in parameters:
            raise InputError(f"params has {key}, which is not for clients to set: leave it out.")
    level = parameters.get("logging")
    if level is not None and (not isinstance(level, str) or level.upper() not in LEVELS):
        raise InputError(f"logging is '{shorten(level)}': give one of {', '.join(LEVELS)}, or leave it out.")
    for key in ("result_compress", "restore_label_idx", "save_label"):
        if not isinstance(parameters.get(key, False), bool | None):
            raise InputError(f"{key} is '{shorten(parameters[key])}': give true or false, or leave it out.")
    for key in ("result_extension", "result_dtype"):
        if not isinstance(parameters.get(key), str | None):
            raise InputError(f"{key} is '{shorten(parameters[key])}': give a text, or leave it out.")
    check_tag(parameters.get("label_tag", "original"))
    passed = {key: parameters[key] for key in PIPELINE if parameters.get(key) is not None}
    passed.update(chosen_device(parameters))
    if "model_filename" in passed:
        passed["model_filename"] = _weights(passed["model_filename"], models)
    return passed


def chosen_device(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Return ``device`` of a request's parameters if it is given, as a name that this machine has.

    Raises:
        InputError: this machine has no such device.
    """
    device = parameters.get("device")
    if not device:
        return {}
    name = device[0] if isinstance(device, list) else device
    if not isinstance(name, str):
        raise InputError(f"device is '{shorten(device)}': give cpu, or leave it out.")
    _check_device(name)
    return {"device": name}


def whole_number(parameters: Mapping[str, Any], key: str, maximum: int = 10**6) -> dict[str, int]:
    """Return a parameter if it is given, a whole number of 0 to ``maximum``.

    Raises:
        InputError: the parameter is not such a number.
    """
    value = parameters.get(key)
    if value is None:
        return {}
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= maximum:
        raise InputError(f"{key} is {shorten(value, 40)}: give a whole number of images, 0 for all.")
    return {key: value}


def _weights(name: Any, models: Path) -> str:
    if isinstance(name, list):
        if not name:
            raise InputError("model_filename is an empty list: name a file of weights, or leave it out.")
        name = name[0]
    check_known("file of weights", name, sorted(path.name for path in models.glob("*.pt")))
    return str(name)


def _check_device(name: str) -> None:
    from lmsfe_sam.distributed import check_device

    count = torch.cuda.device_count()
    names = [torch.cuda.get_device_name(index) for index in range(count)]
    known = [*names, *(f"{each}:{index}" for index, each in enumerate(names))]
    if name not in known and name != "cuda":  # MONAI Label takes the processor where there is no cuda
        check_device(name if len(name) <= 40 else shorten(name, 40))


def is_full_disk(error: BaseException | None) -> bool:
    """Whether one of an error's causes is a disk, a quota or a file that cannot grow."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def shorten(value: object, maximum: int = 80) -> str:
    """Return what a client sent, short and on one line, to be repeated in a sentence."""
    text = str(value)[: maximum + 1]
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= maximum else text[: maximum - 3] + "..."


def for_clients(sentence: str) -> str:
    """Leave out the server's folders, and turn the command line's options into the request's parameters.

    What is left has at most `LONGEST` characters.
    """
    sentence = re.sub(r"(['\"])/[^'\"]*/([^/'\"]+)\1", r"\1\2\1", sentence)
    sentence = re.sub(r"(?<![\w.:/'\"])/(?:[^\s/'\"]+/)+([^\s/'\"]*)", r"\1", sentence)
    sentence = re.sub(r"--(slice|device)\b", r"\1", sentence)
    return sentence if len(sentence) <= LONGEST else sentence[: LONGEST - 3] + "..."


def base_name(name: str | None, default: str = "upload") -> str:
    """Return the last part of a file's name as a client gave it, whatever its slashes look like."""
    return shorten(Path((name or default).replace("\\", "/").rstrip("/") or default).name or default)
