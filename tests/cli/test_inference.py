"""The real command line of inference, in processes of its own."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from child_processes import environment, run_command
from PIL import Image

from lmsfe_sam import LMSFESAM, Predictor
from lmsfe_sam.model.checkpoints import save_weights

EXPECTED_SECONDS = 300


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models") / "model.pt"
    torch.manual_seed(0)
    save_weights(LMSFESAM(preset="vit_t"), path)
    return path


PEAK = """
import pathlib, re, runpy, sys
sys.argv[0] = "-m/monai.bundle"
try:
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
finally:
    print(re.search(r"VmHWM:\\s*(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
"""
"""The command line, and then the peak of its resident memory in KiB.

Not ``ru_maxrss``, which starts at the size of the process that starts the command.
"""


def run(bundle_root: Path, *options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    return run_command(bundle_root, *command, *options, limit=EXPECTED_SECONDS)


def test_sigterm_ends_with_a_sentence_and_the_same_command_does_the_rest(
    bundle_root: Path, checkpoint: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    names = [f"{number:02d}.png" for number in range(12)]
    for name in names:
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 800), np.uint8)).save(folder / name)
    options = ["--input", folder, "--checkpoint", checkpoint, "--output_dir", out]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    process = subprocess.Popen(
        [*command, *map(str, options)], cwd=bundle_root, env=environment(), stderr=subprocess.PIPE, text=True
    )
    limit = time.monotonic() + EXPECTED_SECONDS
    while not (out / "objects.csv").exists() or len((out / "objects.csv").read_text().splitlines()) < 3:
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.01)
    process.terminate()
    _, errors = process.communicate(timeout=EXPECTED_SECONDS)
    assert process.returncode == 143
    assert "Traceback" not in errors
    with (out / "objects.csv").open(newline="") as file:
        done = [row["image"] for row in csv.DictReader(file)]
    assert 2 <= len(done) < 12 and done == sorted(path.name for path in (out / "masks").iterdir())
    last = errors.splitlines()[-1]
    assert last.startswith(f"stopped by SIGTERM. {len(done)} of 12 images are finished in '{out}': the same")
    again = run(bundle_root, *options)
    assert again.returncode == 0, again.stderr
    assert f"{len(done)} of 12 image(s) are finished in" in again.stdout + again.stderr
    with (out / "objects.csv").open(newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == names


def last_lines(process: subprocess.CompletedProcess[str]) -> list[str]:
    """The sentences that the user is left with: all after "error: "."""
    assert "Traceback" not in process.stdout + process.stderr
    _, found, message = process.stderr.rpartition("error: ")
    assert found, process.stderr
    return message.splitlines()


def test_a_folder_with_prompts_and_one_bad_file(bundle_root: Path, checkpoint: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (60, 90, 3), np.uint8)
    Image.fromarray(picture).save(folder / "case 1.png")
    affine = np.diag([-0.3, 0.2, 1.0, 1.0])
    nib.save(nib.Nifti1Image(rng.integers(0, 900, (50, 40, 1), np.int16), affine), folder / "scan.nii.gz")
    (folder / "bad.png").write_bytes((folder / "case 1.png").read_bytes()[:900])
    (folder / "notes.txt").write_text("no image")
    boxes = [[10, 12, 60, 50], [20, 5, 85, 58]]
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps({"case 1.png": {"objects": [{"box": box} for box in boxes]}}))
    process = run(
        bundle_root, "--input", folder, "--prompts", prompts, "--checkpoint", checkpoint,
        "--output_dir", out, "--output_ext", ".nii.gz",
    )  # fmt: skip
    assert process.returncode == 1
    assert last_lines(process)[0] == "1 of 3 inputs were left out:"
    assert "bad.png' cannot be read as a picture" in last_lines(process)[1]
    assert len(last_lines(process)) == 2
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert files == [
        "journal.jsonl", "masks/case 1.nii.gz", "masks/scan.nii.gz", "objects.csv", "overlays/case 1.png",
        "overlays/scan.png",
    ]  # fmt: skip
    mask = nib.load(out / "masks" / "scan.nii.gz")
    assert mask.shape == (50, 40, 1)
    np.testing.assert_allclose(mask.affine, affine, atol=1e-6)
    predictor = Predictor.from_checkpoint(checkpoint)
    predictor.set_image(picture)
    masks, iou = zip(*(predictor.predict(box=box)[:2] for box in boxes), strict=True)
    winner = int(np.argmax(np.concatenate(iou)))
    labels = np.asarray(nib.load(out / "masks" / "case 1.nii.gz").dataobj).T
    np.testing.assert_array_equal(labels == winner + 1, masks[winner][0])
    np.testing.assert_array_equal(labels > 0, masks[0][0] | masks[1][0])
    with (out / "objects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["object"]) for row in rows] == [
        ("case 1.png", "1"), ("case 1.png", "2"), ("scan.nii.gz", "1")
    ]  # fmt: skip
    assert rows[0]["area_mm2"] == ""
    assert float(rows[2]["area_mm2"]) == pytest.approx(0.06 * int(rows[2]["area_px"]), rel=1e-4)


def test_many_boxes_on_a_large_image_take_little_memory(
    bundle_root: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """200 boxes on 2048 x 2048 pixels in windows, while their logits at that size would take 3.1 GiB."""
    side, count = 2048, 200
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (side, side), np.uint8)).save(tmp_path / "large.png")
    corners = rng.integers(0, side - 100, (count, 2))
    boxes = np.concatenate([corners, corners + rng.integers(20, 100, (count, 2))], axis=1)
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps({"large.png": {"objects": [{"box": box} for box in boxes.tolist()]}}))
    command = [
        sys.executable, "-c", PEAK, "run", "--config_file", "configs/inference.json",
        "--input", tmp_path / "large.png", "--prompts", prompts, "--checkpoint", checkpoint,
        "--output_dir", tmp_path / "out", "--mode", "window", "--window_size", "1024",
        "--window_overlap", "0",
    ]  # fmt: skip
    process = run_command(bundle_root, *command, limit=EXPECTED_SECONDS)
    assert process.returncode == 0, process.stderr
    labels = np.asarray(Image.open(tmp_path / "out" / "masks" / "large.png"))
    assert labels.shape == (side, side)
    with (tmp_path / "out" / "objects.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == count
    assert int(process.stdout.split()[-1]) < 2 * 2**20  # KiB; 1.4 GiB were measured, most of them torch


def test_a_wrong_box_is_one_sentence(bundle_root: Path, checkpoint: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((60, 90), np.uint8)).save(tmp_path / "a.png")
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps({"a.png": {"objects": [{"box": [60, 12, 10, 50]}]}}))
    process = run(
        bundle_root, "--input", tmp_path / "a.png", "--prompts", prompts, "--checkpoint", checkpoint,
        "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert process.returncode == 1
    assert last_lines(process) == [
        f"prompts file '{prompts}', 'a.png', object 1: the box [60, 12, 10, 50] is inverted: "
        "give [x0, y0, x1, y1] with x0 < x1 and y0 < y1."
    ]
    assert not (tmp_path / "out").exists()


def test_a_misspelt_key_is_one_sentence(bundle_root: Path, tmp_path: Path) -> None:
    process = run(bundle_root, "--input", tmp_path, "--prompt", "p.json")
    assert process.returncode == 1
    assert last_lines(process)[0].startswith("--prompt is not an option of configs/inference.json")
