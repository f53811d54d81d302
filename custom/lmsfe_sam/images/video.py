"""Videos (MP4, AVI, ...) by PyAV, which the extra ``video`` installs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lmsfe_sam.errors import InputError
from lmsfe_sam.images.image import LPS_TO_RAS, FileImage, Header, ImageFile


def open_video(file: Path) -> ImageFile:
    """Read the header of a video and count its frames, which decodes it once.

    Raises:
        InputError: PyAV is not installed, or the file is no video.
    """
    try:
        import av
    except ImportError as error:
        raise InputError(f"'{file}' is a video: pip install 'lmsfe-sam[video]' reads it.") from error
    try:
        frames = list_frames(file)
        first = next(frames)
        count = 1 + sum(1 for _ in frames)
    except (av.FFmpegError, StopIteration, IndexError) as error:
        raise InputError(f"'{file}' cannot be read as a video: copy it again from its source.") from error
    header = Header(count, first.height, first.width, 3, 8)
    return ImageFile(header, _Reader(file, count).read)


class _Reader:
    """Reads frames; those that come in their order are decoded once, an earlier one from the start."""

    def __init__(self, file: Path, count: int) -> None:
        self._file = file
        self._count = count
        self._next = 0
        self._frames: Iterator[Any] = iter(())
        self._kept: dict[int, np.ndarray] = {}

    def read(self, frame: int) -> FileImage:
        """Return a frame as RGB."""
        if frame not in self._kept:
            if frame < self._next or self._next == 0:
                self._frames, self._next = list_frames(self._file), 0
            while self._next <= frame:
                one = next(self._frames)
                self._next += 1
                # Going backward starts anew each time, so some frames before are kept.
                if self._next > frame - KEPT:
                    self._keep(self._next - 1, one.to_ndarray(format="rgb24"))
        pixels = self._kept[frame]
        return FileImage(pixels, LPS_TO_RAS, (pixels.shape[1], pixels.shape[0], self._count), frame)

    def _keep(self, number: int, pixels: np.ndarray) -> None:
        self._kept[number] = pixels
        while len(self._kept) > 2 * KEPT:
            self._kept.pop(next(iter(self._kept)))


KEPT = 16
"""Frames before the one asked for that are kept in memory."""


def list_frames(file: Path) -> Iterator[Any]:
    """Yield the frames of a file's first video stream."""
    import av

    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield from container.decode(stream)
