"""Videos (MP4, AVI, ..., MPEG in DICOM) by PyAV, which the extra ``video`` installs."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from lmsfe_sam.errors import InputError
from lmsfe_sam.images.image import LPS_TO_RAS, FileImage, Header, ImageFile
from lmsfe_sam.images.limits import MAX_PIXELS, check_pixel_count

CACHED_FRAMES = 16
"""Frames before the requested one that are kept in memory."""


def open_video(file: Path, max_pixels: int = MAX_PIXELS) -> ImageFile:
    """Read the header of a video and count its frames, which decodes it once.

    Raises:
        TooManyPixelsError: a frame has more than ``max_pixels``.
        InputError: PyAV is not installed, or the file is no video.
    """
    return _open(file, lambda: file.open("rb"), max_pixels)


def open_stream(content: bytes, file: Path, max_pixels: int = MAX_PIXELS) -> ImageFile:
    """Read the header of a video that lies within a file, as `open_video` does.

    Args:
        content: the video.
        file: that holds it, for messages.
        max_pixels: of a frame.

    Raises:
        InputError: see `open_video`.
    """
    return _open(file, lambda: io.BytesIO(content), max_pixels)


def _open(file: Path, start: Callable[[], IO[bytes]], max_pixels: int) -> ImageFile:
    try:
        import av
    except ImportError as error:
        raise InputError(f"'{file}' is a video: pip install 'lmsfe-sam[video]' reads it.") from error

    def frames() -> Iterator[Any]:
        return _list_frames(start, file, max_pixels)

    try:
        listed = frames()
        first = next(listed)
        count = 1 + sum(1 for _ in listed)
    except (av.FFmpegError, OSError, StopIteration, IndexError) as error:
        raise InputError(f"'{file}' cannot be read as a video: copy it again from its source.") from error
    rows, columns = (first.width, first.height) if _quarters(first) % 2 else (first.height, first.width)
    header = Header(count, rows, columns, 3, 8)
    return ImageFile(header, _Reader(frames, count).read)


class _Reader:
    """Reads frames; those that come in their order are decoded once, an earlier one from the start."""

    def __init__(self, start: Callable[[], Iterator[Any]], count: int) -> None:
        self._start = start
        self._count = count
        self._next = 0
        self._frames: Iterator[Any] = iter(())
        self._cached: dict[int, np.ndarray] = {}

    def read(self, frame: int) -> FileImage:
        """Return a frame as RGB."""
        if frame not in self._cached:
            if frame < self._next or self._next == 0:
                self._frames, self._next = self._start(), 0
            while self._next <= frame:
                one = next(self._frames)
                self._next += 1
                # Going backward starts anew each time, so some frames before are kept.
                if self._next > frame - CACHED_FRAMES:
                    self._cache(self._next - 1, np.rot90(one.to_ndarray(format="rgb24"), _quarters(one)))
        pixels = self._cached[frame]
        return FileImage(pixels, LPS_TO_RAS, (pixels.shape[1], pixels.shape[0], self._count), frame)

    def _cache(self, number: int, pixels: np.ndarray) -> None:
        self._cached[number] = pixels
        while len(self._cached) > 2 * CACHED_FRAMES:
            self._cached.pop(next(iter(self._cached)))


def _quarters(frame: Any) -> int:
    """Return by how many quarters, counterclockwise, players turn a frame, which phones store as it came."""
    return round(frame.rotation / 90)


def _list_frames(start: Callable[[], IO[bytes]], file: Path, max_pixels: int) -> Iterator[Any]:
    """Yield the frames of the first video stream; how large they are is looked at before any is decoded."""
    import av

    with start() as content, av.open(content, "r") as container:
        stream = container.streams.video[0]
        check_pixel_count(file, stream.codec_context.width * stream.codec_context.height, max_pixels)
        stream.thread_type = "AUTO"
        yield from container.decode(stream)
