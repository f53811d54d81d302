"""The images of a run: those of a data set, of several as one list, or phantoms where no data is given."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmsfe_sam.data.datalist import DataList, build_datalist
from lmsfe_sam.data.layouts.folders import NORMAL, Record
from lmsfe_sam.data.phantoms.rendering import phantom_records
from lmsfe_sam.data.splits import PARTS
from lmsfe_sam.errors import InputError, short_repr
from lmsfe_sam.images.limits import MAX_PIXELS


def find_records(
    dataset_dir: str | Sequence[str] | None,
    layout: str,
    split_rule: str,
    seed: int,
    phantoms: int,
    repeats: Sequence[int] | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    objects: str | Sequence[str] = "union",
    prompted_only: Sequence[str] = (),
    masks: str | None = None,
    max_pixels: int = MAX_PIXELS,
    normal_images: bool = False,
) -> DataList:
    """Return the records of a dataset or of several, split, or those of ``phantoms`` made-up images.

    The validation part of a dataset is the same whatever ``test_fraction`` is.
    Of the phantoms 70 % are for training, 15 % (one at least) each for validation and test.

    Args:
        dataset_dir, layout, split_rule, seed, validation_fraction, test_fraction: see `build_datalist`.
        phantoms: how many, without a ``dataset_dir``.
        repeats: see `combine`.
        objects: what the objects of each dataset's images are (`data.masks.objects`), one rule
            for all of them or one each.
        masks: how the masks are read, one of `MASK_KINDS` of `data.masks.reading`; None reads them
            as drawn, and refuses outlines and inverted masks.
        max_pixels: that an image or a mask may have, see `lmsfe_sam.images.reading.open_image`.
        prompted_only: names of the datasets in which "no prompt" means nothing; their normal images are left
            out, whose only prompt is none.
        normal_images: whether to keep images without a lesion.

    Raises:
        InputError: see `build_datalist` and `combine`; ``objects`` or ``prompted_only`` does not fit
            the datasets; or there are no normal images.
    """
    if repeats is not None and (dataset_dir is None or isinstance(dataset_dir, str)):
        raise InputError(
            f"repeats is {short_repr(repeats)}: leave it out, or give dataset_dir a list of folders."
        )
    if dataset_dir is not None:
        found = [
            build_datalist(
                folder,
                layout,
                split_rule,
                seed,
                validation_fraction,
                test_fraction,
                max_pixels,
                normal_images,
            )
            for folder in folders_of(dataset_dir)
        ]
        _mark_objects(found, objects, prompted_only)
        for record in (record for one in found for part in PARTS for record in one.listed(part)):
            record.update({"masks": masks} if masks else {})
            record.update({"max_pixels": max_pixels} if max_pixels != MAX_PIXELS else {})
        if normal_images and not any(one.select_normal("all") for one in found):
            raise InputError(
                f"normal_images is True, but {', '.join(one.name for one in found)} has no image whose mask "
                "is all black: leave it out, or add such images."
            )
        return found[0] if isinstance(dataset_dir, str) else combine(found, repeats)
    if prompted_only or not isinstance(objects, str):
        key, value = ("prompted_only", prompted_only) if prompted_only else ("objects", objects)
        raise InputError(
            f"{key} is {short_repr(list(value))}, of data sets, but there is none: give --dataset_dir, or "
            "leave it out."
        )
    if normal_images:
        raise InputError("normal_images is True, but every phantom has a lesion: give --dataset_dir, too.")
    held_out = max(1, round(0.15 * phantoms))
    records = phantom_records(phantoms, seed)
    splits = {
        "train": records[: phantoms - 2 * held_out],
        "val": records[phantoms - 2 * held_out : phantoms - held_out],
        "test": records[phantoms - held_out :],
    }
    return DataList("phantoms", Path("phantoms"), "phantoms", splits, seed=seed, own_split=True)


def folders_of(dataset_dir: str | Sequence[str] | None) -> list[str]:
    """Return the folders that ``dataset_dir`` names: none, one, or those of a list."""
    if dataset_dir is None:
        return []
    return [dataset_dir] if isinstance(dataset_dir, str) else list(dataset_dir)


def _mark_objects(
    sets: Sequence[DataList], objects: str | Sequence[str], prompted_only: Sequence[str]
) -> None:
    """Write into the records what the options ``objects`` and ``prompted_only`` say of their datasets."""
    names = [one.name for one in sets]
    rules = [objects] * len(sets) if isinstance(objects, str) else list(objects)
    if len(rules) != len(sets):
        raise InputError(f"objects has {len(rules)} rules: give one, or one for each of {', '.join(names)}.")
    unknown = [name for name in prompted_only if name not in names]
    if unknown:
        raise InputError(f"prompted_only names '{unknown[0]}': choose from {', '.join(names)}.")
    for one, rule in zip(sets, rules, strict=True):
        unprompted = one.name not in prompted_only
        if not unprompted and any(one.normal.values()):
            one.skipped[NORMAL] = len(one.select_normal("all"))
            one.normal = {}
        for record in (record for part in PARTS for record in one.listed(part)):
            record.update({"objects": rule, "unprompted": unprompted})


def combine(sets: Sequence[DataList], repeats: Sequence[int] | None = None) -> DataList:
    """Return one data list of all images of ``sets``.

    Names and groups start with the set's name, so that they stay apart, and every record has the
    subgroup "set".

    Args:
        sets: data lists of different names.
        repeats: how often an epoch shows each training image of each set; once by default.

    Raises:
        InputError: no set, two of one name, or ``repeats`` that are not one whole number a set.
    """
    counts = [1] * len(sets) if repeats is None else list(repeats)
    names = [one.name for one in sets]
    if not sets or len(set(names)) < len(names):
        raise InputError(f"dataset_dir names the sets {names}: give each folder once.")
    if len(counts) != len(sets) or not all(isinstance(n, int) and n >= 1 for n in counts):
        raise InputError(
            f"repeats is {counts!r}: give a whole number from 1 up for each of {', '.join(names)}."
        )
    records: dict[str, list[Record]] = {part: [] for part in PARTS}
    normal: dict[str, list[Record]] = {part: [] for part in PARTS}
    for one, count in zip(sets, counts, strict=True):
        marked = {id(r): _marked(r, one.name) for part in PARTS for r in one.records[part]}
        for part in PARTS:
            own = [marked[id(record)] for record in one.records[part]]
            records[part] += own * (count if part == "train" else 1)
            normal[part] += [_marked(record, one.name) for record in one.normal.get(part, [])]
    return DataList(
        name="+".join(names),
        root=Path(os.path.commonpath([one.root for one in sets])),
        layout="+".join(one.layout for one in sets),
        records=records,
        normal=normal,
        split_rule=sets[0].split_rule if len({one.split_rule for one in sets}) == 1 else "own",
        seed=sets[0].seed,
        grouping=" or ".join(dict.fromkeys(one.grouping for one in sets)),
        own_split=all(one.own_split for one in sets),
        skipped={f"{what} of {one.name}": n for one in sets for what, n in one.skipped.items()},
        notes=[note for one in sets for note in one.notes],
    )


def _marked(record: Record, name: str) -> dict[str, Any]:
    return {
        **record,
        "name": f"{name}/{record['name']}",
        "group": f"{name}/{record['group']}",
        "subgroup": {**record["subgroup"], "set": name},
    }
