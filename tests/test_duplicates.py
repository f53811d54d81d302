"""Near-duplicates are found, and different pictures are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_folders import save, speckle
from lmsfe_sam.data.duplicates import Pair, compare, find_pairs, groups_of, thumbnails
from lmsfe_sam.data.layouts.registry import LAYOUTS

SIZE = (240, 300)


def _changed(picture: np.ndarray, how: str) -> np.ndarray:
    pixels = picture.astype(float)
    if how == "calipers":
        pixels[100:103, 60:90] = pixels[85:118, 73:76] = 255
    elif how == "gain":
        pixels = pixels * np.linspace(0.6, 1.1, SIZE[0])[:, None] + 10
    elif how == "cropped":
        pixels = pixels[6:-4, 5:-6]
    elif how == "shifted":
        pixels = np.roll(pixels, (4, -5), (0, 1))
    elif how == "text":
        pixels[220:232, 20:90:3] = 255
    return np.uint8(np.clip(pixels, 0, 255))


@pytest.mark.parametrize("how", ["same", "calipers", "gain", "cropped", "shifted", "text"])
def test_a_changed_copy_is_found(tmp_path: Path, how: str) -> None:
    others = [save(tmp_path / f"{seed}.png", speckle(seed, SIZE)) for seed in range(5)]
    copy = save(tmp_path / f"copy.{'jpg' if how == 'same' else 'png'}", _changed(speckle(3, SIZE), how))
    pairs = find_pairs([*others, copy])
    assert [(pair.first, pair.second) for pair in pairs] == [(3, 5)]
    assert 0.55 < pairs[0].similarity <= 1.0001


def test_the_most_alike_come_first_and_order_does_not_matter(tmp_path: Path) -> None:
    base = speckle(1, SIZE)
    paths = [
        save(tmp_path / "a.png", base),
        save(tmp_path / "b.png", _changed(base, "shifted")),
        save(tmp_path / "c.png", base),
    ]
    pairs = find_pairs(paths)
    assert (pairs[0].first, pairs[0].second) == (0, 2)
    reverse = find_pairs(paths[::-1])
    assert {frozenset((2 - pair.first, 2 - pair.second)) for pair in reverse} == {
        frozenset((pair.first, pair.second)) for pair in pairs
    }


def test_one_scanners_frame_and_text_make_no_duplicates() -> None:
    """A frame, a bar and letters, alike on every picture, and a different scene inside."""
    pictures = np.array([speckle(seed, (32, 32)) for seed in range(12)], dtype=np.float32)
    pictures[:, :5] = pictures[:, -5:] = pictures[:, :, :5] = pictures[:, :, -5:] = 0
    pictures[:, 1:4, 3:30:2] = 255
    pictures[:, 8:20, 2] = 200
    assert compare(pictures) == []


def test_many_pictures_are_compared_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = np.array([speckle(seed % 7, (32, 32)) for seed in range(20)], dtype=np.float32)
    whole = compare(pictures)
    assert {(pair.first % 7, pair.second % 7) for pair in whole} == {(k, k) for k in range(7)}
    monkeypatch.setattr("lmsfe_sam.data.duplicates._ROWS_AT_ONCE", 3)
    assert [pair[:2] for pair in compare(pictures)] == [pair[:2] for pair in whole]


def test_flat_and_unreadable_pictures_are_like_nothing(tmp_path: Path) -> None:
    flat = [save(tmp_path / f"{k}.png", np.full((20, 20), 80, np.uint8)) for k in range(2)]
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    assert thumbnails([*flat, broken, broken]).shape == (4, 32, 32)
    assert find_pairs([*flat, broken, broken]) == []
    assert find_pairs([]) == find_pairs(flat[:1]) == []


def test_groups_join_neighbours_of_neighbours_under_the_least_name() -> None:
    pairs = [Pair(1, 3, 0.9), Pair(3, 4, 0.8)]
    assert groups_of(["e", "d", "c", "b", "a"], pairs) == ["e", "a", "c", "a", "a"]
    assert groups_of([], []) == []
    assert groups_of(["x", "y"], []) == ["x", "y"]


def test_busi_has_its_known_pairs(shared_data: Path) -> None:
    records = LAYOUTS["busi"].find(shared_data / "busi" / "Dataset_BUSI_with_GT").records
    pairs = find_pairs([record["image"] for record in records])
    assert 145 <= len(pairs) <= 165
    classes = [record["subgroup"]["class"] for record in records]
    across = [pair for pair in pairs if classes[pair.first] != classes[pair.second]]
    assert across
    # Each of these is one picture saved under two names.
    names = {frozenset((records[pair.first]["name"], records[pair.second]["name"])) for pair in pairs}
    for first, second in (("benign (151)", "benign (16)"), ("benign (220)", "benign (271)")):
        assert frozenset((f"benign/{first}.png", f"benign/{second}.png")) in names


def test_no_pair_of_two_patients_in_busbra(shared_data: Path) -> None:
    records = LAYOUTS["busbra"].find(shared_data / "busbra").records
    pairs = find_pairs([record["image"] for record in records])
    assert all(records[pair.first]["group"] == records[pair.second]["group"] for pair in pairs)
