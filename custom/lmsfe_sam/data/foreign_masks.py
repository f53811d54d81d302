"""A folder of masks that another program made, one for each image."""

from __future__ import annotations

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
from lmsfe_sam.images.limits import MAX_PIXELS, pixel_limit
from lmsfe_sam.images.reading import read_header


class ForeignMasks:
    """A folder with one mask for each image that is evaluated, found by file name.

    A mask has the image's name with any ending that holds masks, at the image's own place below the folder
    (``benign/x.png`` or ``benign/x.nii.gz``) or, where names are unique, directly in it. It is a label map or
    binary, as `lmsfe_sam.data.masks.files` reads masks, of the image's size or of the size at which masks are
    compared. All its objects count as one; an empty one scores as an empty prediction.

    Args:
        folder: of the masks.
        records: of the images.
        metric_size: side at which masks are compared, or "native".

    Raises:
        InputError: no such folder; images without a mask, files without an image, or a mask of another size.
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

    def _match(self, names: Sequence[str]) -> dict[str, Path]:
        """Return each image's file."""
        found = [file for file in sorted(self.folder.rglob("*")) if file.is_file() and known_suffix(file)]
        by_path: dict[str, Path] = {}
        for file in found:
            other = by_path.setdefault(_key(file.relative_to(self.folder)), file)
            if other != file:
                raise InputError(
                    f"predictions '{other}' and '{file.name}' differ in their ending only: keep one of them."
                )
        keys = {name: _key(PurePosixPath(name)) for name in names}
        if not any(key in by_path for key in keys.values()):
            keys = {name: key.rsplit("/", 1)[-1] for name, key in keys.items()}
            if len(set(keys.values())) < len(keys):
                raise InputError(
                    f"predictions '{self.folder}' has no subfolders, but several images have one name: "
                    "arrange the masks as the images are."
                )
        missing = [name for name, key in keys.items() if key not in by_path]
        extra = sorted(by_path.keys() - set(keys.values()))
        for what, some in (("no mask of", missing), ("no image for", extra)):
            if some:
                raise InputError(
                    f"predictions '{self.folder}' has {what} {len(some)} of them, '{some[0]}' first: give "
                    "one mask, named as the image, for each image that is evaluated, and no others."
                )
        return {name: by_path[key] for name, key in keys.items()}

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
        return resize_mask(read_label_map(self.files[name], max_pixels=self.max_pixels).labels != 0, size)


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


def _key(path: PurePath) -> str:
    return (path.parent / stem(Path(path.name))).as_posix()


def _size_of(record: Mapping[str, Any]) -> tuple[int, int]:
    if "phantom" in record:
        shape = load_image_and_mask(record)[1].shape
        return shape[0], shape[1]
    header = read_header(record["image"], pixel_limit(record))
    return header.rows, header.columns
