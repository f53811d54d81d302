"""Every row of the paper's tables, in each form, takes a step, is evaluated and becomes a row of the tables.

By the configs and options that the documentation names. The large networks are built narrower or shallower
here, all inputs are 64 x 64 pixels, and there are four images; nothing else is changed.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import run as run_bundle

from lmsfe_sam import tables
from lmsfe_sam.baselines import BASELINES, edgesam, uctransnet, unet
from lmsfe_sam.data.phantoms import __main__ as phantoms
from lmsfe_sam.evaluation.report.runs import MODELS
from lmsfe_sam.model.presets import PRESETS
from tiny import SIZE, TINY

CONFIGS = Path(__file__).resolve().parents[2] / "bundle" / "configs"
OURS = {"vit_b": "LMSFE-SAM vit_b", "vit_t": "LMSFE-SAM vit_t"}
BASES = {path.stem: path.stem.removesuffix("_small") for path in sorted((CONFIGS / "baselines").iterdir())}
NAMES = {name: MODELS[base] + " small" * (name != base) for name, base in BASES.items()} | OURS
PROMPTED = {name for name, base in BASES.items() if BASELINES[base].promptable} | set(OURS)
ROWS = [(name, form) for name in NAMES for form in ([None] if name in PROMPTED else ["none", "box"])]
FORMS = {"none": ", image alone", "box": ", box as a channel", None: ""}
TITLES = {"none": ["no prompt"], "box": ["tight box", "box, jitter 10 %"]}
TITLES |= {None: ["tight box", "box, jitter 10 %", "one click", "no prompt"]}
STEP = {"batch_size": 2, "epochs": 1, "correction_steps": 1, "no_grad_corrections": 0, "threads": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "phantoms"
    phantoms.main(["--output", str(path), "--count", "4", "--seed", "3"])
    return path


@pytest.fixture(autouse=True)
def _small(bundle_root: Path, monkeypatch: pytest.MonkeyPatch, restored_globals: None) -> None:
    monkeypatch.chdir(bundle_root)
    monkeypatch.setitem(PRESETS, "vit_b", TINY["tiny_b"])
    monkeypatch.setitem(PRESETS, "vit_t", TINY["tiny_t"])
    monkeypatch.setattr(unet, "WIDTHS", (8, 8, 16, 16, 32, 8))
    monkeypatch.setattr(uctransnet, "LAYERS", 1)
    monkeypatch.setattr(uctransnet, "HEADS", 1)
    monkeypatch.setattr(edgesam, "DEPTHS", (1, 1, 2, 1))
    monkeypatch.setitem(
        BASELINES, "ukan_large", replace(BASELINES["ukan_large"], fixed={"widths": (64, 80, 128)})
    )


def test_no_row_is_left_out() -> None:
    assert set(BASES.values()) == set(BASELINES)
    assert set(BASES.values()) == set(MODELS)


@pytest.mark.parametrize(("name", "form"), ROWS)
def test_a_row(
    name: str, form: str | None, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["configs/train.json"]
    options: dict[str, Any] = {"device": "cpu", "dataset_dir": str(folder), "image_size": SIZE}
    options |= {"validation_fraction": 0.25, "test_fraction": 0.25, "output_dir": str(tmp_path)}
    options |= {"preset": name} if name in OURS else {}
    options |= {"prompt_form": form} if form else {}
    own = [] if name in OURS else [f"configs/baselines/{name}.json"]
    run_bundle(run_id="training", config_file=[*files, *own], **options, **STEP)
    assert json.loads((tmp_path / "machine_time.json").read_text())["steps"] == 1
    run_bundle(
        run_id="evaluating",
        config_file=[*files, "configs/evaluate.json"],
        dataset_dir=str(tmp_path / "datalist.json"),
        checkpoint=str(tmp_path / "model.pt"),
        output_dir=str(tmp_path / "evaluation"),
        device="cpu",
        bootstrap=10,
        gallery=0,
        curves=False,
    )
    capsys.readouterr()
    tables.main(["--runs", str(tmp_path / "evaluation")])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith("| this project |")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    title = NAMES[name] + FORMS[form]
    assert [row[1] for row in cells if row[0] == title] == TITLES[form]
    assert {row[2] for row in cells if row[0] == title} == {str(SIZE)}
    assert [row[0] for row in cells if row[0].startswith("control")] == [
        "control: filled box", "control: ellipse", "control: ellipse, jitter 10 %"
    ]  # fmt: skip
