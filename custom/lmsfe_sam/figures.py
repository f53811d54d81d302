"""Figures like the paper's 5 to 7: images x methods, with the outlines of truth and prediction.

``python -m lmsfe_sam.figures --runs runs/a/evaluation runs/b/evaluation --dataset_dir DIR --output a.png``

matplotlib draws them (``pip install -e ".[figures]"``). They show images of patients where the data do:
publish them only where the data may be published.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lmsfe_sam.data.combined import find_records
from lmsfe_sam.data.masks.reading import resize_mask
from lmsfe_sam.data.transforms.loading import load_image_and_mask
from lmsfe_sam.errors import InputError, plain_errors
from lmsfe_sam.evaluation.report.formatting import title
from lmsfe_sam.evaluation.report.runs import EvaluatedRun, check_same_split, read_run
from lmsfe_sam.evaluation.report.writing import mask_path
from lmsfe_sam.files import atomic_write, named_path, remove_leftovers_of
from lmsfe_sam.tables import PROMPTS, name_of

ENDINGS = (".png", ".pdf")
TRUTH, PREDICTION = "#2ca02c", "#ffb000"
"""Green for the truth and amber for the prediction, as in the report."""

CELL = 1.8
"""Side of a picture in inches."""


def draw(
    runs: Sequence[EvaluatedRun],
    records: Mapping[str, Mapping[str, Any]],
    images: Sequence[str],
    prompts: Sequence[str] = PROMPTS,
) -> Any:
    """Return a matplotlib figure with a row for each image, and columns for the image and each method.

    Args:
        runs: evaluations of the same images, with their masks.
        records: of the data set's images, by name.
        images: names of those to show.
        prompts: modes; of each run the first that it has is shown.

    Raises:
        InputError: a run has no masks, or an image is not among the data.
    """
    from matplotlib.figure import Figure

    columns = [(run, _mode(run, prompts)) for run in runs]
    figure = Figure(figsize=(CELL * (1 + len(columns)), CELL * len(images) + 0.5), layout="constrained")
    grid = figure.subplots(len(images), 1 + len(columns), squeeze=False)
    for row, name in zip(grid, images, strict=True):
        if name not in records:
            raise InputError(
                f"the image '{name}' is not in the data: give those that were evaluated with --dataset_dir."
            )
        picture, truth = load_image_and_mask(records[name])
        size = (picture.shape[0], picture.shape[1])
        for axes, (run, mode) in zip(row[1:], columns, strict=True):
            prediction = resize_mask(_mask(run, mode, name), size)
            _show(axes, picture)
            _outline(axes, truth > 0, TRUTH)
            _outline(axes, prediction, PREDICTION)
            axes.set_xlabel(f"Dice {run.scores[name, mode]['dice']:.3f}", fontsize=7)
        _show(row[0], picture)
        row[0].set_ylabel(PurePosixPath(name).stem, fontsize=7, parse_math=False)
    grid[0, 0].set_title("image", fontsize=8)
    for axes, (run, mode) in zip(grid[0, 1:], columns, strict=True):
        # A name with two dollar signs is no formula.
        axes.set_title(f"{name_of(run, mode)}\n{title(mode)}", fontsize=8, parse_math=False)
    return figure


def choose_images(run: EvaluatedRun, mode: str, count: int) -> list[str]:
    """Return ``count`` images, from the best of a run to its worst, at equal steps of the ranking."""
    ranked = sorted(run.images, key=lambda image: (-run.scores[image, mode]["dice"], image))
    indices = np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int)
    return [ranked[index] for index in indices]


def _mode(run: EvaluatedRun, prompts: Sequence[str]) -> str:
    for mode in prompts:
        if mode in run.modes:
            return mode
    raise InputError(
        f"runs names '{run.folder}', which has none of the modes {', '.join(prompts)}: name one of "
        f"{', '.join(run.modes) or 'those of a network'} with --prompts."
    )


def _mask(run: EvaluatedRun, mode: str, name: str) -> NDArray[np.bool_]:
    file = mask_path(run.folder, mode, name)
    try:
        with Image.open(file) as picture:
            return np.asarray(picture) > 0
    except OSError as error:
        raise InputError(
            f"runs names '{run.folder}', which lacks the mask '{file.relative_to(run.folder)}': "
            "evaluate again with --save_masks True."
        ) from error


def _show(axes: Any, picture: NDArray[np.uint8]) -> None:
    axes.imshow(picture)
    axes.set_xticks([])
    axes.set_yticks([])


def _outline(axes: Any, mask: NDArray[np.bool_], colour: str) -> None:
    if mask.any():
        # Padded, so that an object at the image's edge has an outline there, too.
        height, width = mask.shape
        x, y = np.arange(-1, width + 1), np.arange(-1, height + 1)
        axes.contour(x, y, np.pad(mask, 1).astype(float), [0.5], colors=colour, linewidths=1.0)
        axes.set_xlim(-0.5, width - 0.5)
        axes.set_ylim(height - 0.5, -0.5)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the figure of some evaluations into a file."""
    parser = argparse.ArgumentParser(
        prog="python -m lmsfe_sam.figures", description="Draw images x methods with their outlines."
    )
    parser.add_argument("--runs", nargs="+", required=True, help="output folders of run evaluating")
    parser.add_argument("--dataset_dir", help="data that was evaluated, or its datalist.json; else phantoms")
    parser.add_argument("--phantoms", type=int, default=120, help="number of phantoms, without dataset_dir")
    parser.add_argument("--seed", type=int, default=0, help="of the phantoms")
    parser.add_argument("--images", nargs="+", help="names of images, as in metrics.csv")
    parser.add_argument("--count", type=int, default=6, help="images, best to worst, if none are named")
    parser.add_argument("--prompts", nargs="+", default=list(PROMPTS), help="prompt modes, the first first")
    parser.add_argument("--output", type=named_path, nargs="+", required=True, help="files, .png or .pdf")
    options = parser.parse_args(arguments)
    for file in options.output:
        if file.suffix not in ENDINGS:
            raise InputError(f"output '{file}' is no figure: give a name that ends in .png or .pdf.")
    if find_spec("matplotlib") is None:
        raise InputError("matplotlib draws the figures and is missing: run pip install 'lmsfe-sam[figures]'.")
    if options.count < 1:
        raise InputError(f"count is {options.count}: give 1 or more.")
    remove_leftovers_of(*options.output)
    runs = [read_run(path) for path in options.runs]
    check_same_split(runs)
    for run in runs:
        if run.one_by_one:
            raise InputError(
                f"runs names '{run.folder}', which scored objects one by one, but a figure shows all "
                "objects of an image: evaluate with --objects union."
            )
    found = find_records(options.dataset_dir, "auto", "group", options.seed, options.phantoms)
    records = {str(record["name"]): record for record in found.select("all")}
    images = options.images or choose_images(runs[0], _mode(runs[0], options.prompts), options.count)
    unknown = sorted(set(images) - set(runs[0].images))
    if unknown:
        raise InputError(f"images names '{unknown[0]}', which the runs did not evaluate: see metrics.csv.")
    figure = draw(runs, records, images, options.prompts)
    for file in options.output:
        with atomic_write(file) as temporary:
            figure.savefig(temporary, format=file.suffix[1:], dpi=200)


if __name__ == "__main__":
    plain_errors()
    main()
