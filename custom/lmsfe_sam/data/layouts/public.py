"""The layouts of BUSI, BUS-BRA, TN3K and TG3K."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from pathlib import Path

from lmsfe_sam.data.layouts.folders import (
    NEAR_DUPLICATES,
    PATIENT,
    VIDEO,
    FolderContents,
    by_stem,
    make_record,
    needed_folder,
    pair,
    pair_folders,
    read_json,
    subfolder,
)
from lmsfe_sam.errors import InputError
from lmsfe_sam.images.formats import list_images
from lmsfe_sam.images.reading import read_header

# --- BUSI -----------------------------------------------------------------------------------------

_BUSI_MASK = re.compile(r"(?P<image>.+)_mask(_\d+)?", re.IGNORECASE)
_BUSI_CLASSES = ("benign", "malignant")


def is_busi(root: Path) -> bool:
    """Whether a folder is laid out as BUSI."""
    return any(
        _BUSI_MASK.fullmatch(path.stem)
        for name in _BUSI_CLASSES
        if (folder := subfolder(root, name))
        for path in list_images(folder)
    )


def find_busi(root: Path) -> FolderContents:
    """List the images of BUSI."""
    records = []
    for name in _BUSI_CLASSES:
        folder = subfolder(root, name)
        if folder is None:
            continue
        pictures = list_images(folder)
        masks: dict[str, list[Path]] = defaultdict(list)
        for path in pictures:
            if match := _BUSI_MASK.fullmatch(path.stem):
                masks[match["image"]].append(path)
        images = by_stem(path for path in pictures if not _BUSI_MASK.fullmatch(path.stem))
        records += [{**record, "subgroup": {"class": name}} for record in pair(root, images, masks)]
    normal = subfolder(root, "normal")
    healthy = list_images(normal) if normal else []
    return FolderContents(
        records,
        NEAR_DUPLICATES,
        normal={"": [make_record(root, path, []) for path in healthy if not _BUSI_MASK.fullmatch(path.stem)]},
    )


# --- BUS-BRA --------------------------------------------------------------------------------------

_BUSBRA_SUBGROUPS = {"class": "Pathology", "birads": "BIRADS", "device": "Device"}


def is_busbra(root: Path) -> bool:
    """Whether a folder is laid out as BUS-BRA."""
    images, masks = subfolder(root, "images"), subfolder(root, "masks")
    return (
        images is not None
        and masks is not None
        and any(path.stem.startswith("bus_") for path in list_images(images))
        and any(path.stem.startswith("mask_") for path in list_images(masks))
    )


def find_busbra(root: Path) -> FolderContents:
    """List the images of BUS-BRA."""
    images = by_stem(list_images(needed_folder(root, "images")))
    masks = {
        re.sub(r"^mask_", "bus_", stem): [path]
        for stem, path in by_stem(list_images(needed_folder(root, "masks"))).items()
    }
    table = _read_busbra_table(root / "bus_data.csv")
    records = pair(root, images, masks)
    for record in records:
        stem = Path(record["image"]).stem
        row = table.get(stem, {})
        # bus_0001-l and bus_0001-r are two images of case 1.
        record["group"] = row.get("Case") or re.sub(r"^bus_0*(\w+?)(-.*)?$", r"\1", stem)
        if table:
            record["subgroup"] = {name: row.get(column, "") for name, column in _BUSBRA_SUBGROUPS.items()}
    return FolderContents(records, PATIENT)


def _read_busbra_table(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if rows and "ID" not in rows[0]:
        raise InputError(f"'{path}' has no column ID: take BUS-BRA's own bus_data.csv, or remove the file.")
    return {row["ID"]: row for row in rows}


# --- TN3K and TG3K --------------------------------------------------------------------------------


def is_tn3k(root: Path) -> bool:
    """Whether a folder is laid out as TN3K."""
    return all(subfolder(root, name) for name in ("trainval-image", "trainval-mask"))


def find_tn3k(root: Path) -> FolderContents:
    """List the images of TN3K."""
    trainval = pair_folders(root, "trainval-image", "trainval-mask")
    test = pair_folders(root, "test-image", "test-mask") if subfolder(root, "test-image") else []
    records = trainval + test
    fold = root / "tn3k-trainval-fold0.json"
    if not fold.is_file():
        raise InputError(
            f"'{root}' has no tn3k-trainval-fold0.json, which says what is training and what is validation: "
            "put TN3K's own file there, or use --layout plain on a folder with images/ and masks/."
        )
    numbers = read_json(fold)
    numbered = {int(Path(record["image"]).stem): record for record in trainval}
    parts = {
        part: [numbered[int(n)] for n in numbers[part] if int(n) in numbered] for part in ("train", "val")
    }
    absent = sum(int(n) not in numbered for part in ("train", "val") for n in numbers[part])
    skipped = {"images that the fold file lists and the folder lacks": absent} if absent else {}
    unlisted = len(trainval) - sum(len(part) for part in parts.values())
    if unlisted:
        skipped["images that the fold file does not list"] = unlisted
    return FolderContents(records, NEAR_DUPLICATES, {**parts, "test": test}, skipped)


def is_tg3k(root: Path) -> bool:
    """Whether a folder is laid out as TG3K."""
    return all(subfolder(root, name) for name in ("thyroid-image", "thyroid-mask"))


def find_tg3k(root: Path) -> FolderContents:
    """TG3K's frames, grouped by video.

    The frames of the 16 videos are numbered through, and no file says where a video ends; a run of
    frames of one size is one video, or two of the same scanner setting. The published
    tg3k-trainval.json cuts inside such a run, so that validation holds frames of a training video:
    it is not followed.
    """
    records = sorted(
        pair_folders(root, "thyroid-image", "thyroid-mask"),
        key=lambda record: (_number(Path(record["image"]).stem), record["name"]),
    )
    video, size = 0, None
    for record in records:
        header = read_header(record["image"])
        frame = (header.rows, header.columns)
        if frame != size:
            video, size = video + 1, frame
        record["group"] = f"video {video}"
    return FolderContents(records, VIDEO)


def _number(text: str) -> int:
    digits = re.findall(r"\d+", text)
    return int(digits[-1]) if digits else 0
