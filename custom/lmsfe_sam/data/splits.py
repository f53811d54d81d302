"""Dividing images into training, validation and test parts, whole groups at a time.

A group is a patient, a video, or pictures that are near-duplicates of each other: what must not
lie on both sides. The division depends on the seed and on the groups' names alone.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

PARTS = ("train", "val", "test")

PAPER_COUNTS = {"busi": (518, 129), "tn3k": (2795, 699), "tg3k": (3585, 0), "ddti": (0, 637)}
"""Training and test images by data set: table 1 of the paper."""


def divide(
    groups: Sequence[str], strata: Sequence[str], wanted: Mapping[str, int], seed: int
) -> dict[str, list[int]]:
    """Divide images into parts so that no group lies in two of them.

    Groups are taken in an order drawn from the seed; each stratum (a class, say) gives every part
    its share as nearly as whole groups allow. A group larger than what is left of a part goes to
    training. A part that is wanted gets at least one group while another is left for training, and
    training is empty only where the other parts want every image.

    Args:
        groups: the group of each image.
        strata: the stratum of each image; a group over several counts as a stratum of its own.
        wanted: how many images go to "val" and "test"; the rest is "train".
        seed: whole number.

    Returns:
        The indices of the images in each part, "train", "val" and "test", ascending.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    stratum = {
        group: "+".join(sorted({strata[index] for index in indices})) for group, indices in members.items()
    }
    free = sorted(members, key=lambda group: hashlib.sha256(f"{seed}/{group}".encode()).digest())
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    for part in ("val", "test"):
        taken = _take(free, {group: len(members[group]) for group in free}, stratum, wanted.get(part, 0))
        if len(taken) == len(free) and sum(wanted.values()) < len(groups):
            taken.discard(max(taken, key=lambda group: (len(members[group]), group)))
        parts[part] = sorted(index for group in taken for index in members[group])
        free = [group for group in free if group not in taken]
    parts["train"] = sorted(index for group in free for index in members[group])
    return parts


def _take(free: Sequence[str], size: Mapping[str, int], stratum: Mapping[str, str], count: int) -> set[str]:
    """Choose groups of ``count`` images in all, spread over the strata by their numbers of images."""
    images = Counter[str]()
    for group in free:
        images[stratum[group]] += size[group]
    room = _shares(images, count)
    taken: set[str] = set()
    for group in free:
        if size[group] <= room[stratum[group]]:
            room[stratum[group]] -= size[group]
            taken.add(group)
    left = count - sum(size[group] for group in taken)
    for group in free:  # what whole groups left over in each stratum, from any
        if group not in taken and size[group] <= left:
            left -= size[group]
            taken.add(group)
    if count > 0 and not taken and len(free) > 1:
        taken.add(min(free, key=lambda group: size[group]))
    return taken


def _shares(images: Mapping[str, int], count: int) -> dict[str, int]:
    """Divide ``count`` among strata in proportion to their images, by largest remainder."""
    total = sum(images.values())
    if total == 0:
        return {}
    exact = {stratum: min(count, total) * number / total for stratum, number in images.items()}
    shares = {stratum: int(value) for stratum, value in exact.items()}
    by_remainder = sorted(exact, key=lambda stratum: (shares[stratum] - exact[stratum], stratum))
    for stratum in by_remainder[: min(count, total) - sum(shares.values())]:
        shares[stratum] += 1
    return shares


def counts_by_fraction(images: int, validation: float, test: float) -> dict[str, int]:
    """Turn fractions into numbers of images: at least one where above zero, and one left for training."""
    val = min(max(1, round(validation * images)), images - 1) if validation > 0 else 0
    return {"val": val, "test": min(max(1, round(test * images)), images - 1 - val) if test > 0 else 0}


def paper_test_count(name: str, images: int) -> int:
    """How many of ``images`` go to the test part by the paper's counts, or in their proportion."""
    train, test = PAPER_COUNTS[name]
    return test if images == train + test else round(images * test / (train + test))
