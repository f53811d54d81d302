"""Write the tables, the summary and the masks of an evaluation."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from lmsfe_sam.evaluation.comparison import HEADER
from lmsfe_sam.evaluation.metrics import COLUMNS
from lmsfe_sam.evaluation.normal import segmented_area
from lmsfe_sam.evaluation.protocol import FOREIGN, JITTER_PERCENTS, MODES
from lmsfe_sam.evaluation.results import ImageResult
from lmsfe_sam.evaluation.summary import SubgroupRow, Summary
from lmsfe_sam.files import atomic_write, read_text, unwritable

_LIST_OF_NUMBERS = re.compile(r'\[([^\[\]{}"]+)\]')
"""Put on one line each in ``summary.json``, where an interval on four lines would hide the rest."""

SUMMARY, METRICS, NORMAL = "summary.json", "metrics.csv", "normal_images.csv"
MASKS = "masks"

TABLES = ("images.csv", "predictions.csv", "curves.csv", "subgroups.csv", "report.html")
"""What an evaluation writes beside these."""


def remove_results(folder: Path) -> None:
    """Remove an earlier evaluation's results, so that none of them stands beside another's.

    The summary goes first, as it says that all the rest is there, and the tables that name the masks last.
    Other files are left alone.

    Raises:
        InputError: a file cannot be removed.
    """
    noted = [mask_path(folder, mode, image) for image, mode in _scored(folder)]
    for file in (folder / SUMMARY, *noted, *(folder / name for name in (*TABLES, NORMAL, METRICS))):
        try:
            if os.path.lexists(file):  # a name that the system cannot have is not there
                file.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(file, error) from error


def mask_path(folder: Path, mode: str, image: str) -> Path:
    """Return where the mask of an image and prompt mode is in the folder of an evaluation."""
    parts = _inside(image)
    return folder.joinpath(MASKS, mode, *parts[:-1], parts[-1] + ".png")


def _inside(image: str) -> list[str]:
    """A name that points out of the dataset must not point out of the output folder."""
    return [part for part in PurePosixPath(image).with_suffix("").parts if part not in ("..", "/")]


def _scored(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield image and mode of each mask that the tables of an evaluation name."""
    for name in (METRICS, NORMAL):
        try:
            rows = [*csv.DictReader(io.StringIO(read_text(folder / name)))]
            pairs = [(row["image"], row["prompt"]) for row in rows]
            yield from (pair for pair in pairs if pair[1] in (*MODES, FOREIGN) and _inside(pair[0]))
        except (OSError, ValueError, KeyError, TypeError, csv.Error):  # none, or not one of ours
            continue


def write_metrics(results: Sequence[ImageResult], path: Path) -> None:
    """Write ``metrics.csv``: a row for each image and prompt mode."""
    _write_csv(
        path,
        HEADER,
        (
            (result.image, mode, *(_number(scores[column]) for column in COLUMNS))
            for result in results
            for mode, scores in result.scores.items()
        ),
    )


def write_predictions(results: Sequence[ImageResult], path: Path) -> None:
    """Write ``predictions.csv``: the predicted IoU of each mask, and its prompt.

    A box is ``x0 y0 x1 y1``, clicks are ``x y label`` with semicolons between them, both in pixels of
    the mask at ``metric_size``.
    """
    header = ("image", "prompt", "predicted_iou", "iou", "box", "clicks")
    rows = []
    for result in results:
        for mode, prompt in result.prompts.items():
            predicted = result.predicted_iou.get(mode, math.nan)
            box = " ".join(f"{side:.3f}" for side in prompt.box or ())
            placed = zip(prompt.points, prompt.labels, strict=True)
            clicks = ";".join(f"{x:g} {y:g} {label}" for (x, y), label in placed)
            rows.append(
                (result.image, mode, _number(predicted), _number(result.scores[mode]["iou"]), box, clicks)
            )
    _write_csv(path, header, rows)


def write_images(results: Sequence[ImageResult], groups: Sequence[str], path: Path) -> None:
    """Write ``images.csv``: the group of each image, whole ones of which the bootstrap draws."""
    _write_csv(path, ("image", "group"), zip((result.image for result in results), groups, strict=True))


def write_normal(results: Sequence[ImageResult], path: Path) -> None:
    """Write ``normal_images.csv``: how much of each normal image is segmented, and the predicted IoU."""
    rows = (
        (
            result.image,
            mode,
            _number(segmented_area(result, mode)),
            _number(result.predicted_iou.get(mode, math.nan)),
        )
        for result in results
        for mode in result.masks
    )
    _write_csv(path, ("image", "prompt", "area", "predicted_iou"), rows)


def write_curves(results: Sequence[ImageResult], path: Path) -> None:
    """Write ``curves.csv``: Dice and IoU of each image at each point of the curves.

    ``curve`` is box_jitter, control_ellipse_jitter (``x`` in per cent) or clicks (``x`` counts them); IoU
    is given for clicks alone.
    """
    rows: list[tuple[Any, ...]] = []
    for result in results:
        curves = result.curves
        for name, values in (
            ("box_jitter", curves.jitter_dice),
            ("control_ellipse_jitter", curves.jitter_ellipse_dice),
        ):
            rows += [
                (result.image, name, percent, _number(dice), "")
                for percent, dice in zip(JITTER_PERCENTS, values, strict=True)
            ]
        rows += [
            (result.image, "clicks", count, _number(dice), _number(iou))
            for count, (dice, iou) in enumerate(
                zip(curves.click_dice, curves.click_iou, strict=True), start=1
            )
        ]
    _write_csv(path, ("image", "curve", "x", "dice", "iou"), rows)


def write_subgroups(rows: Sequence[SubgroupRow], path: Path) -> None:
    """Write ``subgroups.csv``: the means of each subgroup in each prompt mode, and Dice's interval."""
    header = ("subgroup", "value", "prompt", "n_images", *COLUMNS, "dice_low", "dice_high")
    _write_csv(
        path,
        header,
        (
            (
                row.subgroup,
                row.value,
                row.prompt,
                row.n_images,
                *(_number(row.estimates[column].mean) for column in COLUMNS),
                _number(row.estimates["dice"].low),
                _number(row.estimates["dice"].high),
            )
            for row in rows
        ),
    )


def write_summary(summary: Summary, path: Path) -> None:
    """Write ``summary.json``."""
    with atomic_write(path) as temporary:
        text = json.dumps(summary.as_json(), indent=2, ensure_ascii=False, allow_nan=False)
        text = _LIST_OF_NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)
        temporary.write_text(text + "\n", encoding="utf-8")


def write_masks(results: Sequence[ImageResult], folder: Path) -> None:
    """Write each prediction of the network into the folder of an evaluation, 0 and 255, as it was scored."""
    for result in results:
        for mode, mask in result.masks.items():
            with atomic_write(mask_path(folder, mode, result.image)) as temporary:
                Image.fromarray(mask.unpack().astype(np.uint8) * 255).save(temporary)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}"
