"""Disks that are full and folders that are read-only: a sentence, nothing half written, and no loss."""

from __future__ import annotations

import csv
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lmsfe_sam import LMSFESAM
from lmsfe_sam.errors import InputError
from lmsfe_sam.evaluation.settings import lock_folder
from lmsfe_sam.files import atomic_write, close_logs, ensure_folder
from lmsfe_sam.images.scale import Scale
from lmsfe_sam.inference.inputs import find_inputs
from lmsfe_sam.inference.results import Results
from lmsfe_sam.inference.saving import SaveResults
from lmsfe_sam.inference.transforms import measure_objects
from lmsfe_sam.model.checkpoints import save_weights
from lmsfe_sam.training.run_folder import RunFolder, write_history
from tiny import SIZE

KILOBYTE = 1024
ROW = {"epoch": 1, "loss": 0.5}


class LargeWriter:
    """Writes 30 kB for an image, in the place of its mask."""

    def name(self, item: Any) -> str:
        return f"masks/{item['stem']}.png"

    def write(self, path: Path, item: Any) -> None:
        with atomic_write(path) as temporary:
            temporary.write_bytes(b"x" * 30 * KILOBYTE)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abcd":
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / f"{name}.png")
    return folder


def segment(images: Path, out: Path) -> None:
    """Do what a run of inference does with its folder."""
    folder = Results(out, {"input": str(images), "checkpoint": "none.pt", "output_ext": ".png"})
    try:
        records = find_inputs(images)
        folder.start(records)
        for record in records:
            if not folder.is_done(record):
                objects = measure_objects(np.ones((2, 2), np.uint8), [0.5], Scale((1.0, 1.0), "header"))
                SaveResults(folder, [LargeWriter()]).save({**record, "objects": objects})
        folder.write_table()
    finally:
        folder.close()


def rows(out: Path) -> list[str]:
    with (out / "objects.csv").open(newline="") as file:
        return [row["image"] for row in csv.DictReader(file)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 120 kB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = shutil.which("mount")
    words = [str(mount), "-t", "tmpfs", "-o", f"size={120 * KILOBYTE}", "tmpfs", str(place)]
    if mount is None or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process grows beyond a size, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_inference_on_a_full_disk_keeps_what_is_finished_and_goes_on(images: Path, small_disk: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(30 * KILOBYTE))
    out = small_disk / "out"
    with pytest.raises(
        InputError, match=r"could not be written \(No space left on device\): free some space"
    ):
        segment(images, out)
    finished = rows(out)
    assert 0 < len(finished) < 4
    assert all((out / "masks" / name).stat().st_size == 30 * KILOBYTE for name in finished)
    assert not list(out.rglob(".*"))
    (images / "d.png").unlink()
    filler.unlink()
    segment(images, out)
    assert rows(out) == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize("size", [0, 40, 500, 20 * KILOBYTE])
def test_inference_that_cannot_write_is_a_sentence_whatever_file_it_is(
    images: Path, tmp_path: Path, size: int
) -> None:
    with largest_file(size), pytest.raises(InputError, match=r"written .*--output_dir"):
        segment(images, tmp_path / "out")
    assert not list((tmp_path / "out").rglob(".*"))
    segment(images, tmp_path / "out")
    assert rows(tmp_path / "out") == ["a.png", "b.png", "c.png", "d.png"]


def test_a_training_folder_on_a_full_disk_keeps_its_files_whole(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    with largest_file(0), pytest.raises(InputError, match=r"run' cannot be written to"):
        RunFolder(out, None, {"seed": 0})
    folder = RunFolder(out, None, {"seed": 0})
    write_history(folder, [ROW])
    before = (folder / "history.csv").read_text()
    with largest_file(50), pytest.raises(InputError, match=r"history\.csv' could not be written"):
        write_history(folder, [ROW] * 100)
    folder.close()
    assert (folder / "history.csv").read_text() == before and not list(folder.path.glob(".*"))


@pytest.mark.usefixtures("small_presets")
def test_weights_on_a_full_disk_leave_the_old_ones(tmp_path: Path) -> None:
    network = LMSFESAM(preset="vit_t", image_size=SIZE)
    save_weights(network, tmp_path / "model.pt")
    before = (tmp_path / "model.pt").read_bytes()
    with largest_file(10_000), pytest.raises(InputError, match=r"model\.pt' could not be written"):
        save_weights(network, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_bytes() == before
    assert torch.load(tmp_path / "model.pt", weights_only=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.pt"]


@pytest.mark.parametrize("place", ["read_only", "/proc"])
def test_a_folder_that_is_read_only_is_a_sentence(images: Path, tmp_path: Path, place: str) -> None:
    folder = tmp_path / place
    if place == "read_only":
        folder.mkdir()
        folder.chmod(0o555)
        if os.access(folder, os.W_OK):
            pytest.skip("this user may write everywhere")
    out = folder / "out"
    with pytest.raises(InputError, match=r"output_dir '.*out' cannot be written to .*--output_dir"):
        segment(images, out)
    with pytest.raises(InputError, match=r"output_dir '.*out' cannot be written to .*--output_dir"):
        RunFolder(str(out), None, {"seed": 0})
    with pytest.raises(InputError, match=r"output_dir '.*out' cannot be written to .*--output_dir"):
        ensure_folder(out, "output_dir")
    with pytest.raises(InputError, match=r"evaluation\.log' could not be written"):
        lock_folder(str(folder))
    close_logs()
