"""Finished evaluations, read back from their folders to be put side by side."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lmsfe_sam.errors import InputError
from lmsfe_sam.evaluation.comparison import TIE, read_metrics
from lmsfe_sam.evaluation.metrics import Scores
from lmsfe_sam.evaluation.protocol import MATCHED_CONTROLS, is_control
from lmsfe_sam.evaluation.statistics import Estimate, Resampling
from lmsfe_sam.files import read_text

MODELS = {
    "unet": "U-Net",
    "uctransnet": "UCTransNet",
    "transresunet": "TransResUNet",
    "ukan": "U-KAN",
    "ukan_large": "U-KAN large",
    "sam": "SAM",
    "edgesam": "EdgeSAM",
    "medsam": "MedSAM",
    "sam_med2d": "SAM-Med2D",
}
"""Titles of the baselines."""


class Network(BaseModel):
    """What the summary of an evaluation says of its network, as far as tables read it."""

    model_config = ConfigDict(strict=True)

    preset: str | None = None
    baseline: str | None = None
    size: str | None = None
    network: str | None = None
    prompt_form: str | None = None
    image_size: int | None = None
    local_encoder: bool | None = None
    mhpm: bool | None = None
    adapters: bool | None = None
    balancing_adapter: bool | None = None


Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=10**15)]


class Training(BaseModel):
    """What it says of the training behind it."""

    model_config = ConfigDict(strict=True)

    max_minutes: Number | None = None
    minutes: Number | None = None
    peak_memory_gib: Number | None = None
    steps: Count = 0
    steps_an_epoch: Count | None = None


class Summary(BaseModel):
    """``summary.json``: other keys are not looked at."""

    model_config = ConfigDict(strict=True)

    dataset: str
    split: str | None = None
    prompts: dict[str, dict[str, Any]]
    network: Network | None = None
    training: Training | None = None
    predictions: str | None = None
    objects: str | list[str] = "union"
    metric_size: int | str | None = None
    n_images: Count | None = None


@dataclass(frozen=True)
class EvaluatedRun:
    """One evaluation.

    Attributes:
        folder: that it wrote.
        summary: content of its ``summary.json``.
        scores: its ``metrics.csv``, by image and prompt mode.
        groups: of its images, for the bootstrap.
    """

    folder: Path
    summary: dict[str, Any]
    scores: dict[tuple[str, str], Scores]
    groups: dict[str, str]

    @property
    def images(self) -> list[str]:
        """The images that it scored, sorted."""
        return sorted({image for image, _ in self.scores})

    @property
    def modes(self) -> list[str]:
        """Prompt modes of the network, without the controls."""
        return [mode for mode in self.summary["prompts"] if not is_control(mode)]

    @property
    def one_by_one(self) -> bool:
        """Whether objects were scored one by one: then those are its ``images``, as ``IMAGE#1`` and so on."""
        rules = self.summary.get("objects", "union")
        return any(rule != "union" for rule in ([rules] if isinstance(rules, str) else rules))

    @property
    def title(self) -> str:
        """The model's name: the paper's where it is one of its rows, else what the run itself says."""
        network = self.summary.get("network") or {}
        if network.get("baseline"):
            size = f" {network['size']}" if network.get("size") == "small" else ""
            return MODELS.get(network["baseline"], network["baseline"]) + size
        if network.get("preset"):
            return f"LMSFE-SAM {network['preset']}"
        return str(network.get("network") or self.folder.name).rsplit(".", 1)[-1]

    @property
    def key(self) -> str:
        """What runs that differ in their seed alone have in common.

        Runs may differ otherwise in what no summary says, such as the learning rate: see `repeats`.
        """
        training = self.summary.get("training") or {}
        ignored = {"seed", "minutes", "peak_memory_gib", "epochs", "steps", "steps_an_epoch", "finished"}
        kept = {name: value for name, value in training.items() if name not in ignored}
        given = {
            name: self.summary.get(name) for name in ("network", "predictions", "multimask", "preprocessing")
        }
        return json.dumps([self.title, given, kept], sort_keys=True)

    @property
    def seed(self) -> Any:
        """The seed of its training, None where that is not known."""
        return (self.summary.get("training") or {}).get("seed")


def read_run(path: str | Path) -> EvaluatedRun:
    """Read the folder that ``run evaluating`` wrote.

    Raises:
        InputError: it holds no finished evaluation.
    """
    folder = Path(path).expanduser()
    folder = folder.parent if folder.name == "summary.json" else folder
    if not (folder / "summary.json").is_file() and (folder / "evaluation" / "summary.json").is_file():
        folder = folder / "evaluation"
    try:
        summary = json.loads(read_text(folder / "summary.json"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"runs names '{path}', which holds no summary.json of a finished evaluation: "
            "give the output_dir of run evaluating."
        ) from error
    try:
        Summary.model_validate(summary)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the whole"
        raise InputError(
            f"'{folder / 'summary.json'}' is no summary of an evaluation ({key[:80]}: {first['msg']}): "
            "evaluate again."
        ) from error
    scores = read_metrics(folder / "metrics.csv", "runs").scores
    images = {image for image, _ in scores}
    whole = all((image, mode) in scores for image in images for mode in summary["prompts"])
    if not images or not whole or len(images) != summary.get("n_images", len(images)):
        raise InputError(
            f"'{folder / 'metrics.csv'}' lacks rows of the images and modes that summary.json is of: "
            "evaluate again."
        )
    groups = _read_groups(folder / "images.csv")
    if not images <= groups.keys():
        raise InputError(f"'{folder / 'images.csv'}' lacks images of metrics.csv: evaluate again.")
    return EvaluatedRun(folder, summary, scores, groups)


def _read_groups(file: Path) -> dict[str, str]:
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            groups = {row["image"]: row["group"] for row in csv.DictReader(stream)}
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise InputError(f"'{file}' is no table of images and groups: evaluate again.") from error
    return {image: group for image, group in groups.items() if group}


def check_same_split(runs: Sequence[EvaluatedRun]) -> None:
    """Refuse runs on different images, or measured in different ways, or one that is named twice.

    Raises:
        InputError: naming the first two that differ, or the one.
    """
    first = runs[0]
    named: set[Path] = set()
    for run in runs:
        if run.folder.resolve() in named:
            raise InputError(f"runs names '{run.folder}' twice: name each evaluation once.")
        named.add(run.folder.resolve())
    for other in runs[1:]:
        both = f"'{first.folder}' and '{other.folder}'"
        for key, default in (("metric_size", None), ("objects", "union")):
            own, others = first.summary.get(key, default), other.summary.get(key, default)
            if own != others:
                raise InputError(
                    f"{both} were measured with {key} {own} and {others}: evaluate both with the same."
                )
        alone = sorted(set(first.images) ^ set(other.images))
        if alone:
            splits = [run.summary.get("split") for run in (first, other)]
            of = f", the splits {splits[0]} and {splits[1]}" if splits[0] != splits[1] else ""
            raise InputError(
                f"{both} were evaluated on different images{of} ({len(alone)} in one of them alone, "
                f"'{alone[0]}' first): evaluate both on the same dataset_dir and split."
            )
        for name, mode in sorted(first.scores.keys() & other.scores.keys()):
            gap = abs(first.scores[name, mode]["dice"] - other.scores[name, mode]["dice"])
            if is_control(mode) and gap > TIE:
                raise InputError(
                    f"{both} were measured on different masks or with different seeds (the control of "
                    f"'{name}' differs): evaluate both in the same way."
                )


def repeats(runs: Sequence[EvaluatedRun], mode: str) -> list[list[EvaluatedRun]]:
    """Return the runs that have a mode, those that differ in their seed alone together.

    Two of one seed, or of an unknown one, differ in something else, and are not averaged.
    """
    rows: list[list[EvaluatedRun]] = []
    for run in runs:
        if mode not in run.modes:
            continue
        for row in rows:
            if run.seed is not None and row[0].key == run.key and all(run.seed != one.seed for one in row):
                row.append(run)
                break
        else:
            rows.append([run])
    return rows


def estimate(runs: Sequence[EvaluatedRun], mode: str, column: str, draws: int = 2000) -> Estimate:
    """Return mean and 95 % interval of a column, each image's value being its mean over the runs."""
    return _resampling(runs[0], draws).estimate(_means(runs, mode, column))


def lead(
    runs: Sequence[EvaluatedRun], mode: str, evaluated: Sequence[EvaluatedRun], draws: int = 2000
) -> Estimate | None:
    """Return by how much the Dice of a mode is above that of the ellipse in the same box, image by image.

    Args:
        runs: of one network, which differ in their seed alone.
        mode: of a box; others have no ellipse.
        evaluated: runs on the same images, any of which may hold the ellipse's scores.
        draws: how many samples the bootstrap draws.

    Returns:
        Mean and 95 % interval of the difference; None where there is no such ellipse.
    """
    control = MATCHED_CONTROLS.get(mode)
    holder = next((run for run in evaluated if control in run.summary["prompts"]), None)
    if control is None or holder is None:
        return None
    gain = _means(runs, mode, "dice") - _means([holder], control, "dice")
    return _resampling(runs[0], draws).estimate(gain)


def _means(runs: Sequence[EvaluatedRun], mode: str, column: str) -> NDArray[np.float64]:
    """Each image's mean over the runs, in the order of the first run's images."""
    images = runs[0].images
    return np.array([[run.scores[image, mode][column] for image in images] for run in runs]).mean(axis=0)


def _resampling(run: EvaluatedRun, draws: int) -> Resampling:
    return Resampling([run.groups[image] for image in run.images], 0, draws)
