"""Whole groups, the wanted counts, and nothing but seed and names."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsfe_sam.data.splits import PARTS, counts_by_fraction, divide, paper_test_count

IMAGES = st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abc")), min_size=1, max_size=80)


@given(IMAGES, st.integers(0, 30), st.integers(0, 30), st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_every_image_once_and_every_group_whole(
    images: list[tuple[int, str]], val: int, test: int, seed: int
) -> None:
    groups = [f"g{group}" for group, _ in images]
    parts = divide(groups, [stratum for _, stratum in images], {"val": val, "test": test}, seed)
    assert set(parts) == set(PARTS)
    assert sorted(place for part in PARTS for place in parts[part]) == list(range(len(images)))
    sides = [{groups[place] for place in parts[part]} for part in PARTS]
    assert sum(map(len, sides)) == len(set(groups))
    if val + test < len(images):
        assert parts["train"]
    if val and len(set(groups)) > 1:
        assert parts["val"]
    if test and len(set(groups)) - len(sides[1]) > 1:
        assert parts["test"]
    sizes = Counter(groups)
    for part, count in (("val", val), ("test", test)):
        # Only a part that nothing fits gets more than it wants: the smallest group.
        assert len(parts[part]) <= max(count, min(sizes[groups[place]] for place in parts[part] or [0]))


@given(IMAGES, st.integers(0, 20), st.randoms())
@settings(max_examples=80, deadline=None)
def test_the_order_of_the_files_does_not_matter(
    images: list[tuple[int, str]], count: int, random: object
) -> None:
    def by_part(order: list[int]) -> dict[str, set[int]]:
        groups = [f"g{images[place][0]}" for place in order]
        parts = divide(groups, [images[place][1] for place in order], {"val": count, "test": count}, 0)
        return {part: {order[place] for place in parts[part]} for part in PARTS}

    order = list(range(len(images)))
    shuffled = order.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert by_part(order) == by_part(shuffled)


def test_the_seed_matters() -> None:
    groups = [str(k) for k in range(40)]
    parts = [divide(groups, [""] * 40, {"test": 10}, seed)["test"] for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]


def test_strata_are_divided_in_proportion() -> None:
    strata = ["a"] * 60 + ["b"] * 40
    parts = divide([str(k) for k in range(100)], strata, {"val": 10, "test": 20}, 3)
    for part, number in (("val", 10), ("test", 20)):
        counts = Counter(strata[place] for place in parts[part])
        assert counts == {"a": 0.6 * number, "b": 0.4 * number}


@pytest.mark.parametrize("seed", range(3))
def test_busis_counts_with_groups_like_busis(seed: int) -> None:
    """647 images, 437 benign and 210 malignant, with pairs, triples and a group of seven."""
    sizes = [2] * 76 + [3] * 13 + [7, 7, 4, 5] + [1] * (647 - 152 - 39 - 23)
    groups = [f"g{k}" for k in np.repeat(np.arange(len(sizes)), sizes)]
    strata = ["benign"] * 437 + ["malignant"] * 210
    parts = divide(groups, strata, {"test": paper_test_count("busi", 647)}, seed)
    assert (len(parts["train"]), len(parts["val"]), len(parts["test"])) == (518, 0, 129)
    assert abs(sum(strata[place] == "malignant" for place in parts["test"]) - 42) <= 3


def test_a_group_larger_than_its_part() -> None:
    groups = ["a"] * 4 + ["b"] * 4 + ["c"] * 5
    parts = divide(groups, [""] * 13, {"val": 1, "test": 2}, 0)
    assert sorted(len(parts[part]) for part in PARTS) == [4, 4, 5]


def test_one_group_is_for_training() -> None:
    parts = divide(["a"] * 5, [""] * 5, {"val": 2, "test": 2}, 0)
    assert parts == {"train": [0, 1, 2, 3, 4], "val": [], "test": []}


@pytest.mark.parametrize(
    ("name", "images", "test"),
    [
        ("busi", 647, 129),
        ("busi", 518, 103),
        ("tn3k", 3494, 699),
        ("tn3k", 3493, 699),
        ("tg3k", 3585, 0),
        ("ddti", 637, 637),
        ("ddti", 245, 245),
    ],
)
def test_the_papers_counts(name: str, images: int, test: int) -> None:
    assert paper_test_count(name, images) == test


def test_fractions_ask_for_one_image_at_least() -> None:
    assert counts_by_fraction(100, 0.1, 0.25) == {"val": 10, "test": 25}
    assert counts_by_fraction(3, 0.1, 0.0) == {"val": 1, "test": 0}
    assert counts_by_fraction(2, 0.1, 0.2) == {"val": 1, "test": 0}
    assert counts_by_fraction(1, 0.1, 0.2) == {"val": 0, "test": 0}
