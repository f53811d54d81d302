"""COCO-style annotations: a JSON file with images, annotations and their polygons or run lengths."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from lmsfe_sam.errors import InputError

_PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
_PLACES = ("", "annotations", *_PARTS)


def annotation_files(root: Path) -> list[Path]:
    """List the COCO files of a data folder: in it, in annotations/, or in train/, val/, test/."""
    return [
        path for place in _PLACES for path in sorted((root / place).glob("*.json")) if _is_coco(_load(path))
    ]


def read(root: Path) -> tuple[list[tuple[str, Path, list[Any]]], dict[str, int]]:
    """Read every COCO file of a data folder.

    Returns:
        For each annotated image its part ("" where one file holds everything), its path and its
        segmentations, sorted by path; and what was left out: images that the file lists without
        any annotation.

    Raises:
        InputError: an image is not there, an annotation is of an unknown image or has no outline,
            or several files do not tell their parts by their names.
    """
    files = annotation_files(root)
    annotated = []
    empty = 0
    for path in files:
        part = _part(path) if len(files) > 1 else ""
        content = _load(path)
        images = {image["id"]: _find_image(root, path, image["file_name"]) for image in content["images"]}
        outlines: dict[Any, list[Any]] = defaultdict(list)
        for annotation in content["annotations"]:
            if annotation["image_id"] not in images:
                raise InputError(
                    f"'{path}' annotates image {annotation['image_id']}, which it does not list: "
                    "export it again."
                )
            segmentation = annotation.get("segmentation")
            if not segmentation:
                raise InputError(
                    f"'{path}' has an annotation without an outline (image {annotation['image_id']}): "
                    "export polygons or masks, not boxes alone."
                )
            outlines[annotation["image_id"]] += (
                [segmentation] if isinstance(segmentation, dict) else segmentation
            )
        annotated += [(part, images[key], outlines[key]) for key in images if outlines[key]]
        empty += sum(not outlines[key] for key in images)
    skipped = {"images without an annotation": empty} if empty else {}
    return sorted(annotated, key=lambda item: item[1]), skipped


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
    for folder in (part, root, root / "images", part.parent / "images", root / _stem_part(annotations)):
        if (folder / name).is_file():
            return folder / name
    raise InputError(
        f"'{annotations}' lists the image '{name}', which is not there: put it beside the file or in images/."
    )


def _stem_part(path: Path) -> str:
    """instances_train2017.json goes with the folder train2017/."""
    return path.stem.rsplit("_", 1)[-1]


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return None


def _is_coco(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("images"), list) and "annotations" in content
