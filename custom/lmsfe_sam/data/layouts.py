"""The folder layouts of public ultrasound data sets, and how each is recognised.

`LAYOUTS` is the table. A layout knows two things: whether a folder looks like it, and which images
and masks the folder holds. Nothing here reads pixels, but for the sizes of TG3K's frames.
"""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from lmsfe_sam.data import coco
from lmsfe_sam.errors import InputError
from lmsfe_sam.images.formats import list_images
from lmsfe_sam.images.reading import read_header

Record = dict[str, Any]
"""One image, ready for MONAI: "image" (path), "label" (list of paths, empty where "outlines" holds
drawn ones as JSON), "name" (path relative to the data folder), "group", "subgroup" (str to str)."""

PATIENT, VIDEO, NEAR_DUPLICATES = "patient", "video", "near-duplicate group"
"""What a group of images is: what must stay on one side of a split."""


@dataclass
class Found:
    """What a layout found in a folder."""

    records: list[Record]
    grouping: str
    """PATIENT, VIDEO, or NEAR_DUPLICATES; with the last the records' groups are still empty."""
    parts: dict[str, list[Record]] | None = None
    """"train", "val" and "test" as the folder itself states them."""
    skipped: dict[str, int] = field(default_factory=dict)
    """What was left out on purpose, and how many."""


@dataclass(frozen=True)
class Layout:
    """A way to lay out a data set in a folder."""

    name: str
    description: str
    recognise: Callable[[Path], bool]
    """Whether the folder itself (not a parent) looks like this layout."""
    find: Callable[[Path], Found]
    """List the folder's images.

    Raises:
        InputError: an image without its mask, or a mask without its image.
    """
    refines: str = ""
    """The layout that this one is a special case of, and is preferred to where both are recognised."""


# --- BUSI -----------------------------------------------------------------------------------------

_BUSI_MASK = re.compile(r"(?P<image>.+)_mask(_\d+)?", re.IGNORECASE)
_BUSI_CLASSES = ("benign", "malignant")


def _is_busi(root: Path) -> bool:
    return any(
        _BUSI_MASK.fullmatch(path.stem)
        for name in _BUSI_CLASSES
        if (folder := _subfolder(root, name))
        for path in list_images(folder)
    )


def _find_busi(root: Path) -> Found:
    records = []
    for name in _BUSI_CLASSES:
        folder = _subfolder(root, name)
        if folder is None:
            continue
        pictures = list_images(folder)
        masks: dict[str, list[Path]] = defaultdict(list)
        for path in pictures:
            if match := _BUSI_MASK.fullmatch(path.stem):
                masks[match["image"]].append(path)
        images = _by_stem(path for path in pictures if not _BUSI_MASK.fullmatch(path.stem))
        records += [{**record, "subgroup": {"class": name}} for record in _pair(root, images, masks)]
    skipped = {}
    if normal := _subfolder(root, "normal"):
        healthy = [path for path in list_images(normal) if not _BUSI_MASK.fullmatch(path.stem)]
        skipped["normal images, without a lesion"] = len(healthy)
    return Found(records, NEAR_DUPLICATES, skipped=skipped)


# --- BUS-BRA --------------------------------------------------------------------------------------

_BUSBRA_SUBGROUPS = {"class": "Pathology", "birads": "BIRADS", "device": "Device"}


def _is_busbra(root: Path) -> bool:
    images, masks = _subfolder(root, "images"), _subfolder(root, "masks")
    return (
        images is not None
        and masks is not None
        and any(path.stem.startswith("bus_") for path in list_images(images))
        and any(path.stem.startswith("mask_") for path in list_images(masks))
    )


def _find_busbra(root: Path) -> Found:
    images = _by_stem(list_images(_need(root, "images")))
    masks = {
        re.sub(r"^mask_", "bus_", stem): [path]
        for stem, path in _by_stem(list_images(_need(root, "masks"))).items()
    }
    table = _read_busbra_table(root / "bus_data.csv")
    records = _pair(root, images, masks)
    for record in records:
        stem = Path(record["image"]).stem
        row = table.get(stem, {})
        # bus_0001-l and bus_0001-r are two images of case 1.
        record["group"] = row.get("Case") or re.sub(r"^bus_0*(\w+?)(-.*)?$", r"\1", stem)
        if table:
            record["subgroup"] = {name: row.get(column, "") for name, column in _BUSBRA_SUBGROUPS.items()}
    return Found(records, PATIENT)


def _read_busbra_table(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if rows and "ID" not in rows[0]:
        raise InputError(f"'{path}' has no column ID: take BUS-BRA's own bus_data.csv, or remove the file.")
    return {row["ID"]: row for row in rows}


# --- TN3K and TG3K --------------------------------------------------------------------------------


def _is_tn3k(root: Path) -> bool:
    return all(_subfolder(root, name) for name in ("trainval-image", "trainval-mask"))


def _find_tn3k(root: Path) -> Found:
    trainval = _pair_folders(root, "trainval-image", "trainval-mask")
    test = _pair_folders(root, "test-image", "test-mask") if _subfolder(root, "test-image") else []
    records = trainval + test
    fold = root / "tn3k-trainval-fold0.json"
    if not fold.is_file():
        raise InputError(
            f"'{root}' has no tn3k-trainval-fold0.json, which says what is training and what is validation: "
            "put TN3K's own file there, or use --layout plain on a folder with images/ and masks/."
        )
    numbers = _read_json(fold)
    places = {int(Path(record["image"]).stem): record for record in trainval}
    parts = {part: [places[int(n)] for n in numbers[part] if int(n) in places] for part in ("train", "val")}
    absent = sum(int(n) not in places for part in ("train", "val") for n in numbers[part])
    skipped = {"images that the fold file lists and the folder lacks": absent} if absent else {}
    unlisted = len(trainval) - sum(len(part) for part in parts.values())
    if unlisted:
        skipped["images that the fold file does not list"] = unlisted
    return Found(records, NEAR_DUPLICATES, {**parts, "test": test}, skipped)


def _is_tg3k(root: Path) -> bool:
    return all(_subfolder(root, name) for name in ("thyroid-image", "thyroid-mask"))


def _find_tg3k(root: Path) -> Found:
    """TG3K's frames, grouped by video.

    The frames of the 16 videos are numbered through, and no file says where a video ends; a run of
    frames of one size is one video, or two of the same scanner setting. The published
    tg3k-trainval.json cuts inside such a run, so that validation holds frames of a training video:
    it is not followed.
    """
    records = sorted(
        _pair_folders(root, "thyroid-image", "thyroid-mask"),
        key=lambda record: (_number(Path(record["image"]).stem), record["name"]),
    )
    video, size = 0, None
    for record in records:
        header = read_header(record["image"])
        frame = (header.rows, header.columns)
        if frame != size:
            video, size = video + 1, frame
        record["group"] = f"video {video}"
    return Found(records, VIDEO)


# --- DDTI -----------------------------------------------------------------------------------------

_DDTI_VIEW = re.compile(r"(?P<patient>\d+)_\d+_[FLR]")
_DDTI_PICTURE = re.compile(r"(?P<patient>\d+)_(?P<picture>\d+)")
_DDTI_POINTS = re.compile(r'"points"\s*:\s*(\[[^\]]*\])')


def _is_ddti(root: Path) -> bool:
    return _is_ddti_xml(root) or _is_ddti_views(root) or _is_ddti_numbered(root)


def _is_ddti_xml(root: Path) -> bool:
    stems = {path.stem for path in root.glob("*.xml")}
    return any(
        (match := _DDTI_PICTURE.fullmatch(path.stem)) and match["patient"] in stems
        for path in list_images(root)
    )


def _is_ddti_views(root: Path) -> bool:
    images = _subfolder(root, "images")
    stems = [path.stem for path in list_images(images)] if images and _subfolder(root, "masks") else []
    return bool(stems) and all(_DDTI_VIEW.fullmatch(stem) for stem in stems)


def _is_ddti_numbered(root: Path) -> bool:
    return all(_subfolder(root, name) for name in ("p_image", "p_mask"))


def _find_ddti(root: Path) -> Found:
    if _is_ddti_xml(root):
        return _find_ddti_xml(root)
    if _is_ddti_numbered(root):  # 1.PNG to 637.PNG: the patients were not kept
        return Found(_pair_folders(root, "p_image", "p_mask"), NEAR_DUPLICATES)
    records = _pair_folders(root, "images", "masks")
    for record in records:
        record["group"] = Path(record["image"]).stem.split("_")[0]
    return Found(records, PATIENT)


def _find_ddti_xml(root: Path) -> Found:
    """The original DDTI: patient N's N_1.jpg, N_2.jpg, ... and N.xml with hand-drawn polygons.

    Some published files hold no polygon, or break off after one; such pictures are counted, not
    refused, and a polygon that is there in full is used.
    """
    outlines: dict[str, list[list[float]]] = defaultdict(list)
    for path in sorted(root.glob("*.xml")):
        try:
            marks = ElementTree.parse(path).getroot().iter("mark")
        except ElementTree.ParseError as error:
            raise InputError(f"'{path}' is not XML ({error}): copy it again from its source.") from error
        for mark in marks:
            stem = f"{path.stem}_{(mark.findtext('image') or '').strip()}"
            for points in _DDTI_POINTS.findall(mark.findtext("svg") or ""):
                polygon = [float(point[axis]) for point in json.loads(points) for axis in ("x", "y")]
                if len(polygon) >= 6:
                    outlines[stem].append(polygon)
    records, bare = [], 0
    for path in list_images(root):
        if match := _DDTI_PICTURE.fullmatch(path.stem):
            if outlines[path.stem]:
                record = _record(root, path, [], match["patient"])
                records.append({**record, "outlines": json.dumps(outlines[path.stem])})
            else:
                bare += 1
    return Found(records, PATIENT, skipped={"images without a drawn outline": bare} if bare else {})


# --- plain folders and COCO -----------------------------------------------------------------------


def _is_plain(root: Path) -> bool:
    return all(_subfolder(root, name) for name in ("images", "masks"))


def _find_plain(root: Path) -> Found:
    return Found(_pair_folders(root, "images", "masks"), NEAR_DUPLICATES)


def _is_coco(root: Path) -> bool:
    return bool(coco.annotation_files(root))


def _find_coco(root: Path) -> Found:
    annotated, skipped = coco.read(root)
    parts: dict[str, list[Record]] = defaultdict(list)
    for part, path, outlines in annotated:
        parts[part].append({**_record(root, path, []), "outlines": json.dumps(outlines)})
    records = [record for part in sorted(parts) for record in parts[part]]
    return Found(records, NEAR_DUPLICATES, None if set(parts) == {""} else dict(parts), skipped)


LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            "busi",
            "benign/ or malignant/ with X.png and X_mask.png (X_mask_1.png, ...)",
            _is_busi,
            _find_busi,
        ),
        Layout("busbra", "Images/bus_*.png or .jpg and Masks/mask_*.png", _is_busbra, _find_busbra, "plain"),
        Layout("tn3k", "trainval-image/, trainval-mask/, test-image/, test-mask/", _is_tn3k, _find_tn3k),
        Layout("tg3k", "thyroid-image/ and thyroid-mask/", _is_tg3k, _find_tg3k),
        Layout(
            "ddti",
            "N_M.jpg beside N.xml, or images/ and masks/ named PATIENT_IMAGE_VIEW, or p_image/ and p_mask/",
            _is_ddti,
            _find_ddti,
            "plain",
        ),
        Layout("plain", "images/ and masks/ with the same names", _is_plain, _find_plain),
        Layout("coco", "a JSON file with images and annotations", _is_coco, _find_coco),
    )
}
"""Every layout but ``datalist``, which is a file and not a way to lay out a folder."""


# --- what the layouts share -----------------------------------------------------------------------


def _subfolder(root: Path, name: str) -> Path | None:
    """Find a folder directly in ``root`` by its name, in any case."""
    found = sorted(path for path in root.iterdir() if path.name.lower() == name and path.is_dir())
    return found[0] if found else None


def _need(root: Path, name: str) -> Path:
    folder = _subfolder(root, name)
    if folder is None:
        raise InputError(f"'{root}' has no folder {name}: add it, or name another layout with --layout.")
    return folder


def _pair_folders(root: Path, images: str, masks: str) -> list[Record]:
    """Pair the pictures of two folders by their stems."""
    mask_files = {stem: [path] for stem, path in _by_stem(list_images(_need(root, masks))).items()}
    return _pair(root, _by_stem(list_images(_need(root, images))), mask_files)


def _by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in paths:
        if path.stem in files:
            raise InputError(
                f"'{files[path.stem]}' and '{path.name}' differ in their ending only: keep one of them."
            )
        files[path.stem] = path
    return files


def _pair(
    root: Path,
    images: Mapping[str, Path],
    masks: Mapping[str, list[Path]],
) -> list[Record]:
    for stem, path in images.items():
        if stem not in masks:
            raise InputError(f"The image '{path}' has no mask: add its mask, or take the image out.")
    for stem, paths in masks.items():
        if stem not in images:
            raise InputError(f"The mask '{paths[0]}' has no image: add its image, or take the mask out.")
    return [_record(root, path, masks[stem]) for stem, path in images.items()]


def _record(root: Path, image: Path, masks: list[Path], group: str = "") -> Record:
    return {
        "image": str(image),
        "label": [str(path) for path in sorted(masks)],
        "name": image.relative_to(root).as_posix(),
        "group": group,
        "subgroup": {},
    }


def _number(text: str) -> int:
    digits = re.findall(r"\d+", text)
    return int(digits[-1]) if digits else 0


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"'{path}' cannot be read as JSON ({error}): copy it again from its source."
        ) from error
