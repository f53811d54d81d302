"""Refuse unsafe files of weights: archives that expand, and tensors that are not plain finite numbers."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from lmsfe_sam.errors import InputError
from lmsfe_sam.files import read_text

DTYPES = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16}
    | {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool}
)
"""Types of numbers that weights may have."""


MOST_SHARED = 4
"""All tensors of a file together are at most so many times its size."""

HASH = "sha256"
"""The key of the file's SHA-256 in the description beside it; older descriptions have none."""


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_hash(file: Path) -> None:
    """Refuse a file of weights that is not the one that the description beside it was made for.

    A file without a description, or whose description has no hash, passes.

    Raises:
        InputError: its SHA-256 is another.
    """
    sidecar = file.with_suffix(".json")
    try:
        stated = json.loads(read_text(sidecar)).get(HASH)
    except (OSError, ValueError, RecursionError, AttributeError):
        return  # whoever needs the description says what is wrong with it
    if stated is not None and stated != sha256(file):
        raise InputError(
            f"checkpoint '{file}' is not the file that '{sidecar.name}' beside it describes (its "
            f"{HASH} differs): restore both files, or remove {HASH} there if you trust the weights."
        )


def check_size(file: Path, tensors: Iterable[Tensor]) -> None:
    """Refuse tensors that together are much larger than their file, because they share memory.

    A network may use some of its weights twice, but no network consists mostly of shared weights.

    Raises:
        InputError: the tensors are more than `MOST_SHARED` times as large as the file.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if size > MOST_SHARED * file.stat().st_size:
        raise InputError(
            f"checkpoint '{file}' has tensors of {size} bytes in a file of {file.stat().st_size}, "
            "which share memory: save clone() of each."
        )


def check_tensor(file: Path, name: str, tensor: Tensor) -> None:
    """Refuse a tensor that is not made of plain numbers, all of them in the file; no number is read.

    Raises:
        InputError: the tensor is of another kind.
    """
    kind = ""
    if tensor.is_quantized:
        kind = "quantized"
    elif tensor.is_meta:
        kind = "on the meta device, without numbers"
    elif tensor.layout is not torch.strided or tensor.is_nested:
        kind = "sparse or nested"
    elif tensor.dtype not in DTYPES:
        kind = f"of the type {str(tensor.dtype).removeprefix('torch.')}"
    elif tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        kind = "expanded, larger than what the file holds"
    if kind:
        raise InputError(
            f"checkpoint '{file}' has a tensor that is {kind} ({name[:100]}): "
            "save plain numbers, such as float() of each tensor."
        )


def check_numbers(file: Path, name: str, tensor: Tensor) -> None:
    """Refuse a tensor that holds NaN or infinity.

    Raises:
        InputError: the tensor holds NaN or infinity.
    """
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        raise InputError(
            f"checkpoint '{file}' holds NaN or infinity ({name[:100]}): "
            "it is damaged, or its training diverged; name an earlier one."
        )


def refuse_compression(file: Path) -> None:
    """Refuse a compressed archive, which may decompress to anything; PyTorch writes none.

    Raises:
        InputError: the archive is compressed.
    """
    if not zipfile.is_zipfile(file):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            compressed = any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # reading it says what is wrong
    if compressed:
        raise InputError(f"checkpoint '{file}' is a compressed archive: save it with torch.save.")
