"""False positives: what is segmented on normal images, which have no lesion and no Dice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmsfe_sam.evaluation.results import ImageResult
from lmsfe_sam.evaluation.statistics import Estimate, Resampling


@dataclass(frozen=True)
class FalsePositives:
    """What one prompt mode segments on the normal images.

    Attributes:
        n_images: how many there are.
        share: of the images on which anything is segmented.
        area: mean share of the picture that is segmented, 0 where nothing is.
    """

    n_images: int
    share: Estimate
    area: Estimate

    def as_json(self) -> dict[str, Any]:
        """Return one mode's part of ``normal_images`` in ``summary.json``."""
        return {
            "n_images": self.n_images,
            "false_positives": self.share.as_json(),
            "mean_area": self.area.as_json(),
        }


def false_positives(
    results: Sequence[ImageResult], groups: Sequence[str], seed: int, draws: int
) -> dict[str, FalsePositives]:
    """Return the false positives of each mode that segmented the normal images.

    Args:
        results: one for each normal image.
        groups: the bootstrap group of each.
        seed: of the bootstrap.
        draws: of the bootstrap.
    """
    if not results:
        return {}
    resampling = Resampling(groups, seed, draws)
    areas = {mode: [segmented_area(result, mode) for result in results] for mode in results[0].masks}
    return {
        mode: FalsePositives(
            len(own), resampling.estimate([float(area > 0) for area in own]), resampling.estimate(own)
        )
        for mode, own in areas.items()
    }


def segmented_area(result: ImageResult, mode: str) -> float:
    """Return the share of a picture that one mode segments."""
    return float(result.masks[mode].unpack().mean())
