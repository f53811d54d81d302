"""How large an image may be, and compressed bytes that decompress to no more than they should.

A few kilobytes can state, or decompress to, gigabytes. Sizes in headers are held against a limit before
anything is decoded, and decompression ends where the header says that the pixels end.
"""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from lmsfe_sam.errors import InputError

MAX_PIXELS = 2**27
"""Of a frame, or of all frames of a file that is read as a whole: 11585 x 11585."""

MAX_HEADER = 2**20
"""Bytes of a text header, or before the voxels of a NIfTI file."""

CHUNK = 2**20

UNSCANNED = 2**22
"""Bytes of a run-length encoded frame that may expand freely: to at most 64 times as many."""


class TooManyPixelsError(InputError):
    """A file that is larger than the limit."""


def pixel_limit(record: Mapping[Any, Any]) -> int:
    """Return how many pixels a record's files may have: what the option ``max_pixels`` says."""
    return int(record.get("max_pixels", MAX_PIXELS))


def check_pixel_count(file: Path, count: int, max_pixels: int) -> None:
    """Hold a number of pixels against the limit.

    Raises:
        TooManyPixelsError: the number is above the limit.
    """
    if count > max_pixels:
        raise TooManyPixelsError(
            f"'{file}' has {count} pixels, more than {max_pixels}: "
            "make it smaller, or allow more with --max_pixels."
        )


def decompression_error(file: Path) -> InputError:
    """The sentence for compressed bytes that are more than the header says."""
    return InputError(
        f"'{file}' decompresses to more pixels than it states: "
        "copy it again from its source, or save it uncompressed."
    )


def decompress_bounded(stream: IO[bytes], max_bytes: int, file: Path, method: str = "zlib") -> bytes:
    """Decompress the rest of a stream, which must not be longer than ``max_bytes`` bytes.

    Args:
        stream: of compressed bytes.
        max_bytes: bytes that may come out.
        file: for the message.
        method: "zlib", which is gzip, too, or "bz2".

    Raises:
        InputError: more comes out.
        zlib.error, OSError, EOFError: the bytes are damaged or cut short.
    """
    tool: Any = bz2.BZ2Decompressor() if method == "bz2" else zlib.decompressobj(zlib.MAX_WBITS | 32)
    content = bytearray()
    while not tool.eof:
        packed = b"" if method == "bz2" and not tool.needs_input else stream.read(CHUNK)
        if not packed and (method != "bz2" or tool.needs_input):
            break
        while True:
            content += tool.decompress(packed, CHUNK)
            if len(content) > max_bytes:
                raise decompression_error(file)
            packed = b"" if method == "bz2" else tool.unconsumed_tail
            if not packed:
                break
    if method == "zlib" and not tool.eof and len(content) <= max_bytes:
        content += tool.flush()
    return bytes(content)


def check_decompressed_size(stream: IO[bytes], max_bytes: int, file: Path) -> None:
    """Refuse raw deflated bytes that decompress to more than ``max_bytes``; none are kept.

    Raises:
        InputError: the bytes decompress to more.
    """
    tool, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    try:
        while not tool.eof and (packed := stream.read(CHUNK)):
            while packed:
                total += len(tool.decompress(packed, CHUNK))
                if total > max_bytes:
                    raise decompression_error(file)
                packed = tool.unconsumed_tail
    except zlib.error:
        return  # reading says what is wrong with them


def runs_fit(segment: bytes, max_bytes: int) -> bool:
    """Whether a segment of run lengths (PackBits) decodes to at most ``max_bytes``; nothing is decoded."""
    offset, length = 0, 0
    while offset < len(segment) and length <= max_bytes:
        code = segment[offset]
        if code < 128:
            offset, length = offset + code + 2, length + code + 1
        else:
            offset, length = offset + 2, length + (257 - code if code > 128 else 0)
    return length <= max_bytes


def check_runs(frame: bytes, pixels: int, file: Path) -> None:
    """Refuse a frame of DICOM's run lengths that decodes to more than its pixels.

    pydicom expands a segment before it looks at how long that has become.

    Raises:
        InputError: the frame decodes to more.
    """
    if len(frame) <= UNSCANNED:
        return
    count = int.from_bytes(frame[:4], "little")
    offsets = [int.from_bytes(frame[4 * k : 4 * k + 4], "little") for k in range(1, min(count, 15) + 1)]
    for start, end in zip(offsets, [*offsets[1:], len(frame)]):
        if not runs_fit(frame[start:end], pixels + 2):
            raise decompression_error(file)


def coded_shape(frame: bytes) -> tuple[int, int, int] | None:
    """Return the rows, columns and samples of a JPEG, JPEG-LS or JPEG 2000 code stream by its header, if any.

    Decoders take memory for these, whatever the DICOM file around them says.
    """
    start = frame[:4096].find(b"\xff\x4f\xff\x51")  # SOC and SIZ, perhaps within a JP2 container
    if 0 <= start <= len(frame) - 42:
        numbers = frame[start + 8 : start + 24]
        right, bottom, left, top = (int.from_bytes(numbers[k : k + 4], "big") for k in range(0, 16, 4))
        samples = int.from_bytes(frame[start + 40 : start + 42], "big")
        return max(0, bottom - top), max(0, right - left), samples
    offset = 2
    while frame[:2] == b"\xff\xd8" and offset + 10 <= len(frame) and frame[offset] == 0xFF:
        marker = frame[offset + 1]
        if marker == 0xFF:
            offset += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            rows, columns = (int.from_bytes(frame[offset + k : offset + k + 2], "big") for k in (5, 7))
            return rows, columns, frame[offset + 9]
        else:
            offset += 2 + int.from_bytes(frame[offset + 2 : offset + 4], "big")
    return None
