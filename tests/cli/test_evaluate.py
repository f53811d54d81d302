"""The real command line of evaluating: alone, under torchrun, and what it refuses."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import monai
import numpy as np
import pytest
import torch
from child_processes import environment, run_command, workers_of
from monai.bundle import run as run_bundle
from PIL import Image

import data_folders
from lmsfe_sam import LMSFESAM
from lmsfe_sam.data.phantoms import __main__ as phantoms
from lmsfe_sam.errors import InputError, find_input_error
from lmsfe_sam.evaluation.metrics import COLUMNS
from lmsfe_sam.evaluation.protocol import CONTROLS, MODES
from lmsfe_sam.model.checkpoints import save_weights

CONFIGS = ["configs/train.json", "configs/evaluate.json"]
LONGEST_SECONDS = 600


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models") / "model.pt"
    save_weights(LMSFESAM(preset="vit_t"), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five phantoms of different sizes, as a plain dataset."""
    path = tmp_path_factory.mktemp("data") / "made up"
    phantoms.main(["--output", str(path), "--count", "5", "--seed", "11"])
    return path


def command(bundle_root: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return run_command(bundle_root, sys.executable, "-m", *words, limit=LONGEST_SECONDS)


@pytest.fixture(scope="module")
def evaluated(
    bundle_root: Path, folder: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The output of the documented command."""
    output = tmp_path_factory.mktemp("alone")
    options = ("--dataset_dir", folder, "--checkpoint", checkpoint, "--output_dir", output)
    process = command(
        bundle_root, "monai.bundle", "run", "evaluating", "--config_file", str(CONFIGS), *options
    )
    assert process.returncode == 0, process.stderr
    assert "Report:" in process.stdout and "control_ellipse_jitter_20" in process.stdout
    return output


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_a_row_for_each_image_and_prompt(evaluated: Path, folder: Path) -> None:
    lines = (evaluated / "metrics.csv").read_text().splitlines()
    assert lines[0] == "image,prompt,dice,iou,sensitivity,specificity,accuracy,hd,hd95,assd,hd_mm"
    rows = rows_of(evaluated / "metrics.csv")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.glob("images/*"))
    assert [(row["image"], row["prompt"]) for row in rows] == [
        (name, mode) for name in names for mode in MODES
    ]
    assert all(row["hd_mm"] == "" for row in rows)


def test_the_summary_averages_the_rows(evaluated: Path, checkpoint: Path) -> None:
    content = json.loads((evaluated / "summary.json").read_text())
    assert (content["dataset"], content["split"], content["n_images"]) == ("made up", "all", 5)
    assert content["checkpoint_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    rows = rows_of(evaluated / "metrics.csv")
    for mode in MODES:
        assert list(content["prompts"][mode]) == list(COLUMNS)
        for column in COLUMNS[:-1]:
            values = [float(row[column]) for row in rows if row["prompt"] == mode]
            assert content["prompts"][mode][column]["mean"] == pytest.approx(np.mean(values), abs=1e-6)


def test_report_and_masks_are_there(evaluated: Path, folder: Path) -> None:
    page = (evaluated / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>") and "data:image/jpeg;base64," in page
    for mode in set(MODES) - set(CONTROLS):
        masks = sorted((evaluated / "masks" / mode / "images").iterdir())
        assert [path.name for path in masks] == sorted(path.name for path in folder.glob("images/*"))
        assert all(Image.open(path).size == (256, 256) for path in masks)
    assert {path.name for path in evaluated.iterdir()} == {
        "metrics.csv",
        "images.csv",
        "predictions.csv",
        "curves.csv",
        "subgroups.csv",
        "summary.json",
        "report.html",
        "masks",
        "evaluation.log",
    }


def test_two_processes_give_the_figures_of_one(
    bundle_root: Path, folder: Path, checkpoint: Path, evaluated: Path, tmp_path: Path
) -> None:
    """Five images on two processes: none is counted twice to make the shares equal."""
    process = command(
        bundle_root,
        *("torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"),
        *("monai.bundle", "run", "evaluating", "--config_file", str(CONFIGS)),
        *("--dataset_dir", folder, "--checkpoint", checkpoint, "--output_dir", tmp_path),
    )
    assert process.returncode == 0, process.stderr
    alone, both = rows_of(evaluated / "metrics.csv"), rows_of(tmp_path / "metrics.csv")
    assert [(row["image"], row["prompt"]) for row in both] == [(row["image"], row["prompt"]) for row in alone]
    for row, other in zip(both, alone, strict=True):
        for column in COLUMNS[:-1]:
            assert float(row[column]) == pytest.approx(float(other[column]), abs=1e-6)
    summaries = [json.loads((path / "summary.json").read_text()) for path in (evaluated, tmp_path)]
    assert summaries[0] == summaries[1]


@pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="finds the workers in /proc, which Linux has"
)
def test_a_killed_process_is_replaced_and_changes_no_figure(
    bundle_root: Path, folder: Path, checkpoint: Path, evaluated: Path, tmp_path: Path
) -> None:
    launcher = [*("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max_restarts=1")]
    words = ["-m", "monai.bundle", "run", "evaluating", "--config_file", str(CONFIGS), "--curves", "False"]
    words += ["--dataset_dir", folder, "--checkpoint", checkpoint, "--output_dir", tmp_path / "out"]
    words += ["--prompt_modes", "['box_jitter_10','point','control_box']"]
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *launcher, *map(str, words)],
            cwd=bundle_root,
            env=environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        limit = time.monotonic() + LONGEST_SECONDS
        while "Evaluating 5 images" not in log.read_text():
            assert process.poll() is None and time.monotonic() < limit, log.read_text()
            time.sleep(0.02)
        os.kill(workers_of(process.pid)[-1], signal.SIGKILL)
        assert process.wait(LONGEST_SECONDS) == 0, log.read_text()
    assert log.read_text().count("Evaluating 5 images") == 2
    rows = rows_of(tmp_path / "out" / "metrics.csv")
    modes = {row["prompt"] for row in rows}
    wanted = [row for row in rows_of(evaluated / "metrics.csv") if row["prompt"] in modes]
    assert len(modes) == 3
    for row, other in zip(rows, wanted, strict=True):
        assert (row["image"], row["prompt"]) == (other["image"], other["prompt"])
        for column in COLUMNS[:-1]:
            assert float(row[column]) == pytest.approx(float(other[column]), abs=1e-6)


def test_a_wrong_key_ends_in_one_sentence(bundle_root: Path, folder: Path, tmp_path: Path) -> None:
    process = command(
        bundle_root,
        *("monai.bundle", "run", "evaluating", "--config_file", str(CONFIGS), "--dataset_dir", folder),
        *("--output_dir", tmp_path, "--metric_size", "huge"),
    )
    assert process.returncode == 1
    assert "Traceback" not in process.stdout + process.stderr
    remedy = "give native or a whole number of at least 16 with --metric_size."
    assert process.stderr.strip().splitlines()[-1] == f"error: metric_size is 'huge': {remedy}"


# --- the same configs in this process, which saves the start --------------------------------------


@pytest.fixture
def run_here(bundle_root: Path, monkeypatch: pytest.MonkeyPatch, restored_globals: None) -> Any:
    monkeypatch.chdir(bundle_root)

    def run(run_id: str | None = "evaluating", **overrides: Any) -> None:
        options = {key: str(value) if isinstance(value, Path) else value for key, value in overrides.items()}
        run_bundle(run_id=run_id, config_file=CONFIGS, **options)

    return run


def test_a_bare_run_is_the_same(
    run_here: Any, folder: Path, checkpoint: Path, evaluated: Path, tmp_path: Path
) -> None:
    options = {"dataset_dir": folder, "checkpoint": checkpoint, "output_dir": tmp_path}
    run_here(None, **options, prompt_modes="box,control_box", curves=False)
    wanted = [row for row in rows_of(evaluated / "metrics.csv") if row["prompt"] in ("box", "control_box")]
    for row, other in zip(rows_of(tmp_path / "metrics.csv"), wanted, strict=True):
        assert (row["image"], row["prompt"]) == (other["image"], other["prompt"])
        assert float(row["dice"]) == pytest.approx(float(other["dice"]), abs=2e-3)


def test_native_size_and_a_comparison(run_here: Any, folder: Path, evaluated: Path, tmp_path: Path) -> None:
    run_here(
        dataset_dir=folder,
        output_dir=tmp_path,
        metric_size="native",
        prompt_modes=list(CONTROLS),
        compare=evaluated / "metrics.csv",
    )
    content = json.loads((tmp_path / "summary.json").read_text())
    assert content["metric_size"] == "native" and content["checkpoint_sha256"] is None
    assert content["compare"]["n_images"] == 5 and content["compare"]["same_protocol"] is False
    at_256 = json.loads((evaluated / "summary.json").read_text())["prompts"]["control_ellipse"]
    ellipse = content["prompts"]["control_ellipse"]
    assert ellipse["dice"]["mean"] == pytest.approx(at_256["dice"]["mean"], abs=0.01)
    assert ellipse["hd"]["mean"] > at_256["hd"]["mean"]


def test_phantoms_where_no_data_is_given(
    run_here: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(output_dir=tmp_path, phantoms=14, prompt_modes="control_ellipse")
    content = json.loads((tmp_path / "summary.json").read_text())
    assert (content["dataset"], content["split"]) == ("phantoms", "test")
    assert content["prompts"]["control_ellipse"]["dice"]["mean"] > 0.8
    assert "SYNTHETIC PHANTOMS" in capsys.readouterr().out


def test_datalist_sets_the_split_and_the_spacing(run_here: Any, folder: Path, tmp_path: Path) -> None:
    names = [path.name for path in sorted(folder.glob("images/*"))]
    entries = [
        {"image": f"{folder}/images/{name}", "label": f"{folder}/masks/{name}", "spacing": [0.1, 0.2]}
        for name in names
    ]
    listed = tmp_path / "listed"
    listed.mkdir()
    (listed / "datalist.json").write_text(json.dumps({"training": entries[:3], "test": entries[3:]}))
    run_here(dataset_dir=listed, output_dir=tmp_path / "out", prompt_modes="control_box,control_ellipse")
    content = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (content["split"], content["n_images"]) == ("test", 2)
    assert content["prompts"]["control_box"]["hd_mm"]["mean"] > 0
    assert all(float(row["hd_mm"]) > 0 for row in rows_of(tmp_path / "out" / "metrics.csv"))


def test_normal_images_and_annotated_boxes(run_here: Any, checkpoint: Path, tmp_path: Path) -> None:
    root = data_folders.make_voc(tmp_path / "set", number=4)
    for k in (1, 2):
        data_folders.save(root / "SegmentationClass" / f"us {k}.png", np.zeros(data_folders.SIZE, bool))
    run_here(
        dataset_dir=root,
        output_dir=tmp_path / "out",
        checkpoint=checkpoint,
        prompt_modes="none,annotated_box,control_ellipse_annotated",
        curves=False,
        normal_images=True,
    )
    content = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert content["n_images"] == 2
    assert set(content["prompts"]) == {"none", "annotated_box", "control_ellipse_annotated"}
    assert content["gain_over_control"]["annotated_box"]["control"] == "control_ellipse_annotated"
    assert content["normal_images"]["none"]["n_images"] == 2
    rows = rows_of(tmp_path / "out" / "normal_images.csv")
    assert [row["image"] for row in rows] == ["JPEGImages/us 1.png", "JPEGImages/us 2.png"]
    shares = [float(row["area"]) for row in rows]
    assert content["normal_images"]["none"]["mean_area"]["mean"] == pytest.approx(np.mean(shares), abs=1e-6)
    with Image.open(tmp_path / "out" / "masks" / "none" / "JPEGImages" / "us 1.png") as mask:
        assert np.asarray(mask).astype(bool).mean() == pytest.approx(shares[0], abs=1e-6)
    assert {row["image"] for row in rows_of(tmp_path / "out" / "metrics.csv")} == {
        "JPEGImages/us 0.png",
        "JPEGImages/us 3.png",
    }
    boxes = {row["prompt"]: row["box"] for row in rows_of(tmp_path / "out" / "predictions.csv")}
    height, width = data_folders.SIZE
    expected = [23 * 256 / width, 17 * 256 / height, 50 * 256 / width, 44 * 256 / height]
    assert boxes["annotated_box"] == " ".join(f"{side:.3f}" for side in expected)
    assert "Normal images" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"dataset_dir": "no such folder"}, "dataset_dir 'no such folder'"),
        ({"split": "tset"}, "split is 'tset'"),
        ({"prompt_modes": "bokses"}, "prompt_modes names 'bokses'"),
        ({"compare": "nowhere.csv"}, "compare 'nowhere.csv' cannot be read"),
        ({"checkpoint": "nowhere.pt"}, "checkpoint 'nowhere.pt' does not exist"),
        ({"preset": "vit_b"}, "preset 'vit_b' contradicts"),
        ({"mhpm": False}, "mhpm False contradicts"),
        ({"output_dir": "/dev/null/out"}, "output_dir '/dev/null/out' cannot be written to"),
    ],
)
def test_errors_come_before_any_work(
    run_here: Any,
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    checkpoint: Path,
    tmp_path: Path,
    overrides: dict[str, Any],
    sentence: str,
) -> None:
    monkeypatch.setattr(monai.engines.SupervisedEvaluator, "run", lambda *_: pytest.fail("work had begun"))
    options = {"dataset_dir": folder, "checkpoint": checkpoint, "output_dir": tmp_path / "out", **overrides}
    with pytest.raises(Exception) as caught:
        run_here(**options)
    error = find_input_error(caught.value)
    assert isinstance(error, InputError) and sentence in str(error)
