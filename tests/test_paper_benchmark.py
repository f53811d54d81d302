"""benchmarks/paper.py: order, resuming, nothing twice, and what it reports.

Its commands run in this process, on phantoms, with small networks; nothing else of them is changed.
"""

from __future__ import annotations

import csv
import importlib
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from monai.bundle import run as run_bundle

from lmsfe_sam import tables
from lmsfe_sam.baselines import BASELINES
from lmsfe_sam.data.phantoms import __main__ as phantoms
from lmsfe_sam.model.presets import PRESETS
from lmsfe_sam.training.handlers import RunRecorder
from tiny import SIZE, TINY

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SMALL = ["--image_size", str(SIZE), "--device", "cpu", "--epochs", "2", "--forms", "box"]
ROWS = ["--rows", "lmsfe_sam_vit_t", "sam", "ukan"]
UKAN, OURS = "ukan_box_seed0", "lmsfe_sam_vit_t_seed0"
Calls = list[tuple[str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "phantoms"
    phantoms.main(["--output", str(path), "--count", "6", "--seed", "3"])
    return path


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch, restored_globals: None) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setitem(PRESETS, "vit_t", TINY["tiny_t"])
    monkeypatch.setitem(BASELINES, "ukan", replace(BASELINES["ukan"], fixed={"widths": (16, 24, 32)}))
    return importlib.import_module("paper")


@pytest.fixture
def calls(paper: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What was started, as the command and the run's folder."""
    made: Calls = []

    def call(run_id: str, configs: list[str], given: dict[str, Any], run: Any, options: Any) -> None:
        made.append((run_id, run.folder.name))
        files = [f"configs/{name}.json" for name in configs]
        plain = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
        run_bundle(run_id=run_id, config_file=files, **plain, threads=1)

    monkeypatch.chdir(paper.BUNDLE)
    monkeypatch.setattr(paper, "call", call)
    return made


def table(page: str, first: str) -> list[list[str]]:
    """Rows of the table whose first column has that head."""
    lines = page.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.split("|")[1:-1]])
    return rows


def trained(page: str) -> list[list[str]]:
    """Rows of the table of what training cost."""
    return table(page[page.index("**Training**") :], "Model")


def history(run: Path) -> list[str]:
    with (run / "history.csv").open(newline="") as stream:
        return [row["epoch"] for row in csv.DictReader(stream)]


def test_the_cheapest_first_and_every_row_before_the_next_seed(paper: ModuleType, tmp_path: Path) -> None:
    words = ["--dataset_dir", "a", "--output_dir", "b", "--seeds", "0", "1"]
    runs = list(paper.planned(paper.arguments(words), tmp_path))
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    first = [run for run in runs if run.seed == 0]
    assert [run.row.cost for run in first] == sorted(run.row.cost for run in first)
    assert {run.name for run in first} == set(paper.ROWS)
    forms = {run.name: {run.form for run in runs if own is run.row} for run in first for own in [run.row]}
    assert all(forms[name] == ({"box", "none"} if row.free else {None}) for name, row in paper.ROWS.items())
    assert len({run.folder for run in runs}) == len(runs)


def test_all_rows_then_nothing_twice(
    paper: ModuleType, calls: Calls, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--dataset_dir", str(folder), "--output_dir", str(tmp_path), *SMALL, *ROWS]
    paper.main(command)
    assert calls == [
        (what, run) for run in (UKAN, OURS) for what in ("training", "evaluating")
    ]  # fmt: skip
    page = (tmp_path / "results.md").read_text()
    assert page in capsys.readouterr().out
    costs = trained(page)
    models = ["U-KAN, box as a channel", "LMSFE-SAM vit_t"]
    assert [row[:5] for row in costs] == [[model, "0", str(SIZE), "cpu", "single"] for model in models]
    for row in costs:
        assert float(row[5]) >= 0 and float(row[6]) > 0.1 and float(row[7]) == 2
    titles = [row[0] for row in table(page, "Model")]
    assert (
        "U-KAN, box as a channel" in titles and "LMSFE-SAM vit_t" in titles and "control: ellipse" in titles
    )
    assert "- `sam` needs SAM's weights: `python benchmarks/paper.py" in page
    assert "--rows sam --weights sam=FILE`" in page
    calls.clear()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    paper.main(command)
    assert calls == []
    changed = [path.name for path, time in before.items() if path.stat().st_mtime_ns != time]
    assert set(changed) <= {"results.md"} and (tmp_path / "results.md").read_text() == page
    paper.main([*command, "--seeds", "0", "1", "--rows", "ukan"])
    assert calls == [(what, "ukan_box_seed1") for what in ("training", "evaluating")]
    costs = trained((tmp_path / "results.md").read_text())
    assert [row[:2] for row in costs] == [
        *([model, "0"] for model in models), [models[0], "1"]
    ], "earlier rows are reported, too"  # fmt: skip
    shares = [
        json.loads((tmp_path / name / "datalist.json").read_text()) for name in (UKAN, "ukan_box_seed1")
    ]
    assert [own["test"] for own in shares] == [shares[0]["test"]] * 2, "another seed has the same split"
    calls.clear()
    paper.main([*command, "--forms", "none", "--rows", "ukan", "--amp"])
    assert calls == [(what, "ukan_none_seed0") for what in ("training", "evaluating")]
    page = (tmp_path / "results.md").read_text()
    assert [row[4] for row in trained(page)] == ["single", "bfloat16", "single", "single"]
    assert ["U-KAN, image alone", "no prompt"] in [row[:2] for row in table(page, "Model")]


def test_results_of_several_machines_make_one_page(
    paper: ModuleType, calls: Calls, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the small folders travel from the first machine to the second."""
    first, second, results = (tmp_path / name for name in ("first", "second", "kept"))
    common = ["--dataset_dir", str(folder), *SMALL, "--results", str(results)]
    paper.main([*common, "--output_dir", str(first), "--rows", "ukan"])
    own = results / UKAN
    assert {path.name for path in own.iterdir()} == {
        "summary.json", "metrics.csv", "images.csv", "settings.json"
    }  # fmt: skip
    for path in own.iterdir():
        assert str(tmp_path) not in path.read_text() and str(folder) not in path.read_text()
        assert path.stat().st_size < 20_000
    settings = json.loads((own / "settings.json").read_text())
    assert (settings["seed"], settings["prompt_form"], settings["dataset_dir"]) == (0, "box", "datalist.json")
    page = (first / "results.md").read_text()
    capsys.readouterr()
    tables.main(["--runs", str(own)])
    assert capsys.readouterr().out == page

    shutil.rmtree(first)
    calls.clear()
    paper.main([*common, "--output_dir", str(second), "--rows", "ukan", "lmsfe_sam_vit_t"])
    assert calls == [("training", OURS), ("evaluating", OURS)], "a row of the other machine is not run again"
    assert f"{UKAN} is finished: see {own}" in capsys.readouterr().out
    page = (second / "results.md").read_text()
    assert [row[0] for row in trained(page)] == ["U-KAN, box as a channel", "LMSFE-SAM vit_t"]

    other = tmp_path / "other data"
    phantoms.main(["--output", str(other), "--count", "12", "--seed", "3"])
    calls.clear()
    with pytest.raises(SystemExit, match=f"{UKAN}' was tested on other images than the test part of"):
        paper.main([*common, *ROWS, "--dataset_dir", str(other), "--output_dir", str(tmp_path / "third")])
    assert calls == []


def test_killed_in_a_row_it_goes_on_there(
    paper: ModuleType, calls: Calls, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--dataset_dir", str(folder), "--output_dir", str(tmp_path), *SMALL, *ROWS]
    record = RunRecorder.__call__

    def killed(self: RunRecorder, engine: Any) -> None:
        record(self, engine)
        if "vit_t" in str(self.folder.path):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            paper.main(command)
    assert calls == [("training", UKAN), ("evaluating", UKAN), ("training", OURS)]
    assert history(tmp_path / OURS) == ["1"]
    assert [row[0] for row in trained((tmp_path / "results.md").read_text())] == ["U-KAN, box as a channel"]
    calls.clear()
    paper.main(command)
    assert calls == [("training", OURS), ("evaluating", OURS)]
    assert history(tmp_path / OURS) == ["1", "2"]
    (tmp_path / OURS / "evaluation" / "summary.json").unlink()  # killed in the evaluation
    (tmp_path / "results" / OURS / "summary.json").unlink()
    calls.clear()
    paper.main(command)
    assert calls == [("evaluating", OURS)]


def test_a_run_that_stopped_early_is_finished(
    paper: ModuleType, calls: Calls, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmsfe_sam.training.handlers import ValidateEpochs

    monkeypatch.setattr(ValidateEpochs, "__call__", _validate_and_stop(ValidateEpochs.__call__))
    rows = ["--rows", "lmsfe_sam_vit_t"]
    command = ["--dataset_dir", str(folder), "--output_dir", str(tmp_path), *SMALL, *rows]
    paper.main(command)
    assert history(tmp_path / OURS) == ["1"]
    calls.clear()
    paper.main(command)
    assert calls == []


def _validate_and_stop(validate: Any) -> Any:
    """What the handler of early stopping does when its patience ends."""

    def stopping(self: Any, engine: Any) -> None:
        validate(self, engine)
        engine.terminate()

    return stopping


def test_one_row_that_fails_does_not_stop_the_others(
    paper: ModuleType,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started = []

    def call(run_id: str, configs: Any, given: Any, run: Any, options: Any) -> None:
        started.append((run_id, run.folder.name))
        raise subprocess.CalledProcessError(1, "python")

    monkeypatch.setattr(paper, "call", call)
    paper.main(["--dataset_dir", str(folder), "--output_dir", str(tmp_path), *SMALL, *ROWS])
    assert started == [("training", UKAN), ("training", OURS)]
    printed = capsys.readouterr().out
    assert f"{UKAN} failed with exit code 1: see {tmp_path / UKAN / 'log.txt'}" in printed
    assert "**Training**" not in printed and not (tmp_path / "results").exists()


def test_a_row_too_slow_for_its_budget_gets_a_smaller_input(
    paper: ModuleType, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial at 128 pixels takes 10 s an image: two passes through four images fit at 128, not at 160."""
    options = paper.arguments(
        ["--dataset_dir", "a", "--output_dir", "b", "--minutes", "1.4", "--rows", "ukan"]
    )
    run = next(paper.planned(options, tmp_path))
    run.folder.mkdir()
    datalist = tmp_path / "datalist.json"
    datalist.write_text(json.dumps({"training": [{}] * 4}))
    trials = []

    def trial(command: list[str], **_: Any) -> SimpleNamespace:
        trials.append(command)
        return SimpleNamespace(stdout="10.0\n")

    monkeypatch.setattr(subprocess, "run", trial)
    assert paper.image_size(run, datalist, options) == paper.image_size(run, datalist, options) == 128
    assert len(trials) == 1 and trials[0][2:4] == ["--probe", "ukan"]
    options.minutes = 0.001
    assert paper.image_size(run, datalist, options) == paper.SMALLEST
    options.minutes = None
    assert paper.image_size(run, datalist, options) == 256


def test_the_trial_itself(paper: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(paper.BUNDLE)
    assert 0 < paper.seconds_an_image("ukan", 1) < 60
