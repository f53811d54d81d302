"""A folder of masks that another program made, one for each image."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmsfe_sam.data.masks.files import read_label_map
from lmsfe_sam.data.masks.reading import resize_mask
from lmsfe_sam.data.transforms.loading import load_image_and_mask
from lmsfe_sam.errors import InputError
from lmsfe_sam.images.formats import known_suffix, stem
from lmsfe_sam.images.image import SeveralFramesError
from lmsfe_sam.images.limits import MAX_PIXELS, pixel_limit
from lmsfe_sam.images.reading import read_header

_WORD = re.compile(r"(.+?)[_\-. ](?:mask|segmentation|seg|labels?|pred(?:iction)?|0000)", re.IGNORECASE)
"""What programs put behind an image's name; the last is the channel of nnU-Net's input."""


class ForeignMasks:
    """A folder with one mask for each image that is evaluated, found by file name.

    A mask has the image's name with any ending that holds masks, at the image's own place below the folder
    (``benign/x.png`` or ``benign/x.nii.gz``) or, where names are unique, directly in it. A word such as
    ``_mask`` may stand behind each name. Hidden files are left out. It is a label map or
    binary, as `lmsfe_sam.data.masks.files` reads masks, of the image's size or of the size at which masks are
    compared. All its objects count as one; an empty one scores as an empty prediction.

    Args:
        folder: of the masks.
        records: of the images.
        metric_size: side at which masks are compared, or "native".

    Raises:
        InputError: no such folder; images without a mask, files without an image, a mask of another size, or
            a file that is no mask.
    """

    def __init__(self, folder: str, records: Sequence[Mapping[str, Any]], metric_size: int | str) -> None:
        self.folder = Path(folder).expanduser()
        if not self.folder.is_dir():
            raise InputError(
                f"predictions '{folder}' is no folder: give one that holds a mask for each image."
            )
        self.max_pixels = max(map(pixel_limit, records), default=MAX_PIXELS)
        self.files = self._match([str(record["name"]) for record in records])
        for record in records:
            self._check_size(record, metric_size)
        for name in self.files:  # before the network's work, which a bad file would end
            self._read(name)

    def _match(self, names: Sequence[str]) -> dict[str, Path]:
        """Return each image's file."""
        files = [file for file in sorted(self.folder.rglob("*")) if file.is_file() and not self._hidden(file)]
        by_path: dict[str, Path] = {}
        for file in filter(known_suffix, files):
            other = by_path.setdefault(_key(file.relative_to(self.folder)), file)
            if other != file:
                raise InputError(
                    f"predictions '{other}' and '{file.name}' differ in their ending only: keep one of them."
                )
        keys = {name: _key(PurePosixPath(name)) for name in names}
        flat = {name: key.rsplit("/", 1)[-1] for name, key in keys.items()}
        bare = _without_words(by_path)
        for wanted, present in ((keys, by_path), (flat, by_path), (keys, bare), (flat, bare)):
            if any(key in present for key in wanted.values()):
                keys, by_path = wanted, present
                break
        if len(set(keys.values())) < len(keys):
            raise InputError(
                f"predictions '{self.folder}' has no subfolders, but several images have one name: "
                "arrange the masks as the images are."
            )
        missing = [name for name, key in keys.items() if key not in by_path]
        wrong = [by_path[key] for key in sorted(by_path.keys() - set(keys.values()))]
        if missing or wrong:
            raise self._unmatched(missing, wrong or ([] if by_path else files), len(names))
        return {name: by_path[key] for name, key in keys.items()}

    def _unmatched(self, missing: Sequence[str], wrong: Sequence[Path], count: int) -> InputError:
        """The sentence for images without a mask, or for masks without an image, which ``wrong`` holds."""
        first = f"'{wrong[0].relative_to(self.folder).as_posix()}'" if wrong else ""
        if missing:
            what = f"no mask of {len(missing)} of {count} images, '{missing[0]}' first"
            what += f", but has {first}" if first else ""
        else:
            what = f"{len(wrong)} of its masks without an image that is evaluated, {first} first"
        return InputError(
            f"predictions '{self.folder}' has {what}: give one mask, named as the image and in a format that "
            "is read (docs/formats.md), for each image that is evaluated (--split), and no others."
        )

    def _hidden(self, file: Path) -> bool:
        return any(part.startswith(".") for part in file.relative_to(self.folder).parts)

    def _check_size(self, record: Mapping[str, Any], metric_size: int | str) -> None:
        file = self.files[str(record["name"])]
        header = read_header(file, self.max_pixels)
        own = header.rows, header.columns
        wanted = _size_of(record)
        if own == wanted or (metric_size != "native" and own == (metric_size, metric_size)):
            return
        raise InputError(
            f"predictions '{file}' is {own[1]} x {own[0]} pixels (width x height), its image {wanted[1]} x "
            f"{wanted[0]}: give the mask in the image's own size."
        )

    def __call__(self, name: str, size: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the mask of an image, bool, resized to ``size`` by nearest neighbour."""
        return resize_mask(self._read(name), size)

    def _read(self, name: str) -> NDArray[np.bool_]:
        try:
            return read_label_map(self.files[name], max_pixels=self.max_pixels).labels != 0
        except SeveralFramesError as error:
            raise InputError(
                f"{error.fact}, but predictions are files of one: save the image's own."
            ) from error


def foreign_masks(
    folder: str | None, records: Sequence[Mapping[str, Any]], metric_size: int | str, objects: Any = "union"
) -> ForeignMasks | None:
    """Return the masks of a folder, or None without one.

    Raises:
        InputError: as `ForeignMasks`, or objects are scored one by one.
    """
    if folder is None:
        return None
    if objects != "union":
        raise InputError("predictions hold all objects of an image: use --objects union with them.")
    return ForeignMasks(folder, records, metric_size)


def _without_words(by_path: dict[str, Path]) -> dict[str, Path]:
    """Return the masks by their names without the word behind each; as they are where not all have one."""
    found = {key: _WORD.fullmatch(key) for key in by_path}
    bare = {match[1]: by_path[key] for key, match in found.items() if match}
    return bare if len(bare) == len(by_path) else by_path


def _key(path: PurePath) -> str:
    return (path.parent / stem(Path(path.name))).as_posix()


def _size_of(record: Mapping[str, Any]) -> tuple[int, int]:
    if "phantom" in record:
        shape = load_image_and_mask(record)[1].shape
        return shape[0], shape[1]
    header = read_header(record["image"], pixel_limit(record))
    return header.rows, header.columns
