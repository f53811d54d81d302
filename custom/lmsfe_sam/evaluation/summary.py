"""From the results of every image to the figures of the run: what ``summary.json`` holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmsfe_sam.evaluation.comparison import Comparison, Difference, OtherRun, compare, difference
from lmsfe_sam.evaluation.metrics import COLUMNS
from lmsfe_sam.evaluation.protocol import CLICK_LIMIT, JITTER_PERCENTS, NOC_TARGETS, RIVALS
from lmsfe_sam.evaluation.results import ImageResult
from lmsfe_sam.evaluation.statistics import (
    CalibrationBin,
    Estimate,
    Resampling,
    calibration,
    calibration_error,
    rank_correlation,
)
from lmsfe_sam.evaluation.subgroups import SubgroupRow, subgroup_rows


@dataclass(frozen=True)
class RunInfo:
    """What was evaluated, and how.

    Attributes:
        dataset: the dataset's name.
        split: train, val, test or all.
        checkpoint: the weights' file; None where only controls were scored.
        checkpoint_sha256: of that file.
        network: how the network is built (preset, image size, toggles); empty without one.
        metric_size: the side in pixels at which masks were compared, or "native".
        seed: of the jittered boxes and of the bootstrap.
        bootstrap: how many samples the bootstrap drew.
        version: of this package.
    """

    dataset: str
    split: str
    checkpoint: str | None
    checkpoint_sha256: str | None
    network: dict[str, Any]
    metric_size: int | str
    seed: int
    bootstrap: int
    version: str


@dataclass(frozen=True)
class Reliability:
    """How far the network's predicted IoU can be believed, in one prompt mode.

    Attributes:
        spearman: rank correlation of predicted and actual IoU over the images; NaN where undefined.
        error: mean gap between the two in tenths of the predicted IoU, weighted by count.
        bins: those tenths.
    """

    spearman: float
    error: float
    bins: list[CalibrationBin]

    def as_json(self) -> dict[str, Any]:
        """Return one mode's part of ``reliability`` in ``summary.json``."""
        return {
            "spearman": None if np.isnan(self.spearman) else round(self.spearman, 6),
            "calibration_error": round(self.error, 6),
            "bins": [
                {
                    "predicted": round(part.predicted, 6),
                    "actual": round(part.actual, 6),
                    "n_images": part.images,
                }
                for part in self.bins
            ],
        }


@dataclass(frozen=True)
class CurveSummary:
    """The curves, averaged over the images.

    Attributes:
        jitter: the network's Dice for each of `protocol.JITTER_PERCENTS`.
        jitter_ellipse: that of the ellipse in the same boxes.
        click_dice: Dice after 1..`protocol.CLICK_LIMIT` clicks.
        click_iou: IoU after as many.
        clicks_needed: for each of `protocol.NOC_TARGETS` the mean number of clicks that reach it.
        reached: the share of images that reach it at all.
    """

    jitter: list[Estimate]
    jitter_ellipse: list[Estimate]
    click_dice: list[Estimate]
    click_iou: list[Estimate]
    clicks_needed: dict[str, Estimate]
    reached: dict[str, float]


@dataclass(frozen=True)
class Summary:
    """Every figure of a run."""

    info: RunInfo
    n_images: int
    n_groups: int
    prompts: dict[str, dict[str, Estimate]]
    gains: dict[str, dict[str, Difference]]
    reliability: dict[str, Reliability]
    overall_reliability: Reliability | None
    curves: CurveSummary | None
    subgroups: list[SubgroupRow]
    comparison: Comparison | None

    def as_json(self) -> dict[str, Any]:
        """Return the content of ``summary.json``."""
        content: dict[str, Any] = {
            "dataset": self.info.dataset,
            "split": self.info.split,
            "n_images": self.n_images,
            "checkpoint_sha256": self.info.checkpoint_sha256,
            "prompts": {mode: _as_json(columns) for mode, columns in self.prompts.items()},
            "n_groups": self.n_groups,
            **{key: value for key, value in dataclasses.asdict(self.info).items() if key not in _FIRST_KEYS},
            "gain_over_control": {
                mode: {"control": RIVALS[mode], **_as_json(columns)} for mode, columns in self.gains.items()
            },
            "reliability": {mode: own.as_json() for mode, own in self.reliability.items()},
        }
        if self.overall_reliability is not None:
            content["reliability_overall"] = self.overall_reliability.as_json()
        if self.curves is not None:
            content["curves"] = _curves_as_json(self.curves)
        if self.comparison is not None:
            content["compare"] = self.comparison.as_json()
        return content


_FIRST_KEYS = ("dataset", "split", "checkpoint_sha256")


def summarise(
    results: Sequence[ImageResult],
    groups: Sequence[str],
    labels: Sequence[Mapping[str, str]],
    info: RunInfo,
    other: OtherRun | None = None,
) -> Summary:
    """Average the results of every image.

    Args:
        results: one an image.
        groups: the bootstrap group (patient, near-duplicates) of each image.
        labels: the subgroups of each image.
        info: what was evaluated.
        other: a run to compare with.
    """
    resampling = Resampling(groups, info.seed, info.bootstrap)
    modes = list(results[0].scores)

    def column(mode: str, name: str) -> list[float]:
        return [result.scores[mode][name] for result in results]

    return Summary(
        info=info,
        n_images=len(results),
        n_groups=len(set(groups)),
        prompts={mode: {name: resampling.estimate(column(mode, name)) for name in COLUMNS} for mode in modes},
        gains={
            mode: {
                name: difference(column(mode, name), column(rival, name), name, resampling)
                for name in COLUMNS
            }
            for mode, rival in RIVALS.items()
            if mode in modes and rival in modes
        },
        reliability={
            mode: _reliability([result.predicted_iou[mode] for result in results], column(mode, "iou"))
            for mode in results[0].predicted_iou
        },
        overall_reliability=_overall_reliability(results),
        curves=_average_curves(results, resampling) if results[0].curves.click_dice else None,
        subgroups=subgroup_rows(results, groups, labels, info.seed, info.bootstrap),
        comparison=compare(results, groups, other, info.seed, info.bootstrap) if other else None,
    )


def clicks_needed(iou_after_clicks: Sequence[float], target: float) -> int | None:
    """Return how many clicks reach an IoU of ``target``; None where none of them does."""
    return next((i for i, iou in enumerate(iou_after_clicks, start=1) if iou >= target), None)


def _reliability(predicted: Sequence[float], actual: Sequence[float]) -> Reliability:
    bins = calibration(predicted, actual)
    return Reliability(rank_correlation(predicted, actual), calibration_error(bins), bins)


def _overall_reliability(results: Sequence[ImageResult]) -> Reliability | None:
    """Every answer of every mode in one, so that answers to different prompts are ranked, too."""
    predicted = [iou for result in results for iou in result.predicted_iou.values()]
    actual = [result.scores[mode]["iou"] for result in results for mode in result.predicted_iou]
    return _reliability(predicted, actual) if predicted else None


def _average_curves(results: Sequence[ImageResult], resampling: Resampling) -> CurveSummary:
    def average(rows: Sequence[Sequence[float]]) -> list[Estimate]:
        return [resampling.estimate(values) for values in zip(*rows, strict=True)]

    curves = [result.curves for result in results]
    needed = {
        name: [clicks_needed(curve.click_iou, target) for curve in curves]
        for name, target in NOC_TARGETS.items()
    }
    return CurveSummary(
        jitter=average([curve.jitter_dice for curve in curves]),
        jitter_ellipse=average([curve.jitter_ellipse_dice for curve in curves]),
        click_dice=average([curve.click_dice for curve in curves]),
        click_iou=average([curve.click_iou for curve in curves]),
        clicks_needed={
            name: resampling.estimate([CLICK_LIMIT if n is None else n for n in counts])
            for name, counts in needed.items()
        },
        reached={name: sum(n is not None for n in counts) / len(counts) for name, counts in needed.items()},
    )


def _as_json(columns: Mapping[str, Estimate] | Mapping[str, Difference]) -> dict[str, Any]:
    return {name: value.as_json() for name, value in columns.items()}


def _curves_as_json(curves: CurveSummary) -> dict[str, Any]:
    def lines(**named: list[Estimate]) -> dict[str, Any]:
        return {name: [point.as_json() for point in points] for name, points in named.items()}

    return {
        "box_jitter": {
            "percent": list(JITTER_PERCENTS),
            **lines(dice=curves.jitter, control_ellipse_dice=curves.jitter_ellipse),
        },
        "clicks": {
            "count": list(range(1, CLICK_LIMIT + 1)),
            **lines(dice=curves.click_dice, iou=curves.click_iou),
        },
        **{
            name: {**mean.as_json(), "reached": round(curves.reached[name], 6), "limit": CLICK_LIMIT}
            for name, mean in curves.clicks_needed.items()
        },
    }
