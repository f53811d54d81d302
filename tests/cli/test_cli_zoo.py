"""The bundle's own folder is packaged and passes every check of the zoo, TorchScript and ONNX included."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from child_processes import run_command

PACKAGE = Path(__file__).resolve().parents[2] / "custom" / "lmsfe_sam"
TIME_LIMIT = 400
NEEDS = {"onnx export": ("onnx", "onnxscript"), "metadata schema": ("jsonschema",)}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


def run(folder: Path, *command: object) -> subprocess.CompletedProcess[str]:
    return run_command(folder, sys.executable, *command, limit=TIME_LIMIT)


def test_the_bundle_is_packaged_and_passes_every_check(elsewhere: Path, tmp_path: Path) -> None:
    written = run(elsewhere, PACKAGE / "package.py", "--output", "../out/bundle")
    assert written.returncode == 0, written.stderr
    again = run(elsewhere, "-m", "lmsfe_sam.package", "--output", "../out/bundle")
    assert again.returncode == 1 and again.stdout == ""
    assert again.stderr.startswith("error: output '../out/bundle' is there already")
    before = sorted((tmp_path / "out").rglob("*"))

    schema = tmp_path / "schema.json"  # stands for MONAI's, which is downloaded
    schema.write_text('{"type": "object", "required": ["version", "network_data_format"]}')
    checked = run(elsewhere, "-m", "lmsfe_sam.zoo.verify", "../out/bundle", "--schema", schema)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    rows = [line.strip("| ").split(" | ") for line in checked.stdout.splitlines() if line.startswith("| ")][
        2:
    ]
    states = {row[0]: row[1] for row in rows}
    for name, state in states.items():
        missing = [module for module in NEEDS.get(name, ()) if find_spec(module) is None]
        assert state == ("skipped" if missing else "passed"), (name, checked.stdout)
    assert {
        "data shape",
        "torchscript export",
        "onnx export",
        "loading",
        "commands from another folder",
    } <= set(states)
    assert {f"properties of {kind}" for kind in ("training", "evaluation", "inference")} <= set(states)
    assert sorted((tmp_path / "out").rglob("*")) == before, "the folder that was checked has changed"
