"""The folder layouts of ultrasound data sets, and how each is recognised.

`LAYOUTS` is the table. A layout knows two things: whether a folder looks like it, and which images
and masks the folder holds. Nothing here reads pixels, but for the sizes of TG3K's frames.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lmsfe_sam.data.layouts import coco
from lmsfe_sam.data.layouts.ddti import find_ddti, is_ddti
from lmsfe_sam.data.layouts.folders import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    MASK_SUFFIX,
    NEAR_DUPLICATES,
    FolderContents,
    Record,
    by_stem,
    likeliest,
    make_record,
    needed_folder,
    pair,
    pair_paths,
    read_json,
    subfolder,
)
from lmsfe_sam.data.layouts.public import (
    find_busbra,
    find_busi,
    find_tg3k,
    find_tn3k,
    is_busbra,
    is_busi,
    is_tg3k,
    is_tn3k,
)
from lmsfe_sam.data.layouts.voc import find_voc, is_voc
from lmsfe_sam.errors import InputError
from lmsfe_sam.images.formats import known_suffix, list_images, stem

PART_FOLDERS = {
    "train": ("train", "training", "training_set", "trainset"),
    "val": ("val", "valid", "validation", "validation_set", "dev"),
    "test": ("test", "testing", "test_set", "testset"),
}
"""Names of folders that state a split."""


@dataclass(frozen=True)
class Layout:
    """A way to lay out a data set in a folder."""

    name: str
    description: str
    recognise: Callable[[Path], bool]
    """Whether the folder itself (not a parent) looks like this layout."""
    find: Callable[[Path], FolderContents]
    """List the folder's images.

    Raises:
        InputError: an image without its mask, or a mask without its image.
    """
    refines: str = ""
    """The layout that this one is a special case of, and is preferred to where both are recognised."""


# --- two folders ----------------------------------------------------------------------------------


def _two_folders(root: Path) -> tuple[Path, Path] | None:
    """Return the folder of images and that of masks, if there is one of each."""
    images = likeliest(root, IMAGE_FOLDERS)
    masks = likeliest(root, MASK_FOLDERS)
    return (images, masks) if images and masks else None


def _is_plain(root: Path) -> bool:
    folders = _two_folders(root)
    return folders is not None and not all(
        any(subfolder(folder, *names) for names in PART_FOLDERS.values()) for folder in folders
    )


def _find_plain(root: Path) -> FolderContents:
    folders = _two_folders(root) or (needed_folder(root, *IMAGE_FOLDERS), needed_folder(root, *MASK_FOLDERS))
    found = [path.relative_to(folders[0]) for path in folders[0].rglob("*") if known_suffix(path)]
    found = [path for path in found if not any(part.startswith(".") for part in path.parts)]
    inside = sorted({path.parent for path in found})
    if found and Path() not in inside and all((folders[1] / name).is_dir() for name in inside):
        # images/benign/X.png and masks/benign/X.png
        records = [one for name in inside for one in pair_paths(root, folders[0] / name, folders[1] / name)]
        return FolderContents(records, NEAR_DUPLICATES)
    below = sum(len(path.parts) > 1 for path in found)
    skipped = {f"images in subfolders of {folders[0].name}/, which are not searched": below} if below else {}
    return FolderContents(pair_paths(root, *folders), NEAR_DUPLICATES, skipped=skipped)


def _is_nnunet(root: Path) -> bool:
    return bool(subfolder(root, "imagestr") and subfolder(root, "labelstr"))


def _find_nnunet(root: Path) -> FolderContents:
    """nnU-Net's raw data: X_0000.png in imagesTr/ with X.png in labelsTr/; labelsTs/ are of its test."""
    parts: dict[str, list[Record]] = {}
    skipped = unlabelled = 0
    for part, end in (("train", "tr"), ("test", "ts")):
        images, masks = subfolder(root, f"images{end}"), subfolder(root, f"labels{end}")
        if images is None or masks is None:
            unlabelled += len(list_images(images)) if images else 0
            continue
        channels = by_stem(list_images(images))
        first = {name.removesuffix("_0000"): path for name, path in channels.items() if _is_first(name)}
        skipped += len(channels) - len(first)
        files = {name: [path] for name, path in by_stem(list_images(masks)).items()}
        parts[part] = pair(root, first, files)
    records = [record for own in parts.values() for record in own]
    counted = {"channels other than the first": skipped, "files of imagesTs, without labelsTs": unlabelled}
    left_out = {what: number for what, number in counted.items() if number}
    return FolderContents(records, NEAR_DUPLICATES, parts if "test" in parts else None, left_out)


def _is_first(name: str) -> bool:
    return re.search(r"_\d{4}$", name) is None or name.endswith("_0000")


# --- one folder -----------------------------------------------------------------------------------


_IMAGE_SUFFIX = re.compile(r"(?P<bare>.+?)[_\-. ](image|img|original)", re.IGNORECASE)
"""Stems of images beside ``X_mask.png`` that are not ``X``."""


def _bare_names(files: Mapping[str, Path]) -> dict[str, Path]:
    """Return files by their stems without a word of `_IMAGE_SUFFIX`, unless another file has that name."""
    bare: dict[str, Path] = {}
    for name, path in files.items():
        match = _IMAGE_SUFFIX.fullmatch(name)
        taken = match is None or match["bare"] in files or match["bare"] in bare
        bare[name if match is None or taken else match["bare"]] = path
    return bare


def _is_suffixed(root: Path) -> bool:
    names = _bare_names({stem(path): path for path in list_images(root)})
    return any((match := MASK_SUFFIX.fullmatch(name)) and match["image"] in names for name in names)


def _find_suffixed(root: Path) -> FolderContents:
    """X.png or X_image.png beside X_mask.png, X_tumor.png, ... or X_Annotation.png (HC18: outlines)."""
    files = _bare_names(by_stem(list_images(root)))
    masks: dict[str, list[Path]] = defaultdict(list)
    others = 0
    for name in list(files):
        match = MASK_SUFFIX.fullmatch(name)
        other = re.fullmatch(r"(?P<image>.+)_other\d*", name)
        if match and match["image"] in files:
            masks[match["image"]].append(files.pop(name))
        elif other and other["image"] in files:  # BrEaST's masks of other tissues
            others += bool(files.pop(name))
    records = pair(root, files, masks)
    for record in records:
        if all(stem(Path(path)).lower().endswith("annotation") for path in record["label"]):
            record["masks"] = "filled"
    skipped = {"masks of other tissue": others} if others else {}
    return FolderContents(records, NEAR_DUPLICATES, skipped=skipped)


_STU_IMAGE = re.compile(r"test_image_(\d+)", re.IGNORECASE)
_STU_MASK = re.compile(r"mask_(\d+)", re.IGNORECASE)


def _is_stu(root: Path) -> bool:
    names = [stem(path) for path in list_images(root)]
    return any(map(_STU_IMAGE.fullmatch, names)) and any(map(_STU_MASK.fullmatch, names))


def _find_stu(root: Path) -> FolderContents:
    """STU's Test_Image_N.png beside mask_N.png."""
    images: dict[str, Path] = {}
    masks: dict[str, list[Path]] = {}
    for name, path in by_stem(list_images(root)).items():
        if match := _STU_IMAGE.fullmatch(name):
            images[match[1]] = path
        elif match := _STU_MASK.fullmatch(name):
            masks[match[1]] = [path]
    return FolderContents(pair(root, images, masks), NEAR_DUPLICATES)


# --- folders that state a split -------------------------------------------------------------------


def _part_folders(root: Path) -> dict[str, Path | tuple[Path, Path]]:
    """Return for each part its folder, or its two in images/ and masks/."""
    found: dict[str, Path | tuple[Path, Path]] = {}
    two = _two_folders(root)
    for part, names in PART_FOLDERS.items():
        folder = subfolder(root, *names)
        if folder is not None and (_is_plain(folder) or _is_suffixed(folder)):
            found[part] = folder
        elif two is not None:
            images, masks = (subfolder(one, *names) for one in two)
            if images and masks:
                found[part] = (images, masks)
        if part not in found and (beside := _joined_folders(root, names)):
            found[part] = beside
    return found


def _joined_folders(root: Path, parts: Sequence[str]) -> tuple[Path, Path] | None:
    """Return ``train_images/`` and ``train_masks/``, or ``images_train/`` and ``masks_train/``, if there."""

    def joined(kinds: Sequence[str]) -> Path | None:
        pairs = [(part, kind) for part in parts for kind in kinds]
        ways = [pair for part, kind in pairs for pair in ((part, kind), (kind, part))]
        return subfolder(root, *(mark.join(way) for way in ways for mark in ("_", "-", " ")))

    images, masks = joined(IMAGE_FOLDERS), joined(MASK_FOLDERS)
    return (images, masks) if images and masks else None


def _is_split(root: Path) -> bool:
    return "train" in _part_folders(root)


def _find_split(root: Path) -> FolderContents:
    """train/, val/ and test/ with images/ and masks/ or X.png beside X_mask.png; or in other orders."""
    parts: dict[str, list[Record]] = {}
    for part, folder in _part_folders(root).items():
        if isinstance(folder, tuple):
            parts[part] = pair_paths(root, *folder)
            continue
        own = _find_plain(folder) if _is_plain(folder) else _find_suffixed(folder)
        for record in own.records:
            record["name"] = Path(record["image"]).relative_to(root).as_posix()
        parts[part] = own.records
    records = [record for own in parts.values() for record in own]
    return FolderContents(records, NEAR_DUPLICATES, parts if len(parts) > 1 else None)


# --- COCO -----------------------------------------------------------------------------------------


def _is_coco(root: Path) -> bool:
    return bool(coco.annotation_files(root))


def _find_coco(root: Path) -> FolderContents:
    annotated, skipped = coco.read(root)
    parts: dict[str, list[Record]] = defaultdict(list)
    for part, path, outlines in annotated:
        parts[part].append({**make_record(root, path, []), "outlines": json.dumps(outlines)})
    records = [record for part in sorted(parts) for record in parts[part]]
    if not records:
        raise InputError(f"'{root}' has no annotation that can be used: export polygons or masks again.")
    own = None if set(parts) == {""} else dict(parts)
    return FolderContents(records, NEAR_DUPLICATES, own, skipped)


LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            "busi", "benign/ or malignant/ with X.png and X_mask.png (X_mask_1.png, ...)", is_busi, find_busi
        ),
        Layout("busbra", "Images/bus_*.png or .jpg and Masks/mask_*.png", is_busbra, find_busbra, "plain"),
        Layout("tn3k", "trainval-image/, trainval-mask/, test-image/, test-mask/", is_tn3k, find_tn3k),
        Layout("tg3k", "thyroid-image/ and thyroid-mask/", is_tg3k, find_tg3k),
        Layout(
            "ddti",
            "N_M.jpg beside N.xml, or images/ and masks/ named PATIENT_IMAGE_VIEW, or p_image/ and p_mask/",
            is_ddti,
            find_ddti,
            "plain",
        ),
        Layout("nnunet", "imagesTr/X_0000.png and labelsTr/X.png", _is_nnunet, _find_nnunet),
        Layout("stu", "Test_Image_N.png and mask_N.png in one folder", _is_stu, _find_stu, "suffix"),
        Layout("split", "train/, val/ and test/ with images/ and masks/ each", _is_split, _find_split),
        Layout(
            "plain",
            "images/ (image, img, original) and masks/ (mask, gt, label) with the same names, or X_mask",
            _is_plain,
            _find_plain,
        ),
        Layout(
            "voc",
            "JPEGImages/, SegmentationClass/ and Annotations/X.xml with boxes",
            is_voc,
            find_voc,
            "plain",
        ),
        Layout("suffix", "X.png beside X_mask.png (segmentation, tumor)", _is_suffixed, _find_suffixed),
        Layout("coco", "a JSON file with images and annotations", _is_coco, _find_coco),
    )
}
"""Every layout but ``datalist``, which is a file and not a way to lay out a folder."""


def recognise(folder: Path, layout: str) -> tuple[Path, Layout]:
    """Find a data set's own folder, ``folder`` or directly in it, and its layout.

    Args:
        folder: that the user gave.
        layout: a key of `LAYOUTS`, or "auto".

    Raises:
        InputError: none or several are recognised, or a JSON file of annotations is damaged.
    """
    wanted = list(LAYOUTS.values()) if layout == "auto" else [LAYOUTS[layout]]
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    for candidates in ([folder], inside):
        matches = [match for path in candidates for match in _matches(path, wanted)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            names = ", ".join(f"{one.name} in {path.name}/" for path, one in matches)
            raise InputError(
                f"dataset_dir '{folder}' is ambiguous ({names}): name the layout with --layout, or give the "
                "data set's own folder."
            )
    for path in coco.json_files(folder) if layout in ("auto", "coco") else ():
        read_json(path)  # raises where it is damaged, which is why it was not recognised
    if not any(folder.iterdir()):
        raise InputError(f"dataset_dir '{folder}' is empty: give the folder that holds the images.")
    common = [one for one in wanted if layout != "auto" or one.name in ("busi", "plain", "suffix")]
    known = "; ".join(f"{one.name}: {one.description}" for one in common)
    others = "" if layout != "auto" else "; see docs/data.md for the others"
    raise InputError(
        f"dataset_dir '{folder}' is in no known layout: arrange it as one of these ({known}{others})."
    )


def _matches(folder: Path, layouts: Sequence[Layout]) -> list[tuple[Path, Layout]]:
    matches = [layout for layout in layouts if layout.recognise(folder)]
    refined = {layout.refines for layout in matches}
    return [(folder, layout) for layout in matches if layout.name not in refined]
