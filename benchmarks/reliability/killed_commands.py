"""Commands that write, as `kills.py` starts them: words, what a kill may not leave, and results."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from commands import BUNDLE, MODULE, run
from PIL import Image, ImageSequence

from lmsfe_sam.zoo.folder import Options, bundle_files

SMALL = ["--image_size", "64", "--batch_size", "2", "--prompts_per_image", "1", "--correction_steps", "0"]
EPOCHS = 4
LOGS = (".log", ".jsonl")
DATED = (".pdf", ".html")
"""Files that say when they were made, or in which folder."""


def nothing(source: Path, out: Path) -> None:
    """Prepare nothing."""


def whole(out: Path) -> str:
    """Find nothing beyond torn files."""
    return ""


@dataclass(frozen=True)
class Killed:
    """A command.

    Args:
        words: after ``python -m MODULE``, by the folder of inputs and the one to write into.
        module: that is run.
        prepare: makes what is there before the first start.
        torn: says which file in the folder is not whole after a kill.
        wrong: says what does not fit together there.
        results: reads what has to be equal in the end; None for all files but logs.
        done: what another start says once all is done, with exit code 1.
    """

    words: Callable[[Path, Path], list[str]]
    module: str = MODULE
    prepare: Callable[[Path, Path], None] = nothing
    torn: Callable[[Path], str] | None = None
    wrong: Callable[[Path], str] = whole
    results: Callable[[Path], Any] | None = None
    done: str | None = None

    def fault(self, out: Path) -> str:
        """Return what is wrong in a folder after a kill, or nothing."""
        return (self.torn or torn_files)(out) or self.wrong(out)

    def read(self, out: Path) -> Any:
        """Return the results in a folder."""
        return files(out) if self.results is None else self.results(out)


# --- inputs ---------------------------------------------------------------------------------------


def write_inputs(folder: Path, count: int) -> None:
    """Write a data set that inference reads, too, and volumes of a few frames."""
    for name in ("images", "masks", "volumes"):
        (folder / "data" / name).mkdir(parents=True)
    data = folder / "data"
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (240, 320), np.uint8)
        mask = np.zeros((240, 320), np.uint8)
        mask[50:150, 40 + 9 * number : 200] = 255
        Image.fromarray(pixels).save(data / "images" / f"{number:03d}.png")
        Image.fromarray(mask).save(data / "masks" / f"{number:03d}.png")
    (data / "volumes").rename(folder / "volumes")
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 48, 5), np.uint8)
        nib.save(nib.Nifti1Image(pixels, np.eye(4)), folder / "volumes" / f"{number}.nii.gz")


def evaluated(source: Path) -> Path:
    """Return the folder of an evaluation that ended, which is made when it is first asked for."""
    folder = source / "evaluated"
    if not folder.exists():
        _run(EVALUATION.words(source, folder), source)
    return folder


def _run(words: list[str], source: Path) -> None:
    code, printed = run(words, source / "log")
    if code:
        raise SystemExit(printed)


# --- what the commands are ------------------------------------------------------------------------


def inference(source: Path, out: Path) -> list[str]:
    """Return the words of the command."""
    start = ["run", "--config_file", "configs/inference.json", "--device", "cpu"]
    return [*start, "--input", str(source / "data" / "images"), "--output_dir", str(out)]


def cine(source: Path, out: Path) -> list[str]:
    """Return the words of the command: every frame of the volumes, with all that is written of a cine."""
    start = ["run", "--config_file", "configs/inference.json", "--device", "cpu", "--frames", "all"]
    return [*start, "--input", str(source / "volumes"), "--output_ext", ".nii.gz", "--output_dir", str(out)]


def training(source: Path, out: Path) -> list[str]:
    """Return the words of the command: a start, or going on where an epoch is finished."""
    start = ["run", "training", "--config_file", "configs/train.json", "--device", "cpu", *SMALL]
    start += ["--dataset_dir", str(source / "data"), "--epochs", str(EPOCHS), "--seed", "7"]
    return [*start, "--resume" if (out / "checkpoint_last.pt").exists() else "--output_dir", str(out)]


def evaluation(source: Path, out: Path, modes: str = "box,control_box", seed: int = 0) -> list[str]:
    """Return the words of the command."""
    start = ["run", "evaluating", "--config_file", "['configs/train.json','configs/evaluate.json']"]
    start += ["--device", "cpu", "--split", "all", "--bootstrap", "20", "--num_workers", "0"]
    start += ["--curves", "False", "--prompt_modes", modes, "--seed", str(seed)]
    return [*start, "--dataset_dir", str(source / "data"), "--output_dir", str(out)]


def evaluate_before(source: Path, out: Path) -> None:
    """Copy another evaluation's results to where this one will write, of which nothing may stay."""
    other = source / "other"
    if not other.exists():
        _run(evaluation(source, other, "point,none,control_ellipse", 1), source)
    shutil.copytree(other, out)


def tables(source: Path, out: Path) -> list[str]:
    """Return the words of the command."""
    return ["--runs", str(evaluated(source)), "--format", "md,tex,csv", "--output", str(out / "table")]


def figures(source: Path, out: Path) -> list[str]:
    """Return the words of the command."""
    files = [str(out / "figure.png"), str(out / "figure.pdf")]
    data = ["--dataset_dir", str(source / "data")]
    return ["--runs", str(evaluated(source)), *data, "--count", "2", "--output", *files]


def audit(source: Path, out: Path) -> list[str]:
    """Return the words of the command."""
    wanted = ["--output", str(out / "audit.html"), "--datalist", str(out / "datalist.json")]
    return [str(source / "data"), *wanted]


def phantoms(source: Path, out: Path) -> list[str]:
    """Return the words of the command."""
    return ["--output", str(out), "--count", "20", "--seed", "3"]


def soup(source: Path, out: Path) -> list[str]:
    """Return the words of the command."""
    weights = str(BUNDLE / "models" / "model.pt")
    return [weights, weights, "--output", str(out / "mean.pt")]


def selftest(source: Path, out: Path) -> list[str]:
    """Return the words of the command."""
    return ["--update", "--bundle", str(out)]


def copy_bundle(source: Path, out: Path) -> None:
    """Copy the bundle, of which the self-test changes a part."""
    for name in ("configs", "models"):
        shutil.copytree(BUNDLE / name, out / name)


def package(source: Path, out: Path) -> list[str]:
    """Return the words of the command."""
    return ["--output", str(out / "packaged")]


# --- what may not be there after a kill, and what has to be there in the end -----------------------


def torn_files(out: Path) -> str:
    """Return the name of a file that is not whole, or nothing; hidden ones may be of any content."""
    for path in sorted(out.rglob("*")):
        if not path.is_file() or any(part.startswith(".") for part in path.relative_to(out).parts):
            continue
        try:
            if not is_whole(path):
                return f"{path.name} is torn"
        except Exception as error:
            return f"{path.name} is torn: {error}"
    return ""


def is_whole(path: Path) -> bool:
    """Read a file; what is half there either raises, or False is returned."""
    match path.suffix:
        case ".png" | ".webp":
            with Image.open(path) as image:
                return all(frame.convert("RGB").size for frame in ImageSequence.Iterator(image))
        case ".pt":
            return bool(torch.load(path, weights_only=True))
        case ".json":
            json.loads(path.read_text())
        case ".gz":
            return bool(np.asarray(nib.load(path).dataobj).size)
        case ".csv" | ".md" | ".tex":
            return path.read_text().endswith("\n")
        case ".html" | ".svg":
            return path.read_text().rstrip().endswith(f"</{path.suffix[1:]}>")
        case ".pdf":
            return path.read_bytes().rstrip().endswith(b"%%EOF")
    return True


def files(out: Path) -> dict[str, bytes]:
    """Return the content of every file by its name: of logs, and files that say when, the name alone."""
    found = [path for path in out.rglob("*") if path.is_file() and path.suffix not in LOGS]
    return {
        str(path.relative_to(out)): b"" if path.suffix in DATED else path.read_bytes()
        for path in found
        if "__pycache__" not in path.parts
    }


def training_results(out: Path) -> dict[str, Any]:
    """Return the weights and the history of a run, without times."""
    weights = torch.load(out / "model.pt", weights_only=True)
    rows = list(csv.DictReader((out / "history.csv").read_text().splitlines()))
    plain = {name: tensor.numpy().tobytes() for name, tensor in weights.items()}
    return {**plain, "history": [{**row, "seconds": ""} for row in rows]}


def rows_without_masks(out: Path) -> str:
    """Find rows of inference without their mask; the image that was being written may lack its rows."""
    masks = {path.name for path in out.glob("masks/[!.]*.png")}
    rows: list[str] = []
    if (out / "objects.csv").exists():
        rows = [row["image"] for row in csv.DictReader((out / "objects.csv").read_text().splitlines())]
    if set(rows) - masks or len(masks - set(rows)) > 1 or len(rows) != len(set(rows)):
        return f"{len(rows)} rows of {len(masks)} masks"
    return ""


def rows_without_frames(out: Path) -> str:
    """Find rows of a cine that are there twice, or without the mask of their frame."""
    if not (out / "objects.csv").exists():
        return ""
    found = csv.DictReader((out / "objects.csv").read_text().splitlines())
    rows = [f"{row['image'].removesuffix('.nii.gz')}_f{row['frame']}.nii.gz" for row in found]
    masks = {path.name for path in out.glob("masks/[!.]*")}
    fits = set(rows) <= masks and len(rows) == len(set(rows))
    return "" if fits else f"{len(rows)} rows of {len(masks)} masks"


def rows_of_other_epochs(out: Path) -> str:
    """Find rows of a training's history that the checkpoint does not have, but for the last."""
    if not (out / "checkpoint_last.pt").exists():
        return ""
    kept = len(torch.load(out / "checkpoint_last.pt", weights_only=True)["history"])
    path = out / "history.csv"
    rows = path.read_text().splitlines()[1:] if path.exists() else []
    return "" if kept - 1 <= len(rows) <= kept else f"{len(rows)} rows of {kept} epochs"


def mixed_evaluations(out: Path) -> str:
    """Find a summary beside tables or masks of another evaluation."""
    if not (out / "summary.json").exists():
        return ""
    modes = set(json.loads((out / "summary.json").read_text())["prompts"])
    rows = [*csv.DictReader((out / "metrics.csv").read_text().splitlines())]
    masks = {path.name for path in out.glob("masks/*")}
    return "" if {row["prompt"] for row in rows} == modes and masks <= modes else "two evaluations are mixed"


def incomplete_package(out: Path) -> str:
    """Find a packaged folder that is there without all of its files, or with others' content."""
    folder = out / "packaged"
    for name, content in bundle_files(BUNDLE, Options(folder)).items() if folder.exists() else ():
        expected = content.encode() if isinstance(content, str) else content.read_bytes()
        if not (folder / name).is_file() or (folder / name).read_bytes() != expected:
            return f"{name} is torn"
    return ""


EVALUATION = Killed(evaluation, prepare=evaluate_before, wrong=mixed_evaluations)

COMMANDS = {
    "inference": Killed(inference, wrong=rows_without_masks),
    "training": Killed(
        training, wrong=rows_of_other_epochs, results=training_results, done="has finished its"
    ),
    "cine": Killed(cine, wrong=rows_without_frames),
    "evaluation": EVALUATION,
    "tables": Killed(tables, "lmsfe_sam.tables"),
    "figures": Killed(figures, "lmsfe_sam.figures"),
    "audit": Killed(audit, "lmsfe_sam.data.audit"),
    "phantoms": Killed(phantoms, "lmsfe_sam.data.phantoms"),
    "soup": Killed(soup, "lmsfe_sam.training.soup"),
    "selftest": Killed(selftest, "lmsfe_sam.selftest", prepare=copy_bundle),
    "package": Killed(package, "lmsfe_sam.package", torn=incomplete_package, done="is there already"),
}
