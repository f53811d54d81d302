"""Train and evaluate every row of the paper's tables 2 to 5 on one data folder, and print the tables.

Each run is the real command line, one after the other, cheapest network first. What is finished is not run
again and what was interrupted goes on where it ended, so that the command can be stopped, repeated, and
given more rows or seeds. All rows share one split (``datalist.json`` in the output folder, by groups unless
``--split_rule paper``) and one recipe, ``configs/train.json`` (``--paper``: ``configs/paper.json``), with
one budget of machine time: processor minutes on a CPU, minutes on a GPU. A network that could not pass
``--passes`` times through the training images in it at its published input size is trained at a smaller
one, which the table says. On processors with instructions for bfloat16 ``--amp`` makes most of the networks
several times as fast.

Networks of the ViT-B family are worth something with SAM's weights alone; they are listed with the command
unless ``--weights NAME=FILE`` gives them a file.

What the tables need of a finished run is copied to a folder of its own in ``--results``, without images and
without paths. Rows that are there already, perhaps from another machine, are not run again, and
``python -m lmsfe_sam.tables --runs RESULTS/*`` prints the tables from these folders alone.

Run from the root of the repository:
``python benchmarks/paper.py --dataset_dir DIR --output_dir DIR --minutes 120 --seeds 0 1 2``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundle"
SMALLEST, STEP, PROBED_AT = 64, 32, 128
CONTROLS = ["control_box", "control_ellipse", "control_ellipse_jitter_10"]
MODES = ["box", "box_jitter_10", "box_jitter_20", "point", "none", *CONTROLS]

PATHS = frozenset({"dataset_dir", "output_dir", "pretrained", "resume"})
UNREAD = frozenset({"gain_over_control", "reliability", "reliability_overall", "curves"})
"""Keys of a summary that the tables do without."""

TOGGLES = ("local_encoder", "mhpm", "adapters", "balancing_adapter")


@dataclass(frozen=True)
class Row:
    """A network of the tables.

    Attributes:
        cost: multiply-adds of an image at 256 x 256, in G, by which the rows are ordered.
        config: its file in ``configs/baselines``; empty for our own network.
        free: it takes no prompts by itself, and is trained in the forms none and box.
        needs: whose file it has to start from, and the key of ``--weights`` for it.
        options: of training.
    """

    cost: float
    config: str = ""
    free: bool = False
    needs: tuple[str, str] | None = None
    options: dict[str, object] = field(default_factory=dict)


def _ablation(*on: bool) -> Row:
    options: dict[str, object] = {"preset": "vit_b", **dict(zip(TOGGLES, on, strict=True))}
    return Row(50 + sum(on), needs=("SAM-Med2D", "sam_med2d"), options=options)


ROWS: dict[str, Row] = {
    # From random weights here: the rate of its config is meant for its published file.
    "edgesam": Row(1.3, "edgesam", options={"learning_rate": 0.001}),
    "ukan": Row(2.7, "ukan", free=True),
    "lmsfe_sam_vit_t": Row(2.9),
    "ukan_large": Row(10.5, "ukan_large", free=True),
    "unet_small": Row(29.6, "unet_small", free=True),
    "sam": Row(43.0, "sam", needs=("SAM", "sam")),
    "medsam": Row(43.1, "medsam", needs=("MedSAM", "medsam")),
    "sam_med2d": Row(45.8, "sam_med2d", needs=("SAM-Med2D", "sam_med2d")),
    "uctransnet": Row(50.4, "uctransnet", free=True),
    "unet": Row(51.1, "unet", free=True),
    "transresunet": Row(61.1, "transresunet", free=True),
    "ablation_baseline": _ablation(False, False, False, False),
    "ablation_1": _ablation(False, False, True, False),
    "ablation_2": _ablation(True, False, False, False),
    "ablation_3": _ablation(True, False, False, True),
    "ablation_4": _ablation(True, True, False, True),
    "lmsfe_sam": _ablation(True, True, True, True),
}


@dataclass(frozen=True)
class Run:
    """One row in one form with one seed."""

    name: str
    form: str | None
    seed: int
    folder: Path

    @property
    def row(self) -> Row:
        return ROWS[self.name]

    @property
    def evaluation(self) -> Path:
        return self.folder / "evaluation"


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(given)
    if options.probe:
        print(json.dumps(seconds_an_image(options.probe, options.threads, options.amp)))
        return
    folder = Path(options.output_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    datalist = make_datalist(options, folder)
    results = Path(options.results or folder / "results").resolve()
    check_results(results, datalist)
    weights = dict(pair.split("=", 1) for pair in options.weights)
    todo = list(planned(options, folder))
    done = {run.name for run in finished(results)}
    left = [
        run
        for run in todo
        if run.row.needs and run.row.needs[1] not in weights and run.folder.name not in done
    ]
    for number, run in enumerate(todo, 1):
        if run in left:
            continue
        if run.folder.name in done:
            say(f"[{number}/{len(todo)}] {run.folder.name} is finished: see {results / run.folder.name}")
            continue
        say(f"[{number}/{len(todo)}] {run.folder.name}")
        try:
            train(run, datalist, weights, options)
            evaluate(run, datalist, options)
            keep(run, results / run.folder.name)
        except subprocess.CalledProcessError as error:  # the others go on
            say(f"{run.folder.name} failed with exit code {error.returncode}: see {run.folder / 'log.txt'}")
        report(left, folder, results)
    report(left, folder, results, shown=True)


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train and evaluate the rows of the paper's tables.")
    parser.add_argument("--dataset_dir")
    parser.add_argument("--output_dir")
    parser.add_argument("--results", help="folder of finished runs; results in the output folder if left out")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--forms", nargs="+", choices=["none", "box"], default=["box", "none"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--minutes", type=float, help="budget of machine time a run; none: --epochs decides")
    parser.add_argument("--epochs", type=int, help="epochs at most; the config's if left out")
    parser.add_argument("--passes", type=float, default=2.0, help="through the training images, at least")
    parser.add_argument("--split_rule", default="group", choices=["group", "paper"])
    parser.add_argument("--paper", action="store_true", help="the paper's recipe, configs/paper.json")
    parser.add_argument(
        "--weights", nargs="*", default=[], metavar="NAME=FILE", help="sam, medsam, sam_med2d"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default=None)
    parser.add_argument("--image_size", type=int, default=256, help="of the networks, unless too slow")
    parser.add_argument("--amp", action="store_true", help="bfloat16 in training and evaluation")
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if not options.probe and not (options.dataset_dir and options.output_dir):
        parser.error("give --dataset_dir and --output_dir")
    return options


def planned(options: argparse.Namespace, folder: Path) -> Iterator[Run]:
    """Runs in the order of their cost, all rows with the first seed before the second."""
    names = sorted(options.rows, key=lambda name: ROWS[name].cost)
    for seed in options.seeds:
        for name in names:
            for form in options.forms if ROWS[name].free else [None]:
                title = "_".join(filter(None, (name, form, f"seed{seed}")))
                yield Run(name, form, seed, folder / title)


def make_datalist(options: argparse.Namespace, folder: Path) -> Path:
    """Divide the images once; a repeated command finds the division of the first."""
    path = folder / "datalist.json"
    if not path.is_file():
        from lmsfe_sam.data.datalist import build_datalist

        found = build_datalist(options.dataset_dir, split_rule=options.split_rule)
        say(found.summary())
        found.write(path)
    return path


def train(run: Run, datalist: Path, weights: dict[str, str], options: argparse.Namespace) -> None:
    """Train, or go on with what an interrupted command left."""
    record = run.folder / "machine_time.json"
    if record.is_file() and json.loads(record.read_text())["finished"]:
        return
    run.folder.mkdir(exist_ok=True)
    given: dict[str, object] = {
        "dataset_dir": datalist,
        "output_dir": run.folder,
        "seed": run.seed,
        "image_size": image_size(run, datalist, options),
        "warmup_epochs": 0.2,
        **run.row.options,
    }
    optional = {"epochs": options.epochs, "max_minutes": options.minutes, "device": options.device}
    given |= {key: value for key, value in optional.items() if value is not None}
    if run.form:
        given["prompt_form"] = run.form
    if options.amp:
        given["amp"] = True
    if run.row.needs:
        given["pretrained"] = Path(weights[run.row.needs[1]]).resolve()
    if (run.folder / "checkpoint_last.pt").is_file():
        given["resume"] = run.folder
    configs = ["train", *(["paper"] if options.paper else [])]
    configs += [f"baselines/{run.row.config}"] if run.row.config else []
    call("training", configs, given, run, options)


def evaluate(run: Run, datalist: Path, options: argparse.Namespace) -> None:
    if (run.evaluation / "summary.json").is_file():
        return
    given: dict[str, object] = {
        "dataset_dir": datalist,
        "split": "test",
        "checkpoint": run.folder / "model.pt",
        "output_dir": run.evaluation,
        "prompt_modes": usable_modes(run),
        "curves": False,
        "gallery": 1,
    }
    if options.device:
        given["device"] = options.device
    if options.amp:
        given["amp"] = True
    call("evaluating", ["train", "evaluate"], given, run, options)


def usable_modes(run: Run) -> list[str]:
    network = {"none": ["none"], "box": [mode for mode in MODES if mode.startswith("box")], None: MODES}[
        run.form
    ]
    return [mode for mode in MODES if mode in network or mode.startswith("control")]


def image_size(run: Run, datalist: Path, options: argparse.Namespace) -> int:
    """The largest input side at which the budget is enough for the passes."""
    wanted = options.image_size
    if options.minutes is None or not run.row.config:
        return wanted
    cached = run.folder / "image_size.json"
    if not cached.is_file():
        command = [sys.executable, __file__, "--probe", run.row.config, "--threads", str(options.threads)]
        command += ["--amp"] if options.amp else []
        printed = subprocess.run(
            command, env=environment(options), capture_output=True, text=True, check=True
        )
        cached.write_text(printed.stdout)
    seconds = json.loads(cached.read_text())
    images = options.passes * len(json.loads(datalist.read_text())["training"])
    sides = range(wanted, SMALLEST, -STEP)
    fits = (side for side in sides if images * seconds * (side / PROBED_AT) ** 2 <= 60 * options.minutes)
    return next(fits, SMALLEST)


def seconds_an_image(config: str, threads: int, amp: bool = False) -> float:
    """Processor time of a step of training, forward and backward, for an image at `PROBED_AT`."""
    import torch
    from monai.bundle import ConfigParser

    torch.set_num_threads(threads)
    parser = ConfigParser()
    parser.read_config(
        [str(BUNDLE / "configs" / name) for name in ("train.json", f"baselines/{config}.json")]
    )
    parser["image_size"] = PROBED_AT
    network = parser.get_parsed_content("network_def").to(memory_format=torch.channels_last)
    image = torch.rand(2, 3, PROBED_AT, PROBED_AT).to(memory_format=torch.channels_last)
    times = []
    for _ in range(2):
        start = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            masks = network.decode_tokens(network.encode(image)).masks
        masks.float().square().mean().backward()
        times.append(time.process_time() - start)
    return min(times) / len(image)


def call(
    run_id: str, configs: list[str], given: dict[str, object], run: Run, options: argparse.Namespace
) -> None:
    """Run a command of the bundle; what it prints goes to the run's folder."""
    files = str([f"configs/{name}.json" for name in configs])
    words = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", files]
    given = {"threads": options.threads, **given}
    words += [word for key, value in given.items() for word in (f"--{key}", str(value))]
    with (run.folder / "log.txt").open("a") as log:
        log.write(shlex.join(words) + "\n")
        log.flush()
        subprocess.run(words, cwd=BUNDLE, env=environment(options), stdout=log, stderr=log, check=True)


def environment(options: argparse.Namespace) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(options.threads)}


def keep(run: Run, place: Path) -> None:
    """Copy what the tables read of a finished run, and its settings, with names in the place of paths."""
    from lmsfe_sam.files import atomic_write

    summary = json.loads((run.evaluation / "summary.json").read_text())
    summary = {key: value for key, value in summary.items() if key not in UNREAD}
    summary["checkpoint"] = Path(summary["checkpoint"]).name
    settings = json.loads((run.folder / "run.json").read_text())["settings"]
    for key in PATHS & settings.keys():
        settings[key] = settings[key] and Path(settings[key]).name
    texts = {name: (run.evaluation / name).read_text() for name in ("metrics.csv", "images.csv")}
    texts["settings.json"] = json.dumps(settings, indent=2) + "\n"
    texts["summary.json"] = json.dumps(summary, indent=1) + "\n"  # last: with it the run is finished
    for name, text in texts.items():
        with atomic_write(place / name) as temporary:
            temporary.write_text(text)


def finished(results: Path) -> list[Path]:
    """Folders of the finished runs, those of other commands and machines, too, in the order of the tables."""
    found = []
    for path in results.glob("*_seed*/summary.json"):
        name, _, seed = path.parent.name.rpartition("_seed")
        form = next((form for form in ("none", "box") if name.endswith(f"_{form}")), "")
        name = name.removesuffix(f"_{form}")
        if name in ROWS and seed.isdecimal():
            found.append((int(seed), ROWS[name].cost, form, path.parent))
    return [path for *_, path in sorted(found)]


def check_results(results: Path, datalist: Path) -> None:
    """Refuse results on other images before anything is trained."""
    from lmsfe_sam.data.datalist import build_datalist
    from lmsfe_sam.evaluation.report.runs import read_run

    images = {record["name"] for record in build_datalist(datalist).select("test")}
    for path in finished(results):
        if set(read_run(path).images) != images:
            raise SystemExit(
                f"'{path}' was tested on other images than the test part of '{datalist}': "
                "give another --results, or the data and the split rule of these results."
            )


def report(left: list[Run], folder: Path, results: Path, shown: bool = False) -> None:
    """Write the tables, and what was left out and why, to ``results.md``."""
    from lmsfe_sam.tables import main as print_tables

    parts = []
    if done := finished(results):
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            print_tables(["--runs", *map(str, done)])
        parts.append(text.getvalue())
    missing = {run.name: run for run in left}
    if missing:
        lines = ["Not run:", ""]
        for name, run in missing.items():
            assert run.row.needs is not None
            owner, key = run.row.needs
            command = f"python benchmarks/paper.py --dataset_dir DIR --output_dir DIR --rows {name}"
            lines.append(f"- `{name}` needs {owner}'s weights: `{command} --weights {key}=FILE`")
        parts.append("\n".join(lines) + "\n")
    page = "\n".join(parts)
    (folder / "results.md").write_text(page)
    if shown:
        print(page)


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
