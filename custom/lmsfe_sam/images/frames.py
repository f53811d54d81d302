"""Cines: files of several frames, videos, and folders of numbered pictures, all read frame by frame."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from lmsfe_sam.errors import InputError
from lmsfe_sam.images.formats import PICTURE_SUFFIXES, VIDEO_SUFFIXES, known_suffix, list_images, stem
from lmsfe_sam.images.image import FileImage, Header, ImageFile
from lmsfe_sam.images.limits import MAX_PIXELS
from lmsfe_sam.images.reading import open_image

_NUMBERED = re.compile(r"(.*?)(\d+)$")


def open_frames(path: Path, max_pixels: int = MAX_PIXELS) -> ImageFile:
    """Open a file of one or several frames, a video, or a folder of numbered pictures.

    Args:
        path: the file or folder.
        max_pixels: that reading a frame may take memory for, as in `open_image`.

    Raises:
        InputError: it cannot be read.
    """
    if path.is_dir():
        return _open_folder(path, max_pixels)
    if is_video(path):
        from lmsfe_sam.images.video import open_video

        return open_video(path, max_pixels)
    return open_image(path, max_pixels)


def is_video(path: Path) -> bool:
    """Whether a file is a video by its name."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def numbered_pictures(folder: Path) -> list[Path]:
    """Return the pictures of a folder in the order of their numbers; none where it is no cine.

    It is one if all its images are pictures that have one name with different numbers, as ``img_1.png``,
    ``img_2.png``, ..., ``img_10.png``.
    """
    paths = list_images(folder)
    parts = [_NUMBERED.match(stem(path)) for path in paths]
    if len(paths) < 2 or any(known_suffix(path) not in PICTURE_SUFFIXES for path in paths):
        return []
    numbers = {int(part[2]): path for part, path in zip(parts, paths, strict=True) if part}
    names = {part[1] for part in parts if part}
    if len(numbers) < len(paths) or len(names) != 1:
        return []
    return [numbers[number] for number in sorted(numbers)]


def _open_folder(folder: Path, max_pixels: int) -> ImageFile:
    paths = numbered_pictures(folder)
    if not paths:
        raise InputError(f"'{folder}' is no cine: give pictures of one name with different numbers.")
    first = open_image(paths[0], max_pixels).header
    header = Header(len(paths), first.rows, first.columns, first.samples, first.bits)

    def read(frame: int) -> FileImage:
        opened = open_image(paths[frame], max_pixels)
        if opened.header.frames > 1:
            raise InputError(
                f"'{paths[frame]}' has {opened.header.frames} frames: a picture of a cine has one, so save "
                "them as files of their own."
            )
        image = opened.read(0)
        height, width = image.pixels.shape[:2]
        if (height, width) != (first.rows, first.columns):
            raise InputError(
                f"'{paths[frame]}' has {width} x {height} pixels, the first frame {first.columns} x "
                f"{first.rows}: frames of a cine have one size."
            )
        return FileImage(image.pixels, image.affine, (width, height, len(paths)), frame, image.scale)

    return ImageFile(header, read)


def choose_frames(requested: str, count: int, path: Path) -> Sequence[int]:
    """Return the frames that ``all`` or ``A:B``, B not among them, asks of ``count``.

    Raises:
        InputError: the file does not have these frames.
    """
    if requested == "all":
        return range(count)
    first, end = (int(part) for part in requested.split(":"))
    if not 0 <= first < end <= count:
        raise InputError(
            f"'{path}' has {count} frames, and frames is {requested}: give A:B with 0 <= A < B <= {count}."
        )
    return range(first, end)
