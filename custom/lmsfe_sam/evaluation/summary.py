"""From the scores of every image to the means of the run and its subgroups, for ``summary.json``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lmsfe_sam.evaluation.comparison import Comparison, Difference, OtherRun, compare, difference
from lmsfe_sam.evaluation.metrics import COLUMNS
from lmsfe_sam.evaluation.normal import FalsePositives
from lmsfe_sam.evaluation.protocol import CLICK_LIMIT, JITTER_PERCENTS, MATCHED_CONTROLS, NOC_TARGETS
from lmsfe_sam.evaluation.results import ImageResult
from lmsfe_sam.evaluation.statistics import (
    CalibrationBin,
    Estimate,
    Flagged,
    Resampling,
    calibration,
    calibration_error,
    flagged,
    rank_correlation,
)

SIZES = ("small", "medium", "large")
MAX_SUBGROUPS = 12
"""A label with more values than this names each image rather than a subgroup."""


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
        training: what training wrote of its machine time beside the checkpoint, or None.
        predictions: folder of masks that another program made, or None.
        objects: what the objects of an image are, one rule or one for each data set.
        preprocessing: ours, or authors: how images were brought to the network's input.
        multimask: which of its masks a network with several gave, else None.
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
    training: dict[str, Any] | None = None
    predictions: str | None = None
    objects: str | list[str] = "union"
    preprocessing: str = "ours"
    multimask: str | None = None


@dataclass(frozen=True)
class Reliability:
    """How well the network's predicted IoU agrees with the actual one, in one prompt mode.

    Attributes:
        spearman: rank correlation of predicted and actual IoU over the images; NaN where undefined.
        error: mean gap between the two in tenths of the predicted IoU, weighted by count.
        flagged: how many of the worst tenth of the images are among the fifth with the lowest predicted IoU.
        bins: those tenths.
    """

    spearman: float
    error: float
    flagged: Flagged
    bins: list[CalibrationBin]

    def as_json(self) -> dict[str, Any]:
        """Return one mode's part of ``reliability`` in ``summary.json``."""
        return {
            "spearman": None if np.isnan(self.spearman) else round(self.spearman, 6),
            "calibration_error": round(self.error, 6),
            "flagged": self.flagged._asdict(),
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
class SubgroupRow:
    """The metrics of one prompt mode on one subgroup.

    Attributes:
        subgroup: the label that groups the images, such as "class" or "lesion_size".
        value: the value of that label, such as "benign" or "small".
        prompt: the prompt mode.
        n_images: how many.
        estimates: mean and interval of each column of ``metrics.csv``.
    """

    subgroup: str
    value: str
    prompt: str
    n_images: int
    estimates: dict[str, Estimate]


@dataclass(frozen=True)
class Summary:
    """Every mean of a run."""

    info: RunInfo
    n_images: int
    n_groups: int
    prompts: dict[str, dict[str, Estimate]]
    gains: dict[str, dict[str, Difference]]
    reliability: dict[str, Reliability]
    overall_reliability: Reliability | None
    curves: CurveSummary | None
    subgroups: list[SubgroupRow]
    comparisons: list[Comparison]
    normal: dict[str, FalsePositives] = field(default_factory=dict)

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
                mode: {"control": MATCHED_CONTROLS[mode], **_as_json(columns)}
                for mode, columns in self.gains.items()
            },
            "reliability": {mode: own.as_json() for mode, own in self.reliability.items()},
        }
        if self.overall_reliability is not None:
            content["reliability_overall"] = self.overall_reliability.as_json()
        if self.curves is not None:
            content["curves"] = _curves_as_json(self.curves)
        if self.normal:
            content["normal_images"] = {mode: own.as_json() for mode, own in self.normal.items()}
        if self.comparisons:
            compared = [comparison.as_json() for comparison in self.comparisons]
            content["compare"] = compared[0] if len(compared) == 1 else compared
        return content


_FIRST_KEYS = ("dataset", "split", "checkpoint_sha256")


def summarise(
    results: Sequence[ImageResult],
    groups: Sequence[str],
    labels: Sequence[Mapping[str, str]],
    info: RunInfo,
    others: Sequence[OtherRun] = (),
    normal: Mapping[str, FalsePositives] | None = None,
) -> Summary:
    """Average the results of every image.

    Args:
        results: one an image.
        groups: the bootstrap group (patient, near-duplicates) of each image.
        labels: the subgroups of each image.
        info: what was evaluated.
        others: runs to compare with.
        normal: what each mode segments on normal images.
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
                name: difference(column(mode, name), column(control, name), name, resampling)
                for name in COLUMNS
            }
            for mode, control in MATCHED_CONTROLS.items()
            if mode in modes and control in modes
        },
        reliability={
            mode: _reliability([result.predicted_iou[mode] for result in results], column(mode, "iou"))
            for mode in results[0].predicted_iou
        },
        overall_reliability=_overall_reliability(results),
        curves=_average_curves(results, resampling) if results[0].curves.click_dice else None,
        subgroups=subgroup_rows(results, groups, labels, info.seed, info.bootstrap),
        comparisons=[compare(results, groups, other, info.seed, info.bootstrap) for other in others],
        normal=dict(normal or {}),
    )


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
        if not 2 <= len(values) <= MAX_SUBGROUPS:
            continue
        for value in sorted(values, key=_order):
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
    """Name each lesion small, medium or large by the tertiles of ``shares``; "" where all are equal."""
    low, high = np.quantile(shares, [1 / 3, 2 / 3])
    if low == high:
        return [""] * len(shares)
    return [SIZES[int(share > low) + int(share > high)] for share in shares]


def clicks_needed(iou_after_clicks: Sequence[float], target: float) -> int | None:
    """Return how many clicks reach an IoU of ``target``; None where none of them does."""
    return next((i for i, iou in enumerate(iou_after_clicks, start=1) if iou >= target), None)


def _reliability(predicted: Sequence[float], actual: Sequence[float]) -> Reliability:
    bins = calibration(predicted, actual)
    return Reliability(
        spearman=rank_correlation(predicted, actual),
        error=calibration_error(bins),
        flagged=flagged(predicted, actual),
        bins=bins,
    )


def _overall_reliability(results: Sequence[ImageResult]) -> Reliability | None:
    """All predictions of all modes together, so that predictions from different prompts are ranked, too."""
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


def _order(value: str) -> tuple[int, str]:
    return (SIZES.index(value) if value in SIZES else len(SIZES), value)
