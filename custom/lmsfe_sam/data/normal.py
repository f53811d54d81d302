"""Images without a lesion: told by an all-black mask or by their folder, and divided as the others are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lmsfe_sam.data.duplicates import find_pairs, groups_of
from lmsfe_sam.data.layouts.folders import NEAR_DUPLICATES, FolderContents, Record
from lmsfe_sam.data.masks.files import is_black
from lmsfe_sam.data.splits import PARTS, counts_by_fraction, divide
from lmsfe_sam.errors import InputError


def exclude_normal_images(found: FolderContents, root: Path) -> None:
    """Move the images whose masks are all black to ``found.normal``.

    Raises:
        InputError: every mask is.
    """
    with ThreadPoolExecutor() as pool:
        black = list(pool.map(_is_normal, found.records))
    if not any(black):
        return
    if all(black):
        raise InputError(
            f"every mask in '{root}' is all black: draw the lesions with 255 (or 1), or give other masks."
        )
    normal = {id(record): record for record, empty in zip(found.records, black, strict=True) if empty}
    found.records = [record for record in found.records if id(record) not in normal]
    for part, records in (found.parts or {}).items():
        assert found.parts is not None
        stated = [normal.pop(id(record)) for record in records if id(record) in normal]
        found.normal[part] = found.normal.get(part, []) + stated
        gone = {id(record) for record in stated}
        found.parts[part] = [record for record in records if id(record) not in gone]
    found.normal[""] = found.normal.get("", []) + list(normal.values())


def _is_normal(record: Record) -> bool:
    return bool(record["label"]) and all(is_black(path) for path in record["label"])


def divide_normal(
    found: FolderContents,
    lesions: Mapping[str, Sequence[Record]],
    split_rule: str,
    seed: int,
    fractions: tuple[float, float],
    max_pixels: int,
) -> dict[str, list[Record]]:
    """Return the normal images of each part, marked as ``normal``.

    The division of the images with a lesion stays as it is. A normal image goes where those of its group are
    (its patient's, or its near-duplicates), and in no part where these are in several; the others are divided
    by the fractions. Where the data set states its parts, images that it states none for are in no part.

    Args:
        found: what the folder holds.
        lesions: the images with a lesion, by part.
        split_rule: of these; ``own`` keeps the parts that the folder states.
        seed: of the division.
        fractions: for validation and for testing.
        max_pixels: of the images that near-duplicates are looked for among.
    """
    if split_rule == "own":
        parts = {part: list(found.normal.get(part, [])) for part in PARTS}
    else:
        parts = _divided(found, lesions, seed, fractions, max_pixels)
    for record in (record for own in parts.values() for record in own):
        record["normal"] = True
        record["group"] = record["group"] or record["name"]
    return parts


def _divided(
    found: FolderContents,
    lesions: Mapping[str, Sequence[Record]],
    seed: int,
    fractions: tuple[float, float],
    max_pixels: int,
) -> dict[str, list[Record]]:
    normal = sorted(
        (record for own in found.normal.values() for record in own), key=lambda record: record["name"]
    )
    placed = [(record, part) for part, own in lesions.items() for record in own]
    if found.grouping == NEAR_DUPLICATES:
        every = [*normal, *(record for record, _ in placed)]
        pairs = find_pairs([record["image"] for record in every], max_pixels)
        groups = groups_of([record["name"] for record in every], pairs)
        own_groups, other_groups = groups[: len(normal)], groups[len(normal) :]
    else:
        own_groups = [record["group"] or record["name"] for record in normal]
        other_groups = [record["group"] for record, _ in placed]
    homes: dict[str, set[str]] = defaultdict(set)
    for (_, part), group in zip(placed, other_groups, strict=True):
        homes[group].add(part)
    parts: dict[str, list[Record]] = {part: [] for part in PARTS}
    alone: list[Record] = []
    for record, group in zip(normal, own_groups, strict=True):
        record["group"] = group
        if not homes[group]:
            alone.append(record)
        elif len(homes[group]) == 1:
            parts[next(iter(homes[group]))].append(record)
    if alone:
        wanted = counts_by_fraction(len(alone), *fractions)
        indices = divide([record["group"] for record in alone], [""] * len(alone), wanted, seed)
        for part in PARTS:
            parts[part] += [alone[index] for index in indices[part]]
    return parts
