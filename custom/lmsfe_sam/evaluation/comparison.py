"""The paired comparison of this run with the ``metrics.csv`` of another one."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmsfe_sam.errors import InputError
from lmsfe_sam.evaluation.metrics import COLUMNS, HIGHER_IS_BETTER, Scores
from lmsfe_sam.evaluation.protocol import FOREIGN, is_control
from lmsfe_sam.evaluation.results import ImageResult
from lmsfe_sam.evaluation.statistics import Estimate, Resampling
from lmsfe_sam.files import check_regular

HEADER = ("image", "prompt", *COLUMNS)
"""The first line of ``metrics.csv``."""

TIE = 1e-6
"""Values closer than this are equal: files hold six decimals."""


@dataclass(frozen=True)
class Difference:
    """How one metric of this run differs from the other's, image by image.

    Attributes:
        mean: this run minus the other, with its interval.
        wins: images on which this run is better.
        losses: images on which it is worse.
        ties: images on which both are equal.
    """

    mean: Estimate
    wins: int
    losses: int
    ties: int

    def as_json(self) -> dict[str, Any]:
        """Return mean, interval and counts."""
        return {**self.mean.as_json(), "wins": self.wins, "losses": self.losses, "ties": self.ties}


@dataclass(frozen=True)
class OtherRun:
    """The scores of another run, by image and prompt mode."""

    path: Path
    scores: dict[tuple[str, str], Scores]

    @property
    def images(self) -> set[str]:
        """The images that it scored."""
        return {image for image, _ in self.scores}

    @property
    def modes(self) -> list[str]:
        """Its prompt modes, in their order."""
        return list(dict.fromkeys(mode for _, mode in self.scores))


@dataclass(frozen=True)
class Comparison:
    """This run against another one.

    Attributes:
        path: the other run's ``metrics.csv``.
        n_images: images that both scored.
        only_here: images that only this run scored.
        only_there: images that only the other scored.
        differences: by prompt mode that both have, and by column; where one run alone has masks of another
            program, they are compared with each mode of the other's network, as ``predictions minus box``.
        same_protocol: whether the controls agree, which depend on images, masks, size and seed alone;
            None where the two runs share no control.
    """

    path: Path
    n_images: int
    only_here: int
    only_there: int
    differences: dict[str, dict[str, Difference]]
    same_protocol: bool | None

    def as_json(self) -> dict[str, Any]:
        """Return what ``summary.json`` holds under "compare"."""
        return {
            "metrics_csv": str(self.path),
            "n_images": self.n_images,
            "only_here": self.only_here,
            "only_there": self.only_there,
            "same_protocol": self.same_protocol,
            "prompts": {
                mode: {column: difference.as_json() for column, difference in columns.items()}
                for mode, columns in self.differences.items()
            },
        }


def read_metrics(path: str | Path, option: str = "compare") -> OtherRun:
    """Read a ``metrics.csv``.

    Args:
        path: of the file.
        option: that named it, for the message.

    Raises:
        InputError: there is no such file, or it is no ``metrics.csv``.
    """
    file = Path(path)
    remedy = "give the metrics.csv that another run of evaluating wrote."
    if option == "runs":
        remedy = "evaluate again."
    try:
        check_regular(file)
        with file.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            if tuple(reader.fieldnames or ()) != HEADER:
                raise InputError(
                    f"{option} '{file}' does not begin with the line {','.join(HEADER)}: {remedy}"
                )
            scores = {
                (row["image"], row["prompt"]): {
                    column: math.nan if column == "hd_mm" and row[column] == "" else _figure(row[column])
                    for column in COLUMNS
                }
                for row in reader
            }
    except OSError as error:
        raise InputError(f"{option} '{file}' cannot be read ({error.strerror}): {remedy}") from error
    except (ValueError, TypeError, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{option} '{file}' holds a line that is no row of figures ({error}): {remedy}"
        ) from error
    return OtherRun(file, scores)


def _figure(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"'{text}' is no number")
    return value


def check_overlap(other: OtherRun, images: Sequence[str], modes: Sequence[str]) -> None:
    """Refuse a comparison of two runs that have nothing in common.

    Raises:
        InputError: the two runs share no image, or no prompt mode.
    """
    if not other.images & set(images):
        raise InputError(
            f"compare '{other.path}' has no image in common with this run: "
            "evaluate both on one dataset_dir and one split."
        )
    if not _pairs(modes, other.modes):
        raise InputError(
            f"compare '{other.path}' has none of the prompt modes {', '.join(modes)}: "
            "evaluate both with the same --prompt_modes."
        )


def compare(
    results: Sequence[ImageResult], groups: Sequence[str], other: OtherRun, seed: int, draws: int
) -> Comparison:
    """Compare this run with ``other`` on the images that both scored.

    Args:
        results: of this run, one an image.
        groups: the bootstrap group of each of those images.
        other: the run to compare with.
        seed: of the bootstrap.
        draws: of the bootstrap.
    """
    shared = [i for i, result in enumerate(results) if result.image in other.images]
    resampling = Resampling([groups[i] for i in shared], seed, draws)
    images = [results[i].image for i in shared]
    differences: dict[str, dict[str, Difference]] = {}
    for name, (here, there) in _pairs(list(results[0].scores), other.modes).items():
        if not all((image, there) in other.scores for image in images):
            continue
        differences[name] = {
            column: difference(
                [results[i].scores[here][column] for i in shared],
                [other.scores[image, there][column] for image in images],
                column,
                resampling,
            )
            for column in COLUMNS
        }
    controls = [differences[mode]["dice"] for mode in differences if is_control(mode)]
    return Comparison(
        path=other.path,
        n_images=len(shared),
        only_here=len(results) - len(shared),
        only_there=len(other.images) - len(shared),
        differences=differences,
        same_protocol=all(control.ties == len(shared) for control in controls) if controls else None,
    )


def _pairs(here: Sequence[str], there: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return which mode of this run is compared with which of the other one, by the name of the pair."""
    pairs = {mode: (mode, mode) for mode in here if mode in there}
    if FOREIGN in here and FOREIGN not in there:
        own = [(FOREIGN, mode) for mode in there if not is_control(mode)]
    elif FOREIGN in there and FOREIGN not in here:
        own = [(mode, FOREIGN) for mode in here if not is_control(mode)]
    else:
        own = []
    return pairs | {f"{one} minus {other}": (one, other) for one, other in own}


def difference(
    here: Sequence[float], there: Sequence[float], column: str, resampling: Resampling
) -> Difference:
    """Compare one column, image by image; images where either value is NaN are left out."""
    gaps = np.asarray(here, dtype=float) - np.asarray(there, dtype=float)
    gains = gaps if column in HIGHER_IS_BETTER else -gaps
    return Difference(
        resampling.estimate(gaps),
        wins=int((gains > TIE).sum()),
        losses=int((gains < -TIE).sum()),
        ties=int((np.abs(gaps) <= TIE).sum()),
    )
