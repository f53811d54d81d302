"""What is wrong with a request, found before MONAI Label stumbles over it."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from lmsfe_sam.errors import InputError

INTERNAL = ("skip_writer", "result_write_to_file", "image", "model", "image_path", "session")
"""Parameters of MONAI Label's own pipeline, which no client needs and which break or bend its answer."""

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def for_clients(sentence: str) -> str:
    """Leave out the server's folders, and turn the command line's options into the request's parameters."""
    return re.sub(r"--(slice|device)\b", r"\1", re.sub(r"'/[^']*/([^/']+)'", r"'\1'", sentence))


class NotFoundError(InputError):
    """A name that the server does not know: HTTP's 404."""


def check_known(what: str, name: Any, known: Sequence[str]) -> None:
    """Refuse a name that is none of those there are.

    Raises:
        NotFoundError: it is not.
    """
    if name not in known:
        there = f"there are {', '.join(known)}" if 0 < len(known) <= 20 else f"there are {len(known)} others"
        raise NotFoundError(f"there is no {what} '{str(name)[:80]}': {there}.")


def read_parameters(text: str, key: str = "params") -> dict[str, Any]:
    """Read a form field that holds JSON.

    Raises:
        InputError: it holds something else than an object.
    """
    try:
        parameters = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{key} is no JSON ({str(error)[:80]}): send an object such as {{}}.") from error
    if not isinstance(parameters, dict):
        raise InputError(f"{key} is no JSON object: send one such as {{}}.")
    return parameters


def check_inference(parameters: dict[str, Any], models: Path) -> None:
    """Refuse parameters of an inference that would end in a crash, or reach for other files.

    Args:
        parameters: of the request.
        models: the folder with the model's weights.

    Raises:
        InputError: the first that cannot be right.
    """
    for key in INTERNAL:
        if key in parameters:
            raise InputError(f"params has {key}, which is not for clients to set: leave it out.")
    level = parameters.get("logging")
    if level is not None and (not isinstance(level, str) or level.upper() not in LEVELS):
        raise InputError(f"logging is {str(level)[:80]!r}: give one of {', '.join(LEVELS)}, or leave it out.")
    if parameters.get("device"):
        _check_device(parameters["device"])
    weights = parameters.get("model_filename")
    names = sorted(path.name for path in models.glob("*.pt"))
    for name in weights if isinstance(weights, list) else [weights] if weights is not None else []:
        check_known("file of weights", name, names)
    check_tag(parameters.get("label_tag", "original"))


def check_tag(tag: Any) -> None:
    """Refuse a tag of a label, or a name of an image, that is no plain folder's name.

    Raises:
        InputError: it is not.
    """
    if not isinstance(tag, str) or not tag or tag.startswith(".") or Path(tag).name != tag or "\\" in tag:
        raise InputError(f"'{str(tag)[:80]}' is no plain name: give letters and digits, such as final.")


@contextmanager
def uploaded(file: IO[bytes], name: str | None) -> Iterator[str]:
    """Yield the path of a copy of an uploaded file, with its name's suffixes; rewind the upload.

    The messages of `InputError`s name the file as the client did, not the copy.
    """
    name = os.path.basename(name or "upload.nii.gz")  # noqa: PTH119 - may end in a slash
    handle, path = tempfile.mkstemp(suffix="".join(Path(name).suffixes[-2:])[-40:])
    try:
        with os.fdopen(handle, "wb") as copy:
            while chunk := file.read(1 << 20):
                copy.write(chunk)
        file.seek(0)
        yield path
    except InputError as error:
        raise InputError(str(error).replace(path, name)) from error
    finally:
        Path(path).unlink(missing_ok=True)


def _check_device(device: Any) -> None:
    from lmsfe_sam.settings import check_device

    name = device[0] if isinstance(device, list) and device else device
    count = torch.cuda.device_count()
    shown = [torch.cuda.get_device_name(index) for index in range(count)]
    known = [*shown, *(f"{each}:{index}" for index, each in enumerate(shown))]
    if name not in known and name != "cuda":  # MONAI Label takes the processor where there is no cuda
        check_device(name)
