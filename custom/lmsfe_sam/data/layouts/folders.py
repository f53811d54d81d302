"""What every layout of data folders needs: folders by name, images paired with their masks, records."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmsfe_sam.errors import InputError
from lmsfe_sam.files import LARGEST_LIST, read_text
from lmsfe_sam.images.formats import list_images, stem

Record = dict[str, Any]
"""One image, ready for MONAI: "image" (path), "label" (list of paths, empty where "outlines" holds
drawn ones as JSON), "name" (path relative to the data folder), "group", "subgroup" (str to str)."""

PATIENT, VIDEO, NEAR_DUPLICATES = "patient", "video", "near-duplicate group"
"""What a group of images is: what must stay on one side of a split."""

NORMAL = "normal images, without a lesion"
"""What images without a lesion are counted as."""

IMAGE_FOLDERS = (
    *("images", "image", "img", "imgs", "original", "originals", "jpegimages", "input", "inputs", "data"),
    *("img_dir", "original_images", "scans", "frames"),
)
MASK_FOLDERS = (
    *("masks", "mask", "gt", "label", "labels", "groundtruth", "ground_truth", "segmentations"),
    *("segmentationclass", "segmentationclasspng", "segmentation", "seg", "segs", "gts", "target", "targets"),
    *("ann_dir", "roi", "rois", "annotations", "annotation"),
)
"""Names of folders of images and masks, the likeliest first."""

MASK_SUFFIX = re.compile(
    r"(?P<image>.+?)[_\-. ](mask|segmentation|seg|labels?|gt|ground_?truth|tumou?r|lesion|annotation)"
    r"(_?\d+)?",
    re.IGNORECASE,
)
"""Stems of masks that are an image's stem with a word behind it."""


@dataclass
class FolderContents:
    """The images of a data set, as its layout finds them."""

    records: list[Record]
    grouping: str
    """PATIENT, VIDEO, or NEAR_DUPLICATES; with the last the records' groups are still empty."""
    parts: dict[str, list[Record]] | None = None
    """"train", "val" and "test" as the folder itself states them."""
    skipped: dict[str, int] = field(default_factory=dict)
    """What was left out on purpose, and how many."""
    normal: dict[str, list[Record]] = field(default_factory=dict)
    """Images without a lesion, not among ``records``, by the part that the folder states; "" where it states
    none."""


def subfolder(root: Path, *names: str) -> Path | None:
    """Find a folder directly in ``root`` by one of its names, in any case."""
    if not root.is_dir():
        return None
    found = sorted(path for path in root.iterdir() if _folder_name(path) in names and path.is_dir())
    return found[0] if found else None


def _folder_name(path: Path) -> str:
    """Return a folder's name in lower case; with ``_`` for spaces and hyphens if it then is a known one."""
    name = path.name.lower()
    joined = re.sub(r"[ -]", "_", name)
    return joined if joined in (*IMAGE_FOLDERS, *MASK_FOLDERS) else name


def find_file(folder: Path, name: str) -> Path | None:
    """Find a file by its path in a folder; names are compared in Unicode's form NFC."""
    path = folder / name
    if path.is_file() or name.isascii():
        return path if path.is_file() else None
    wanted = unicodedata.normalize("NFC", path.name)
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    return next((one for one in beside if unicodedata.normalize("NFC", one.name) == wanted), None)


def needed_folder(root: Path, *names: str) -> Path:
    """Find a folder as `subfolder` does.

    Raises:
        InputError: there is no such folder.
    """
    folder = subfolder(root, *names)
    if folder is None:
        raise InputError(f"'{root}' has no folder {names[0]}: add it, or name another layout with --layout.")
    return folder


def likeliest(root: Path, names: Sequence[str]) -> Path | None:
    """Return the folder of the first of several names; one of annotations must hold pictures, not JSON."""
    folders = (folder for name in names if (folder := subfolder(root, name)))
    return next((one for one in folders if "annotation" not in one.name.lower() or list_images(one)), None)


def pair_folders(root: Path, images: str, masks: str) -> list[Record]:
    """Pair the images of two folders of ``root`` by their names.

    Raises:
        InputError: an image without its mask, or a mask without its image.
    """
    return pair_paths(root, needed_folder(root, images), needed_folder(root, masks))


def pair_paths(root: Path, images: Path, masks: Path) -> list[Record]:
    """Pair the images of two folders by their stems; a mask's may have a word of `MASK_SUFFIX` behind it.

    Raises:
        InputError: an image without its mask, or a mask without its image.
    """
    records = pair(root, *match_masks(images, masks))
    for record in records:
        if all(re.search(r"annotation$", stem(Path(path)), re.IGNORECASE) for path in record["label"]):
            record["masks"] = "filled"  # as HC18's, which are outlines
    return records


def match_masks(images: Path, masks: Path) -> tuple[dict[str, Path], dict[str, list[Path]]]:
    """Return the images of a folder and the masks of another, both by the names that they share.

    Where no mask has an image by its stem, what all masks have around their names is left off, and what all
    images have: ``us_1.png`` belongs to ``mask_1.png``, ``a_image.png`` to ``a_binary.png``.
    """
    files = by_stem(list_images(images))
    drawn = by_stem(list_images(masks))
    if files and not drawn and (others := sorted(path.name for path in masks.iterdir() if path.is_file())):
        raise InputError(
            f"'{masks}' holds no mask that is read, but {len(others)} other file(s) such as '{others[0]}': "
            "save the masks as pictures, or give outlines in COCO's format."
        )
    found: dict[str, list[Path]] = defaultdict(list)
    for name, path in drawn.items():
        match = None if name in files else MASK_SUFFIX.fullmatch(name)
        found[match["image"] if match and match["image"] in files else name].append(path)
    if not found.keys() & files.keys():
        bare_files, bare_masks = _without_affixes(files), _without_affixes(drawn)
        if bare_files.keys() == bare_masks.keys():
            files, found = bare_files, {name: [path] for name, path in bare_masks.items()}
    return files, found


def _without_affixes(files: Mapping[str, Path]) -> dict[str, Path]:
    """Return files without what all their stems begin and end with; numbers are not cut."""
    if len(files) < 2:
        return dict(files)
    start = re.sub(r"\d+$", "", _common_start(list(files)))
    rest = [name[len(start) :] for name in files]
    end = re.sub(r"\d+$", "", _common_start([name[::-1] for name in rest]))[::-1]
    return {name.removesuffix(end): path for name, path in zip(rest, files.values(), strict=True)}


def _common_start(names: Sequence[str]) -> str:
    first, last = min(names), max(names)
    length = next((index for index, (a, b) in enumerate(zip(first, last)) if a != b), len(first))
    return first[:length]


def by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    """Return files by their stems, in Unicode's form NFC.

    Raises:
        InputError: two files of one stem.
    """
    files: dict[str, Path] = {}
    for path in paths:
        name = unicodedata.normalize("NFC", stem(path))
        if name in files:
            raise InputError(
                f"'{files[name]}' and '{path.name}' differ in their ending only: keep one of them."
            )
        files[name] = path
    return files


def pair(root: Path, images: Mapping[str, Path], masks: Mapping[str, list[Path]]) -> list[Record]:
    """Make the records of images and masks of the same stems.

    Raises:
        InputError: an image without its mask, or a mask without its image.
    """
    for name, path in images.items():
        if name not in masks:
            raise InputError(f"The image '{path}' has no mask: add its mask, or take the image out.")
    for name, paths in masks.items():
        if name not in images:
            raise InputError(f"The mask '{paths[0]}' has no image: add its image, or take the mask out.")
    return [make_record(root, path, masks[name]) for name, path in images.items()]


def make_record(root: Path, image: Path, masks: list[Path], group: str = "") -> Record:
    """Make the record of an image."""
    return {
        "image": str(image),
        "label": [str(path) for path in sorted(masks)],
        "name": image.relative_to(root).as_posix(),
        "group": group,
        "subgroup": {},
    }


def read_json(path: Path) -> Any:
    """Read a JSON file of a data set.

    Raises:
        InputError: the file is not JSON.
    """
    try:
        return json.loads(read_text(path, "utf-8-sig", LARGEST_LIST))
    except (OSError, ValueError, RecursionError) as error:
        remedy = "save it in UTF-8" if isinstance(error, UnicodeError) else "copy it again from its source"
        raise InputError(f"'{path}' cannot be read as JSON ({error}): {remedy}.") from error
