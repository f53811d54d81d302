"""Reading files of weights without running what they hold.

A file either loads with ``weights_only=True`` or passes a restricted unpickler that knows tensors and
discards optimizers.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmsfe_sam.errors import InputError


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint file without executing anything in it.

    Raises:
        InputError: no such file, no checkpoint, or a pickle that asks for anything but tensors.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"checkpoint '{file}' does not exist: give the path of a .pt or .pth file.")
    if _is_torchscript(file):
        raise InputError(
            f"checkpoint '{file}' is a TorchScript program, which could not be read without running it: "
            "give the file of weights that it was made from."
        )
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        content = _read_restricted(file, error)
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    is_state = isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    )
    if not is_state or not content:
        raise InputError(
            f"checkpoint '{file}' is no state dict: save the network's state_dict() and give that file."
        )
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _is_torchscript(file: Path) -> bool:
    """Whether `torch.load` would hand the file to `torch.jit.load`."""
    if not zipfile.is_zipfile(file):
        return False
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.rsplit("/", 1)[-1] == "constants.pkl" for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _read_restricted(file: Path, first_error: Exception) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=False, pickle_module=_restricted_pickle)
    except ForbiddenGlobalError as error:
        raise InputError(
            f"checkpoint '{file}' asks to run '{error.name}' while it loads and was refused: "
            "get the file from a source that you trust and save its state_dict() alone."
        ) from None
    except Exception:
        first_line = (str(first_error) or type(first_error).__name__).splitlines()[0]
        raise InputError(
            f"checkpoint '{file}' cannot be read ({first_line[:120]}): "
            "it is damaged or no PyTorch checkpoint; download it again."
        ) from first_error


class ForbiddenGlobalError(pickle.UnpicklingError):
    """A pickle asks for something that is neither a tensor nor known to be harmless."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class _Discarded(dict[Any, Any]):
    """Stands in for an optimizer and what it holds: takes everything, keeps nothing of use."""

    def __new__(cls, *_: object, **__: object) -> _Discarded:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        pass


_TENSOR_GLOBALS = {
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("collections", "OrderedDict"): OrderedDict,
}


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _TENSOR_GLOBALS:
            return _TENSOR_GLOBALS[module, name]
        if module == "torch" and name.endswith("Storage"):
            return getattr(torch, name)
        optimizer = module == "torch.optim" or module.startswith("torch.optim.")
        if optimizer or (module, name) in {
            ("collections", "defaultdict"),
            ("builtins", "dict"),
            ("__builtin__", "dict"),
        }:
            return _Discarded
        raise ForbiddenGlobalError(f"{module}.{name}")


_restricted_pickle = types.ModuleType("restricted_pickle")
_restricted_pickle.Unpickler = _RestrictedUnpickler  # type: ignore[attr-defined]
_restricted_pickle.load = lambda file, **options: _RestrictedUnpickler(file, **options).load()  # type: ignore[attr-defined]


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
