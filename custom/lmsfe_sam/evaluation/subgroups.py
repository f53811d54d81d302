"""Results by subgroup: what the dataset knows of an image, and the lesion's size in tertiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lmsfe_sam.evaluation.metrics import COLUMNS
from lmsfe_sam.evaluation.results import ImageResult
from lmsfe_sam.evaluation.statistics import Estimate, Resampling

SIZES = ("small", "medium", "large")
LARGEST_NUMBER = 12
"""A kind of subgroup with more values than this is a name of each image rather than a subgroup."""


@dataclass(frozen=True)
class SubgroupRow:
    """The figures of one prompt mode on one subgroup.

    Attributes:
        subgroup: what the images are told apart by, such as "class" or "lesion_size".
        value: which of them these are, such as "benign" or "small".
        prompt: the prompt mode.
        n_images: how many.
        estimates: mean and interval of each column of ``metrics.csv``.
    """

    subgroup: str
    value: str
    prompt: str
    n_images: int
    estimates: dict[str, Estimate]


def subgroup_rows(
    results: Sequence[ImageResult],
    groups: Sequence[str],
    labels: Sequence[Mapping[str, str]],
    seed: int,
    draws: int,
) -> list[SubgroupRow]:
    """Score each subgroup in each prompt mode.

    Args:
        results: one an image.
        groups: the bootstrap group of each image.
        labels: what the dataset knows of each image, such as ``{"class": "benign", "device": "GE"}``.
        seed: of the bootstrap.
        draws: of the bootstrap.
    """
    sizes = size_tertiles([result.lesion_share for result in results])
    known = [
        {"lesion_size": size, **own} if size else dict(own) for size, own in zip(sizes, labels, strict=True)
    ]
    rows = []
    for subgroup in sorted({kind for own in known for kind in own}):
        values = {own[subgroup] for own in known if subgroup in own}
        if not 2 <= len(values) <= LARGEST_NUMBER:
            continue
        for value in sorted(values, key=_place):
            members = [i for i, own in enumerate(known) if own.get(subgroup) == value]
            resampling = Resampling([groups[i] for i in members], seed, draws)
            for prompt in results[0].scores:
                estimates = {
                    column: resampling.estimate([results[i].scores[prompt][column] for i in members])
                    for column in COLUMNS
                }
                rows.append(SubgroupRow(subgroup, value, prompt, len(members), estimates))
    return rows


def size_tertiles(shares: Sequence[float]) -> list[str]:
    """Name each lesion small, medium or large by the tertiles of ``shares``; "" where all are alike."""
    low, high = np.quantile(shares, [1 / 3, 2 / 3])
    if low == high:
        return [""] * len(shares)
    return [SIZES[int(share > low) + int(share > high)] for share in shares]


def _place(value: str) -> tuple[int, str]:
    return (SIZES.index(value) if value in SIZES else len(SIZES), value)
