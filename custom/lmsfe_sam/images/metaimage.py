"""MetaImage files, as MetaIO writes them: https://itk.org/Wiki/ITK/MetaIO/Documentation.

ITK refuses a file whose spacing is zero or no number, takes 1 where none is stated, and needs seconds to
load; the format is a few lines of text before the pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmsfe_sam.errors import InputError

MAX_HEADER = 2**20
"""Bytes of the lines before the pixels."""

_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


@dataclass(frozen=True)
class MetaHeader:
    """What the lines of a MetaImage say.

    Attributes:
        sizes: of the axes, x first.
        channels: values a pixel.
        dtype: of a value, in its byte order.
        spacing: of the axes, as stated; None where it is not, NaN where it is no number.
        direction: (N, N), a column an axis.
        origin: (N,).
        data: the file of the pixels, and where they start in it; None counts from the end.
        compressed: whether they are deflated.
    """

    sizes: tuple[int, ...]
    channels: int
    dtype: np.dtype
    spacing: list[float] | None
    direction: np.ndarray
    origin: np.ndarray
    data: tuple[Path, int | None]
    compressed: bool


def read_header(file: Path) -> MetaHeader:
    """Read the lines before the pixels.

    Raises:
        ValueError: it is no MetaImage, or a line is malformed.
        InputError: its pixels are in several files, or written as text.
    """
    lines, end = _lines(file)
    if lines.get("binarydata", "true").lower() in ("false", "0", "no"):
        raise InputError(f"'{file}' has its values written as text: save it with binary data.")
    sizes = tuple(int(size) for size in lines.get("dimsize", "").split())
    n = len(sizes)
    kind = _TYPES.get(lines.get("elementtype", "").upper().removesuffix("_ARRAY"))
    if n < 2 or kind is None or int(lines.get("ndims", n)) != n:
        raise ValueError("it does not state its sizes and the type of its values")
    big = any(_is_true(lines, key) for key in ("binarydatabyteordermsb", "elementbyteordermsb"))
    matrix = _numbers(lines, ("transformmatrix", "rotation", "orientation"), n * n)
    origin = _numbers(lines, ("offset", "position", "origin"), n)
    spacing = None
    for key in ("elementspacing", "elementsize"):
        if key in lines and spacing is None:
            spacing = _any_numbers(lines[key], n)
    return MetaHeader(
        sizes,
        int(lines.get("elementnumberofchannels", "1")),
        np.dtype((">" if big else "<") + kind),
        spacing,
        np.eye(n) if matrix is None else matrix.reshape(n, n).T,
        np.zeros(n) if origin is None else origin,
        _data_file(file, lines, end),
        _is_true(lines, "compresseddata"),
    )


def read_volume(file: Path, header: MetaHeader) -> np.ndarray:
    """Read the pixels, (x, y, ...), channels last where there are several.

    Raises:
        ValueError: the file ends before its pixels do.
    """
    path, start = header.data
    values = int(np.prod(header.sizes)) * header.channels
    length = values * header.dtype.itemsize
    if not header.compressed and path.stat().st_size < length:  # reading would take the memory first
        raise ValueError(f"it holds {path.stat().st_size} of {length} bytes")
    with path.open("rb") as stream:
        stream.seek(start if start is not None else -length, 0 if start is not None else 2)
        raw = zlib.decompressobj(15 + 32).decompress(stream.read(), length) if header.compressed else b""
        raw = raw or stream.read(length)
    if len(raw) < length:
        raise ValueError(f"it holds {len(raw)} of {length} bytes")
    volume = np.frombuffer(raw, header.dtype).astype(header.dtype.newbyteorder("="))
    channels = (header.channels,) if header.channels > 1 else ()
    return volume.reshape((*channels, *header.sizes), order="F").transpose(
        [*range(len(channels), len(channels) + len(header.sizes)), *range(len(channels))]
    )


def _lines(file: Path) -> tuple[Mapping[str, str], int]:
    """Return the keys in lower case with their values, and where the pixels start."""
    with file.open("rb") as stream:
        head = stream.read(MAX_HEADER)
    lines: dict[str, str] = {}
    offset = 0
    while offset < len(head):
        end = head.find(b"\n", offset)
        end = len(head) if end < 0 else end
        key, equals, value = head[offset:end].decode("latin-1").partition("=")
        if not equals or not key.strip().isprintable():
            raise ValueError("it has no header of MetaImage")
        lines[key.strip().lower()] = value.strip()
        offset = end + 1
        if key.strip().lower() == "elementdatafile":
            return lines, offset
    raise ValueError("it has no header of MetaImage")


def _data_file(file: Path, lines: Mapping[str, str], end: int) -> tuple[Path, int | None]:
    name = lines["elementdatafile"]
    if name.upper() == "LOCAL":
        return file, end
    if name.upper().startswith("LIST") or "%" in name:
        raise InputError(f"'{file}' has its pixels in several files: save it as one .mha or .nrrd.")
    path = file.parent / name.replace("\\", "/")
    if not path.is_file():
        raise InputError(f"'{file}' has its pixels in '{name}', which is not there: put it beside the file.")
    if path.samefile(file):
        raise InputError(f"'{file}' names itself as the file of its pixels: put that file's name into it.")
    skipped = int(lines.get("headersize", "0"))
    return path, None if skipped < 0 else skipped


def _is_true(lines: Mapping[str, str], key: str) -> bool:
    return lines.get(key, "").lower() in ("true", "1", "t")


def _numbers(lines: Mapping[str, str], keys: tuple[str, ...], count: int) -> np.ndarray | None:
    """Return the finite numbers of the first of some keys, or None."""
    for key in keys:
        if key in lines:
            values = np.array(_any_numbers(lines[key], count))
            return values if np.isfinite(values).all() else None
    return None


def _any_numbers(text: str, count: int) -> list[float]:
    """Return ``count`` numbers of a line, NaN for what is none."""
    values = []
    for word in text.split():
        try:
            values.append(float(word))
        except ValueError:
            values.append(float("nan"))
    return (values + [float("nan")] * count)[:count]
