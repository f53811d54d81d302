"""The layout of Pascal VOC: images, masks of some of them, and XML files with a box around each object.

Masks are what is trained on and scored against. Boxes are prompts of the evaluation and nothing else, so an
image that has boxes alone is left out. Files come from many tools: what is malformed is left out, counted and
named.
"""

from __future__ import annotations

import logging
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from lmsfe_sam.data.layouts.folders import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    NEAR_DUPLICATES,
    FolderContents,
    Record,
    likeliest,
    match_masks,
    needed_folder,
    pair,
    subfolder,
)
from lmsfe_sam.errors import InputError
from lmsfe_sam.images.formats import stem
from lmsfe_sam.images.reading import read_header

logger = logging.getLogger(__name__)

MAX_NAMED = 8
"""So many of those that are left out are named."""

_SIDES = ("xmin", "ymin", "xmax", "ymax")
_HEAD = 4096
"""An annotation's root element begins within so many bytes."""

Box = tuple[float, float, float, float]


class Annotation(NamedTuple):
    """What one XML file says.

    Attributes:
        boxes: xmin, ymin, xmax, ymax as they are written.
        size: height and width of the image, as far as stated.
        bad: objects without a box, described.
    """

    boxes: list[Box]
    size: tuple[int, int] | None
    bad: list[str]


def is_voc(root: Path) -> bool:
    """Whether a folder is laid out as Pascal VOC."""
    return likeliest(root, IMAGE_FOLDERS) is not None and any(map(_is_annotation, _xml_files(root)))


def find_voc(root: Path) -> FolderContents:
    """List the images of a folder in Pascal VOC's layout that have a mask, each with its ``boxes``.

    Raises:
        InputError: no image has a mask, or a mask has no image.
    """
    images = likeliest(root, IMAGE_FOLDERS) or needed_folder(root, *IMAGE_FOLDERS)
    masks = likeliest(root, ("segmentationobject", *MASK_FOLDERS))
    if masks is None:
        raise InputError(
            f"'{root}' has boxes and no masks, and boxes are prompts for an evaluation alone: "
            "add the images' masks in SegmentationClass/."
        )
    files, found = match_masks(images, masks)
    with_mask = {name: path for name, path in files.items() if name in found}
    records = pair(root, with_mask, found)
    skipped = {"images without a mask, of which boxes are no training data": len(files) - len(with_mask)}
    annotations, damaged = _read_all(root)
    stems = {name: unicodedata.normalize("NFC", stem(path)) for name, path in files.items()}
    skipped["XML files that are damaged"] = damaged
    skipped["XML files of no image"] = len(annotations.keys() - set(stems.values()))
    from_one = _counts_from_one(annotations.values())
    bad: list[str] = []
    for name, record in zip(with_mask, records, strict=True):
        annotation = annotations.get(stems[name])
        record["boxes"] = [] if annotation is None else _boxes(annotation, with_mask[name], from_one, bad)
    if bad:
        more = f" and {len(bad) - MAX_NAMED} more" if len(bad) > MAX_NAMED else ""
        logger.warning("'%s': left out are %s%s.", root, "; ".join(bad[:MAX_NAMED]), more)
    skipped["boxes that are malformed or of another image"] = len(bad)
    counted = {what: number for what, number in skipped.items() if number}
    return FolderContents(records, NEAR_DUPLICATES, _parts(root, with_mask, records), counted)


def _xml_files(root: Path) -> list[Path]:
    folder = subfolder(root, "annotations", "annotation")
    files = folder.iterdir() if folder else ()
    return sorted(path for path in files if path.suffix.lower() == ".xml" and path.is_file())


def _is_annotation(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return b"<annotation" in stream.read(_HEAD).replace(b"\0", b"")
    except OSError:
        return False


def _read_all(root: Path) -> tuple[dict[str, Annotation], int]:
    """Return the annotations by their files' stems, in Unicode's form NFC, and how many files are damaged."""
    annotations: dict[str, Annotation] = {}
    damaged = 0
    for path in _xml_files(root):
        try:
            tree = ElementTree.parse(path).getroot()
        except (ElementTree.ParseError, ValueError, LookupError, OSError, RecursionError) as error:
            logger.warning("'%s' is no XML (%s): its boxes are left out.", path, error)
            damaged += 1
            continue
        annotations[unicodedata.normalize("NFC", path.stem)] = _read(tree)
    return annotations, damaged


def _read(tree: ElementTree.Element) -> Annotation:
    boxes, bad = [], []
    for number, marked in enumerate(tree.findall("object"), start=1):
        what = f"object {number} ('{(marked.findtext('name') or '').strip()}')"
        texts = [(marked.findtext(f"bndbox/{side}") or "").strip() for side in _SIDES]
        try:
            x0, y0, x1, y1 = (float(text) for text in texts)
        except ValueError:
            bad.append(f"{what}, whose box is {', '.join(text or 'nothing' for text in texts)}")
            continue
        if all(map(math.isfinite, (x0, y0, x1, y1))):
            boxes.append((x0, y0, x1, y1))
        else:
            bad.append(f"{what}, whose box is {', '.join(texts)}")
    try:
        height, width = (int(float(tree.findtext(f"size/{side}") or "0")) for side in ("height", "width"))
    except (ValueError, OverflowError):
        height = width = 0
    return Annotation(boxes, (height, width) if height > 0 and width > 0 else None, bad)


def _counts_from_one(annotations: Iterable[Annotation]) -> bool:
    """Whether boxes name their first and last pixel from 1, as Pascal VOC does.

    Fractions, or a 0 anywhere in the data set, come from tools that write the box's edges from 0.
    """
    sides = [side for annotation in annotations for box in annotation.boxes for side in box]
    firsts = [side for annotation in annotations for box in annotation.boxes for side in box[:2]]
    return all(side == int(side) for side in sides) and min(firsts, default=1) >= 1


def _boxes(annotation: Annotation, image: Path, from_one: bool, bad: list[str]) -> list[list[float]]:
    """Return the boxes that lie on an image, cut at its border; others are added to ``bad``."""
    bad += [f"{what} of '{image.name}'" for what in annotation.bad]
    try:
        header = read_header(image)
    except InputError:
        return []  # the image is named when it is read
    height, width = header.rows, header.columns
    if annotation.size not in (None, (height, width)):
        stated = f"{annotation.size[1]} x {annotation.size[0]}" if annotation.size else ""
        bad += [
            f"a box of '{image.name}', which is {width} x {height} pixels and {stated} in its XML"
            for _ in annotation.boxes
        ]
        return []
    kept = []
    for written in annotation.boxes:
        x0, y0, x1, y1 = written
        if from_one:
            x0, y0 = x0 - 1, y0 - 1
        box = [max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))]
        if x0 < x1 and y0 < y1 and box[0] < box[2] and box[1] < box[3]:
            kept.append(box)
        else:
            fault = "lies outside of it" if x0 < x1 and y0 < y1 else "has no area"
            bad.append(f"the box {_text(written)} of '{image.name}', which {fault}")
    return kept


def _text(box: Sequence[float]) -> str:
    return "[" + ", ".join(f"{side:g}" for side in box) + "]"


def _parts(
    root: Path, files: Mapping[str, Path], records: Sequence[Record]
) -> dict[str, list[Record]] | None:
    """Return the split that ImageSets/Segmentation/ states, if it names images for training."""
    sets = subfolder(root, "imagesets")
    folder = subfolder(sets, "segmentation") if sets else None
    if folder is None:
        return None
    known = dict(zip(files, records, strict=True))
    parts = {}
    for part in ("train", "val", "test"):
        path = folder / f"{part}.txt"
        if path.is_file():
            lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
            names = dict.fromkeys(unicodedata.normalize("NFC", line.strip()) for line in lines)
            parts[part] = [known[name] for name in names if name in known]
    return parts if parts.get("train") else None
