"""The layouts of DDTI: XML files with drawn outlines, and the two redistributed forms with masks."""

from __future__ import annotations

import json
import logging
import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from lmsfe_sam.data.layouts.folders import (
    NEAR_DUPLICATES,
    PATIENT,
    FolderContents,
    make_record,
    pair_folders,
    subfolder,
)
from lmsfe_sam.data.masks.outlines import outline_fault
from lmsfe_sam.images.formats import list_images

logger = logging.getLogger(__name__)

_DDTI_VIEW = re.compile(r"(?P<patient>\d+)_\d+_[FLR]")
_DDTI_PICTURE = re.compile(r"(?P<patient>\d+)_(?P<picture>\d+)")
_DDTI_POINTS = re.compile(r'"points"\s*:\s*(\[[^\]]*\])')


def is_ddti(root: Path) -> bool:
    """Whether a folder is laid out as DDTI, in one of its three forms."""
    return _is_ddti_xml(root) or _is_ddti_views(root) or _is_ddti_numbered(root)


def _is_ddti_xml(root: Path) -> bool:
    stems = {path.stem for path in root.glob("*.xml")}
    return any(
        (match := _DDTI_PICTURE.fullmatch(path.stem)) and match["patient"] in stems
        for path in list_images(root)
    )


def _is_ddti_views(root: Path) -> bool:
    images = subfolder(root, "images")
    stems = [path.stem for path in list_images(images)] if images and subfolder(root, "masks") else []
    return bool(stems) and all(_DDTI_VIEW.fullmatch(stem) for stem in stems)


def _is_ddti_numbered(root: Path) -> bool:
    return all(subfolder(root, name) for name in ("p_image", "p_mask"))


def find_ddti(root: Path) -> FolderContents:
    """List the images of DDTI."""
    if _is_ddti_xml(root):
        return _find_ddti_xml(root)
    if _is_ddti_numbered(root):  # 1.PNG to 637.PNG: the patients were not kept
        return FolderContents(pair_folders(root, "p_image", "p_mask"), NEAR_DUPLICATES)
    records = pair_folders(root, "images", "masks")
    for record in records:
        record["group"] = Path(record["image"]).stem.split("_")[0]
    return FolderContents(records, PATIENT)


def _find_ddti_xml(root: Path) -> FolderContents:
    """The original DDTI: patient N's N_1.jpg, N_2.jpg, ... and N.xml with hand-drawn polygons.

    Some published files hold no polygon, break off after one, or are damaged; such pictures are counted and
    named, not refused, and a polygon that is there in full is used.
    """
    outlines: dict[str, list[list[float]]] = defaultdict(list)
    broken = 0
    for path in sorted(path for path in root.glob("*.xml") if path.is_file()):
        try:
            marks = list(ElementTree.parse(path).getroot().iter("mark"))
        except (ElementTree.ParseError, ValueError, LookupError, OSError, RecursionError) as error:
            logger.warning("'%s' is no XML (%s): its images are left out.", path, error)
            broken += 1
            continue
        for mark in marks:
            stem = f"{path.stem}_{(mark.findtext('image') or '').strip()}"
            for points in _DDTI_POINTS.findall(mark.findtext("svg") or ""):
                if polygon := _polygon(points):
                    outlines[stem].append(polygon)
    records, bare, bad = [], [], []
    pictures = {path.stem: path for path in list_images(root) if _DDTI_PICTURE.fullmatch(path.stem)}
    for stem, path in pictures.items():
        faults = [outline_fault(polygon, path) for polygon in outlines[stem]]
        bad += [f"an outline of {path.name} ({fault})" for fault in faults if fault]
        own = [polygon for polygon, fault in zip(outlines[stem], faults, strict=True) if not fault]
        if own:
            record = make_record(root, path, [], stem.split("_")[0])
            records.append({**record, "outlines": json.dumps(own)})
        else:
            bare.append(path.name)
    bad += [
        f"an outline of {stem}, of which there is no picture" for stem in sorted(outlines.keys() - pictures)
    ]
    if bare:
        logger.warning("'%s': %d images have no drawn outline: %s.", root, len(bare), _named(bare))
    if bad:
        logger.warning("'%s': left out are %s.", root, _named(bad))
    skipped = {"images without a drawn outline": len(bare)} if bare else {}
    if bad:
        skipped["outlines that hold no pixel of a picture"] = len(bad)
    if broken:
        skipped["patients left out, whose XML is damaged"] = broken
    return FolderContents(records, PATIENT, skipped=skipped)


def _named(some: list[str]) -> str:
    return ", ".join(some[:8]) + (f" and {len(some) - 8} more" if len(some) > 8 else "")


def _polygon(text: str) -> list[float]:
    """Return a polygon [x0, y0, ...] of the JSON of its points, or [] where it is none."""
    try:
        points: Any = json.loads(text)
        polygon = [float(point[axis]) for point in points for axis in ("x", "y")]
    except (ValueError, TypeError, KeyError, RecursionError):
        return []
    return polygon if len(polygon) >= 6 and all(math.isfinite(value) for value in polygon) else []
