"""Data lists: the images of a data set, divided into training, validation and test.

`build_datalist` is the way from a folder, or from a MONAI ``datalist.json``, to records that the
loading transforms take.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmsfe_sam.data.datalist_entries import read_entry, read_head
from lmsfe_sam.data.duplicates import find_pairs, groups_of
from lmsfe_sam.data.layouts.folders import NEAR_DUPLICATES, NORMAL, FolderContents, Record
from lmsfe_sam.data.layouts.registry import LAYOUTS, recognise
from lmsfe_sam.data.normal import divide_normal, exclude_normal_images
from lmsfe_sam.data.splits import PAPER_COUNTS, PARTS, counts_by_fraction, divide, paper_test_count
from lmsfe_sam.errors import InputError
from lmsfe_sam.files import LARGEST_LIST, atomic_write, read_text
from lmsfe_sam.images.limits import MAX_PIXELS

SECTIONS = {"train": "training", "val": "validation", "test": "test"}
"""Our names of the parts, and MONAI's in a ``datalist.json``."""

SPLIT_RULES = ("group", "paper")
FILE_NAME = "datalist.json"


@dataclass
class DataList:
    """The images of one data set and their division."""

    name: str
    """"busi", "tn3k", ...; for a folder of one's own the folder's name."""
    root: Path
    """The folder that the records' names are relative to."""
    layout: str
    records: dict[str, list[Record]]
    """"train", "val" and "test"."""
    split_rule: str = "group"
    seed: int = 0
    grouping: str = NEAR_DUPLICATES
    """What a group is: patient, video or near-duplicate group."""
    own_split: bool = False
    """Whether the folder, the data list or the paper says which images are for testing."""
    normal: dict[str, list[Record]] = field(default_factory=dict)
    """Images without a lesion of each part, not among ``records``; none unless they are asked for."""
    skipped: dict[str, int] = field(default_factory=dict)
    """What was left out on purpose, and how many."""
    notes: list[str] = field(default_factory=list)
    """What a user should know of this division, a sentence each."""

    def select(self, split: str) -> list[Record]:
        """Return the records of "train", "val", "test" or "all" (each image once, sorted by name).

        Raises:
            InputError: no such split, or it is empty.
        """
        if split not in (*PARTS, "all"):
            raise InputError(f"split '{split}' is unknown: give train, val, test or all.")
        if split == "all":
            once = {record["name"]: record for part in PARTS for record in self.records[part]}
            chosen = [once[name] for name in sorted(once)]
        else:
            chosen = self.records[split]
        if not chosen:
            raise InputError(
                f"split '{split}' of {self.name} ({self.root}) is empty ({self.counts()}): "
                f"give more images, or state the split in a {FILE_NAME}."
            )
        return chosen

    def select_normal(self, split: str) -> list[Record]:
        """Return the images without a lesion of a part or of "all", sorted by name."""
        parts = PARTS if split == "all" else (split,)
        chosen = [record for part in parts for record in self.normal.get(part, [])]
        return sorted(chosen, key=lambda record: record["name"])

    def listed(self, part: str) -> list[Record]:
        """Return all records of a part as the file lists them: normal images behind those with a lesion."""
        return [*self.records[part], *self.normal.get(part, [])]

    def counts(self) -> str:
        """Say how many images each part has."""
        return ", ".join(f"{len(self.records[part])} {part}" for part in PARTS)

    def summary(self) -> str:
        """Describe the list in one paragraph for a log."""
        images = len({record["name"] for part in PARTS for record in self.records[part]})
        if self.split_rule == "own":
            division = "divided as the data set states it"
        else:
            division = f"divided by {self.grouping} (rule {self.split_rule}, seed {self.seed})"
        left_out = "".join(f"; left out: {number} {what}" for what, number in self.skipped.items())
        notes = "".join(f" {note}" for note in self.notes)
        if any(self.normal.values()):
            own = ", ".join(f"{len(self.normal.get(part, []))} {part}" for part in PARTS)
            notes += f" Beside them are normal images, without a lesion: {own}."
        return (
            f"{self.name}: {images} images in {self.root} (layout {self.layout}), {division}: "
            f"{self.counts()}{left_out}.{notes}"
        )

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the list as a MONAI ``datalist.json``, to be read back, or published.

        Paths are relative to the data folder, so that the file works wherever it is put into a
        copy of that folder; "root" remembers where the folder is on this machine.

        Raises:
            InputError: the file cannot be written.
        """
        target = Path(path)
        sections = {part: self.listed(part) for part in PARTS}
        content = {
            "name": self.name,
            "description": self.summary(),
            "layout": self.layout,
            "split_rule": self.split_rule,
            "seed": self.seed,
            "grouping": self.grouping,
            "counts": {SECTIONS[part]: len(records) for part, records in sections.items()},
            "skipped": self.skipped,
            "root": str(self.root),
            **{SECTIONS[part]: [self._entry(one) for one in records] for part, records in sections.items()},
        }
        with atomic_write(target) as temporary:
            temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return target

    def _entry(self, record: Record) -> dict[str, Any]:
        masks = [_relative(path, self.root) for path in record["label"]]
        entry = {
            "image": _relative(record["image"], self.root),
            "label": masks[0] if len(masks) == 1 else masks,
        }
        # What the objects are and how large files may be is the options' to say, each time the list is read.
        own = {"image", "label", "objects", "unprompted", "max_pixels"}
        return {**entry, **{key: value for key, value in record.items() if key not in own}}


def build_datalist(
    dataset_dir: str | os.PathLike[str],
    layout: str = "auto",
    split_rule: str = "group",
    seed: int = 0,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    max_pixels: int = MAX_PIXELS,
    normal_images: bool = False,
) -> DataList:
    """Find the images of a data folder and divide them.

    Args:
        dataset_dir: the data set's folder or its parent, or a ``datalist.json``.
        layout: "auto", "datalist", or one of `lmsfe_sam.data.layouts.registry.LAYOUTS`. A folder with a
            ``datalist.json`` in it is read by that, unless another layout is named.
        split_rule: "group" keeps the split of a data set that has one (TN3K, a data list), and
            divides others by patient, video or near-duplicates, by the two fractions. "paper"
            makes the paper's counts (table 1) from BUSI, TN3K, TG3K and DDTI.
        seed: of the division; 0 is the one that published figures use.
        validation_fraction: share of the images for validation, 0 to below 1.
        test_fraction: share of the images for testing.
        max_pixels: of the images that near-duplicates are looked for among.
        normal_images: whether to keep images without a lesion, in `DataList.normal`.

    Raises:
        InputError: naming the key and what would be right.
    """
    folder = Path(dataset_dir).expanduser().resolve()
    if split_rule not in SPLIT_RULES:
        raise InputError(f"split_rule '{split_rule}' is unknown: give one of {', '.join(SPLIT_RULES)}.")
    if layout not in ("auto", "datalist", *LAYOUTS):
        raise InputError(f"layout '{layout}' is unknown: give auto, datalist, {', '.join(LAYOUTS)}.")
    if min(validation_fraction, test_fraction) < 0 or validation_fraction + test_fraction >= 1:
        raise InputError(
            f"validation_fraction {validation_fraction} and test_fraction {test_fraction} are no two shares "
            "that leave something to train on: give numbers from 0 on whose sum is below 1."
        )
    if not folder.exists():
        raise InputError(f"dataset_dir '{dataset_dir}' does not exist: give the data set's folder.")
    listed = _datalist_file(folder, layout)
    if listed:
        result = _read_datalist(listed)
        if not normal_images and any(result.normal.values()):
            result.skipped[NORMAL] = sum(map(len, result.normal.values()))
            result.normal = {}
        return result
    if not folder.is_dir():
        raise InputError(f"dataset_dir '{folder}' is a file, and no {FILE_NAME}: give the data set's folder.")
    result = _divided(
        folder, layout, split_rule, seed, validation_fraction, test_fraction, max_pixels, normal_images
    )
    _name_from(result, folder)
    return result


def _name_from(datalist: DataList, folder: Path) -> None:
    """Make every name a path relative to the folder that the user gave, the data set's or its parent."""
    if datalist.root == folder:
        return
    prefix = datalist.root.relative_to(folder)
    named: set[int] = set()
    records = (*datalist.records.values(), *datalist.normal.values())
    for record in (record for part in records for record in part):
        if id(record) not in named:
            named.add(id(record))
            record["name"] = (prefix / record["name"]).as_posix()


def _divided(
    folder: Path,
    layout: str,
    split_rule: str,
    seed: int,
    validation_fraction: float,
    test_fraction: float,
    max_pixels: int,
    normal_images: bool,
) -> DataList:
    root, chosen = recognise(folder, layout)
    found = chosen.find(root)
    if not found.records:
        raise InputError(
            f"dataset_dir '{root}' holds no images: the layout {chosen.name} is {chosen.description}."
        )
    exclude_normal_images(found, root)
    own_name = chosen.name in ("plain", "coco", "nnunet", "split", "suffix", "voc")
    name = root.name if own_name else chosen.name
    result = DataList(name, root, chosen.name, {}, split_rule, seed)
    result.grouping, result.skipped = found.grouping, found.skipped
    if split_rule == "group" and found.parts is not None:
        _keep_split(result, found.parts)
        if "val" not in found.parts:
            _watch_part_of_training(result, validation_fraction, max_pixels)
    else:
        if found.grouping == NEAR_DUPLICATES:
            _group_near_duplicates(found.records, max_pixels)
        if split_rule == "paper":
            _divide_as_the_paper(result, found, validation_fraction)
        else:
            _divide(result, found, counts_by_fraction(len(found.records), validation_fraction, test_fraction))
    if normal_images:
        fractions = validation_fraction, test_fraction
        result.normal = divide_normal(found, result.records, result.split_rule, seed, fractions, max_pixels)
    left_out = sum(map(len, found.normal.values())) - sum(map(len, result.normal.values()))
    if left_out:
        result.skipped[NORMAL] = left_out
    return result


def effective_split(datalist: DataList, split: str | None = None) -> str:
    """Return the split that an evaluation uses.

    The default, "test", is the test part where the folder, a data list or the paper states one. A
    folder that states none was never divided by anybody, so there it means all images. To evaluate
    on the part that one's own training run kept aside, give that run's ``datalist.json`` as
    ``dataset_dir``.
    """
    if split in (None, "test"):
        return "test" if datalist.own_split else "all"
    return str(split)


# --- dividing -------------------------------------------------------------------------------------


def _keep_split(result: DataList, parts: Mapping[str, list[Record]]) -> None:
    result.records = {part: list(parts.get(part, [])) for part in PARTS}
    for record in (record for part in PARTS for record in result.records[part]):
        record["group"] = record["group"] or record["name"]
    result.split_rule, result.own_split = "own", bool(parts.get("test"))


def _watch_part_of_training(result: DataList, validation_fraction: float, max_pixels: int) -> None:
    """Keep a part of the training images for validation, where the folder names training and test alone."""
    train = result.records["train"]
    _group_near_duplicates(train, max_pixels)
    wanted = {"val": counts_by_fraction(len(train), validation_fraction, 0)["val"]}
    indices = divide([record["group"] for record in train], [""] * len(train), wanted, result.seed)
    result.records["val"] = [train[index] for index in indices["val"]]
    result.records["train"] = [train[index] for index in indices["train"]]
    result.notes.append("The folder names no validation part: it is taken from the training images.")


def _group_near_duplicates(records: Sequence[Record], max_pixels: int) -> None:
    pairs = find_pairs([record["image"] for record in records], max_pixels)
    groups = groups_of([record["name"] for record in records], pairs)
    for record, group in zip(records, groups, strict=True):
        record["group"] = group


def _divide(result: DataList, found: FolderContents, wanted: Mapping[str, int]) -> None:
    records = sorted(found.records, key=lambda record: record["name"])
    groups = [record["group"] for record in records]
    indices = divide(groups, [record["subgroup"].get("class", "") for record in records], wanted, result.seed)
    result.records = {part: [records[index] for index in indices[part]] for part in PARTS}


def _divide_as_the_paper(result: DataList, found: FolderContents, validation_fraction: float) -> None:
    """Make the paper's counts of training and test images.

    The paper draws single images; here groups stay whole all the same, which changes no count. It
    names no validation part: a part of the training images is watched in its place, so that
    neither the counts change nor the test images choose the checkpoint.
    """
    if result.layout not in PAPER_COUNTS:
        raise InputError(
            f"split_rule 'paper' has no counts for the layout {result.layout}, only for "
            f"{', '.join(PAPER_COUNTS)}: use --split_rule group."
        )
    train, test = PAPER_COUNTS[result.layout]
    images = len(found.records)
    _divide(result, found, {"test": paper_test_count(result.layout, images)})
    made = len(result.records["train"]), len(result.records["test"])
    result.own_split = True
    if made != (train, test):
        result.notes.append(
            f"The paper counts {train} training and {test} test images, {train + test} in all; of the "
            f"{images} found, {made[0]} and {made[1]} are the nearest."
        )
    learned = result.records["train"]
    if learned and validation_fraction > 0:
        watched = divide(
            [record["group"] for record in learned],
            [record["subgroup"].get("class", "") for record in learned],
            counts_by_fraction(len(learned), validation_fraction, 0),
            result.seed,
        )
        result.records["val"] = [learned[index] for index in watched["val"]]
        result.notes.append(
            f"The paper keeps no validation part: the {len(result.records['val'])} validation images are "
            "training images, to watch the training by and not to report."
        )


# --- datalist.json --------------------------------------------------------------------------------


def _datalist_file(folder: Path, layout: str) -> Path | None:
    """Return the data list that ``dataset_dir`` means, if it means one."""
    if layout not in ("auto", "datalist"):
        return None
    path = folder / FILE_NAME if folder.is_dir() else folder
    if path.is_file() and path.suffix == ".json":
        return path
    if layout == "datalist":
        raise InputError(f"dataset_dir '{folder}' has no {FILE_NAME}: give that file, or its folder.")
    return None


def _read_datalist(path: Path) -> DataList:
    try:
        content = json.loads(read_text(path, "utf-8-sig", LARGEST_LIST))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"'{path}' cannot be read as JSON ({error}): write it again.") from error
    if not isinstance(content, dict) or not any(content.get(section) for section in SECTIONS.values()):
        raise InputError(
            f"'{path}' is no data list: it needs at least one list named {', '.join(SECTIONS.values())} of "
            'entries such as {"image": "a.png", "label": "a_mask.png"}.'
        )
    head = read_head(content, path)
    folders = [path.parent, *([Path(head.root)] if head.root else [])]
    records = {
        part: [read_entry(entry, folders, path) for entry in getattr(head, section) or []]
        for part, section in SECTIONS.items()
    }
    normal = {part: [one for one in own if one.get("normal")] for part, own in records.items()}
    records = {part: [one for one in own if not one.get("normal")] for part, own in records.items()}
    for part, section in SECTIONS.items():
        if part == "train":  # where an image may be shown several times an epoch
            continue
        names = Counter(record["name"] for record in records[part])
        if again := next((name for name, number in names.items() if number > 1), None):
            raise InputError(f"'{path}' lists '{again}' more than once in {section}: take the others out.")
    first = next((record for part in PARTS for record in records[part]), None)
    if first is None:
        raise InputError(f"'{path}' lists normal images alone: add images with a lesion.")
    root = next((folder for folder in folders if Path(first["image"]).is_relative_to(folder)), path.parent)
    return DataList(
        name=str(head.name or path.parent.resolve().name),
        root=root,
        layout="datalist",
        records=records,
        split_rule="own",
        normal=normal,
        seed=head.seed or 0,
        grouping=head.grouping or NEAR_DUPLICATES,
        own_split=True,
    )


def _relative(path: str, root: Path) -> str:
    file = Path(path)
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)
