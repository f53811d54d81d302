"""COCO-style annotations: a JSON file with images, annotations and their polygons or run lengths.

Files come from many tools, with malformed annotations among others: those are left out, counted and named.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from pathlib import Path
from typing import Any

from lmsfe_sam.data.layouts.folders import IMAGE_FOLDERS, find_file, subfolder
from lmsfe_sam.data.masks.outlines import outline_fault
from lmsfe_sam.errors import InputError
from lmsfe_sam.files import LARGEST_LIST, read_text

logger = logging.getLogger(__name__)

MAX_NAMED = 8
"""So many annotations that are left out are named."""

_PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
_FOLDERS = ("", "annotations", *_PARTS)


def annotation_files(root: Path) -> list[Path]:
    """List the COCO files of a data folder: in it, in annotations/, or in train/, val/, test/."""
    return [path for path in json_files(root) if _is_coco(_load(path))]


def json_files(root: Path) -> list[Path]:
    """List the JSON files in the places of a data folder where those of COCO are."""
    return [path for name in _FOLDERS for path in sorted((root / name).glob("*.json"))]


def read(root: Path) -> tuple[list[tuple[str, Path, list[Any]]], dict[str, int]]:
    """Read every COCO file of a data folder.

    Returns:
        For each annotated image its part ("" where one file holds everything), its path and its
        segmentations, sorted by path; and what was left out: malformed entries, those of an unknown image or
        without an outline, outlines without a pixel, and images without any annotation.

    Raises:
        InputError: an image is not there, no annotation has an outline, or several files do not tell their
            parts by their names.
    """
    files = annotation_files(root)
    annotated = []
    empty, left_out = 0, 0
    for path in files:
        part = _part(path) if len(files) > 1 else ""
        images, outlines, bad = _read_file(root, path)
        drawn: dict[Path, list[Any]] = defaultdict(list)
        for key, image in images.items():  # a file that two ids name is one image
            drawn[image] += outlines[key]
        annotated += [(part, image, own) for image, own in drawn.items() if own]
        empty += sum(not own for own in drawn.values())
        left_out += len(bad)
        if bad:
            more = f" and {len(bad) - MAX_NAMED} more" if len(bad) > MAX_NAMED else ""
            logger.warning("'%s': left out are %s%s.", path, "; ".join(bad[:MAX_NAMED]), more)
    skipped = {"images without an annotation": empty} if empty else {}
    if left_out:
        skipped["annotations that are malformed or hold no pixel"] = left_out
    return sorted(annotated, key=lambda item: item[1]), skipped


def _read_file(root: Path, path: Path) -> tuple[dict[str, Path], dict[str, list[Any]], list[str]]:
    """Return the images of a file by their ids, their outlines, and the names of what is left out."""
    content = _load(path)
    bad: list[str] = []
    images: dict[str, Path] = {}
    twice: set[str] = set()
    for index, image in enumerate(content["images"]):
        name = image.get("file_name") if isinstance(image, dict) else None
        key = _key(image.get("id")) if isinstance(image, dict) else None
        if not isinstance(name, str) or not name or key is None:
            bad.append(f"image entry {index}, without an id and a file name")
            continue
        found = _find_image(root, path, name)
        if images.setdefault(key, found) != found:
            twice.add(key)
            bad.append(f"image entry {index} ('{name}'), whose id {key} is that of '{images[key].name}'")
    for key in twice:  # nothing tells whose its annotations are
        del images[key]
    outlines: dict[str, list[Any]] = defaultdict(list)
    bare = 0
    for index, annotation in enumerate(content["annotations"]):
        name = f"annotation {annotation.get('id', index) if isinstance(annotation, dict) else index}"
        key = _key(annotation.get("image_id")) if isinstance(annotation, dict) else None
        if key is None:
            bad.append(f"{name}, of no image")
            continue
        if key not in images:
            listed = "listed twice" if key in twice else "not listed"
            bad.append(f"{name}, of image {key}, which is {listed}")
            continue
        segmentation = annotation.get("segmentation")
        if segmentation is None or segmentation in ([], {}, ""):
            bare += 1
            bad.append(f"{name} of '{images[key].name}' (it has no outline)")
            continue
        for outline in _outlines(segmentation):
            if fault := outline_fault(outline, images[key]):
                bad.append(f"{name} of '{images[key].name}' ({fault})")
            else:
                outlines[key].append(outline)
    if bare and bare == len(content["annotations"]):
        raise InputError(
            f"'{path}' has no outline in any annotation: export polygons or masks, not boxes alone."
        )
    return images, outlines, bad


def _key(value: Any) -> str | None:
    """Return an id as text, since tools write 7, 7.0 and "7" for one image; None where it is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, str | int) else None


def _outlines(segmentation: Any) -> list[Any]:
    """Return the polygons [x0, y0, ...] or run lengths of a segmentation, whatever they are."""
    if not isinstance(segmentation, list):
        return [segmentation]
    if all(isinstance(part, int | float | str) for part in segmentation):
        polygons: list[Any] = [segmentation]  # not nested, as some tools write it
    elif len(segmentation) > 2 and all(isinstance(part, list) and len(part) == 2 for part in segmentation):
        polygons = [[value for point in segmentation for value in point]]  # a list of points
    else:
        polygons = segmentation
    return [_numbers(polygon) for polygon in polygons]


def _numbers(polygon: Any) -> Any:
    try:
        return [float(value) for value in polygon] if isinstance(polygon, list) else polygon
    except (TypeError, ValueError):
        return polygon


def _part(path: Path) -> str:
    """Tell the part from a name such as instances_train.json or valid/_annotations.coco.json."""
    words = path.stem.lower().replace("-", "_").replace(".", "_").split("_")
    for word in (path.parent.name.lower(), *words):
        part = _PARTS.get(word.rstrip("0123456789"))
        if part:
            return part
    raise InputError(
        f"'{path}' is one of several annotation files and its name tells no part: "
        "put train, val or test in each name, or keep one file."
    )


def _find_image(root: Path, annotations: Path, name: str) -> Path:
    part = annotations.parent
    path = name.replace("\\", "/")  # as Windows writes it
    stem_part = _stem_part(annotations)
    holders = (root, *(found for kind in IMAGE_FOLDERS if (found := subfolder(root, kind))))
    folders = (part, *holders, part.parent / "images", *(holder / stem_part for holder in holders))
    for option in (name, path, path.rsplit("/", 1)[-1]):
        for folder in folders:
            if found := find_file(folder, option):
                return found
    raise InputError(
        f"'{annotations}' lists the image '{name}', which is not there: put it beside the file or in images/."
    )


def _stem_part(path: Path) -> str:
    """instances_train2017.json goes with the folder train2017/."""
    return path.stem.rsplit("_", 1)[-1]


def _load(path: Path) -> Any:
    try:
        return json.loads(read_text(path, "utf-8-sig", LARGEST_LIST))
    except (OSError, ValueError, RecursionError):
        return None


def _is_coco(content: Any) -> bool:
    return isinstance(content, dict) and all(
        isinstance(content.get(key), list) for key in ("images", "annotations")
    )
