"""Batch inference in one process: what it writes, what a rerun does, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("pyarrow")

import fsspec
from PIL import Image

from batch_jobs import assert_complete, options, read_table, save_images
from lmsfe_sam.batch import claim, job, record, storage, worker
from lmsfe_sam.batch.__main__ import inference_options
from lmsfe_sam.batch.job import run_batch
from lmsfe_sam.batch.storage import Store
from lmsfe_sam.errors import InputError
from lmsfe_sam.inference.results import COLUMNS
from lmsfe_sam.stopping import Stopped, raise_stopped

BOX = [10, 5, 30, 25]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_images(tmp_path / "in", 5)
    return tmp_path / "in"


def test_masks_rows_and_failures_of_a_manifest(tmp_path: Path) -> None:
    names = save_images(tmp_path / "a", 2)
    affine = np.diag([-0.3, 0.2, 1.0, 1.0])
    nib.save(nib.Nifti1Image(np.full((50, 40, 1), 9, np.int16), affine), tmp_path / "scan.nii.gz")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG")
    rows = [
        {"image": f"a/{names[0]}", "objects": [{"box": BOX}, {"box": [35, 30, 45, 38]}]},
        {"image": f"a/{names[1]}", "objects": [{"box": [60, 5, 70, 25]}]},
        {"image": "scan.nii.gz", "objects": [{"box": BOX}]},
        {"image": "bad.png"},
        {"image": "gone.png"},
        {"image": f"{tmp_path}/a/{names[0]}", "name": "again", "objects": "a box"},
    ]
    manifest = tmp_path / "list.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    summary = run_batch(options(manifest, out, inference={"output_ext": ".nii.gz"}, overlays=True))
    assert (summary.total, summary.finished, summary.failures, summary.objects) == (6, 2, 4, 3)
    table = read_table(out)
    assert [(row["image"], row["object"]) for row in table] == [
        ("a/0000.png", 1), ("a/0000.png", 2), ("scan.nii.gz", 1)
    ]  # fmt: skip
    assert {*COLUMNS, "mask", "key"} == {*table[0]}
    assert table[0]["area_px"] == 400 and table[0]["area_mm2"] is None
    assert [table[0][name] for name in ("x0", "y0", "x1", "y1")] == BOX
    assert table[2]["area_mm2"] == pytest.approx(24)
    mask = nib.load(out / table[2]["mask"])
    assert mask.shape == (50, 40, 1)
    np.testing.assert_allclose(mask.affine, affine, atol=1e-6)
    assert (out / "overlays" / "scan.png").is_file()
    failures = {row["image"]: row["sentence"] for row in read_table(out, "failures.parquet")}
    assert [*failures] == ["a/0001.png", "bad.png", "gone.png", f"{tmp_path}/a/0000.png"]
    assert "the box [60, 5, 70, 25] lies outside" in failures["a/0001.png"]
    assert "0000.png': its prompts: the objects are a text" in failures[f"{tmp_path}/a/0000.png"]
    assert "cannot be read" in failures["bad.png"] and "gone.png" in failures["gone.png"]
    content = json.loads((out / "summary.json").read_text())
    assert content["failures"] == 4 and content["bytes_read"] > 0 and content["images_per_second"] > 0


def test_a_rerun_does_what_is_missing_and_says_how_much(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    caplog.set_level("INFO")
    assert run_batch(options(folder, out)).finished == 5
    save_images(folder, 2, start=5)
    summary = run_batch(options(folder, out))
    assert (summary.finished_before, summary.finished) == (5, 2)
    assert "5 of 7 images are finished in" in caplog.text and "segmenting 2" in caplog.text
    assert run_batch(options(folder, out)).finished == 0
    assert "nothing is left to do" in caplog.text
    assert_complete(out, [f"{number:04d}.png" for number in range(7)])


def test_what_has_changed_or_lost_its_mask_is_done_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_batch(options(folder, out))
    Image.fromarray(np.zeros((40, 50), np.uint8)).save(folder / "0001.png")
    (out / "masks" / "0003.png").unlink()
    assert run_batch(options(folder, out)).finished == 2
    assert_complete(out, [f"{number:04d}.png" for number in range(5)])


@pytest.mark.parametrize("other", [{"mode": "resize"}, {"output_ext": ".nrrd"}, {"checkpoint": "other.pt"}])
def test_other_settings_or_weights_are_refused(folder: Path, tmp_path: Path, other: dict[str, Any]) -> None:
    weights = tmp_path / "other.pt"
    out = tmp_path / "out"
    run_batch(options(folder, out))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    if "checkpoint" in other:
        from lmsfe_sam import LMSFESAM
        from lmsfe_sam.model.checkpoints import save_weights

        save_weights(LMSFESAM(preset="vit_t"), weights)
        other = {"checkpoint": str(weights)}
    with pytest.raises(InputError, match=rf"made with other settings \({next(iter(other))}\)"):
        run_batch(options(folder, out, inference=other))
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


def test_too_many_failures_end_the_job_and_keep_what_is_done(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("0001.png", "0002.png"):
        (folder / name).write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"2 images failed, more than max_failures 1: read failures.parquet"):
        run_batch(options(folder, out, max_failures=1))
    assert [row["image"] for row in read_table(out)] == ["0000.png"]
    assert len(read_table(out, "failures.parquet")) == 2
    save_images(folder, 2, start=1)
    assert run_batch(options(folder, out, max_failures=1)).finished == 4
    assert read_table(out, "failures.parquet") == []


def test_parts_hold_as_many_images_as_asked(folder: Path, tmp_path: Path) -> None:
    run_batch(options(folder, tmp_path / "out", part=2, piece=3))
    parts = sorted((tmp_path / "out" / "objects").iterdir())
    assert [path.name for path in parts] == [f"part-{number:08d}.parquet" for number in range(3)]
    assert_complete(tmp_path / "out", [f"{number:04d}.png" for number in range(5)])


def test_a_signal_ends_with_a_sentence_and_what_is_done_is_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raise_stopped()
    segment = worker.Pipeline.segment

    def stop(self: Any, loaded: Any) -> Any:
        if loaded["name"] == "0003.png":
            signal.raise_signal(signal.SIGTERM)
        return segment(self, loaded)

    monkeypatch.setattr(worker.Pipeline, "segment", stop)
    with pytest.raises(Stopped, match=r"3 of 5 images are finished in .* The same command does the rest"):
        run_batch(options(folder, tmp_path / "out"))
    monkeypatch.undo()
    assert len(read_table(tmp_path / "out")) == 3
    assert run_batch(options(folder, tmp_path / "out")).finished == 2
    assert_complete(tmp_path / "out", [f"{number:04d}.png" for number in range(5)])


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it is done."""


@pytest.mark.parametrize("write", range(13))
def test_a_kill_before_any_write_leaves_nothing_torn_twice_or_lost(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    out, names, count = tmp_path / "out", [f"{number:04d}.png" for number in range(5)], 0
    publish = storage.Store.publish

    def killed(self: Any, file: Path, name: str) -> None:
        nonlocal count
        count += 1
        if count > write:
            raise Killed
        publish(self, file, name)

    monkeypatch.setattr(storage.Store, "publish", killed)
    try:
        run_batch(options(folder, out, part=2))
        assert write == 12
    except Killed:
        pass
    monkeypatch.undo()
    rows = [row["image"] for row in read_table(out)] if (out / "objects").is_dir() else []
    assert len(rows) == len(set(rows)) and set(rows) <= set(names)
    for row in rows:
        assert np.asarray(Image.open(out / "masks" / row)).shape == (40, 50)
    run_batch(options(folder, out, part=2))
    assert_complete(out, names)


def test_an_image_that_kills_its_process_is_given_up(tmp_path: Path) -> None:
    attempts = worker.Attempts(tmp_path)
    for number in range(worker.ATTEMPTS):
        assert attempts.count(7) == number
        attempts.add(7)
    one = object.__new__(worker.Worker)
    one.attempts = attempts
    loaded, sentence, _ = one.begin({"number": 7, "url": "a.png"})
    assert loaded is None and "'a.png' ended the process 3 times" in sentence
    attempts.end(7)
    assert attempts.count(7) == 0


def test_one_writer_an_output(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    program = (
        "import sys, time; from lmsfe_sam.batch.claim import claim; from lmsfe_sam.batch.storage import Store"
    )
    program += "\nwith claim(Store(sys.argv[1], 'other')):\n    print('claimed', flush=True); time.sleep(60)"
    import subprocess
    import sys

    other = subprocess.Popen([sys.executable, "-c", program, str(out)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "claimed\n"
        with pytest.raises(InputError, match="in use by another job"):
            run_batch(options(folder, out))
    finally:
        other.kill()
        other.communicate()
    assert run_batch(options(folder, out)).finished == 5


def test_a_claim_without_locks_is_left_by_the_dead_and_kept_by_the_living() -> None:
    mine, theirs = Store("memory://claimed", "mine"), Store("memory://claimed", "theirs")
    with claim.claim(theirs) as claimed:
        writer = json.loads(theirs.read(claim.WRITER) or b"")
        theirs.write(claim.WRITER, json.dumps({**writer, "process": os.getppid()}).encode())
        with pytest.raises(InputError, match="in use by another job"), claim.claim(mine):
            pass
        theirs.write(claim.WRITER, json.dumps({**writer, "host": "another", "time": 0}).encode())
        with claim.claim(mine), pytest.raises(InputError, match="taken over by another job"):
            claimed.check()
    assert mine.read(claim.WRITER) is None


def test_files_that_no_job_wrote_are_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "masks").mkdir(parents=True)
    (tmp_path / "out" / "masks" / "mine.png").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"holds 'masks/mine.png', which no batch job wrote"):
        run_batch(options(folder, tmp_path / "out"))
    assert not (tmp_path / "out" / "settings.json").exists()


def test_an_output_in_memory_is_whole(folder: Path) -> None:
    assert run_batch(options(folder, "memory://results")).finished == 5
    assert {row["image"] for row in read_table("memory://results")} == {
        f"{number:04d}.png" for number in range(5)
    }
    assert run_batch(options(folder, "memory://results")).finished == 0
    memory = fsspec.filesystem("memory")
    assert len(memory.ls("/results/masks")) == 5
    memory.rm("/results", recursive=True)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (["a.png", "b.png", "a.png"], "image 'a.png' is there twice"),
        (["a.png", "A.bmp"], "image 'A.bmp' has results by the name of another's"),
    ],
)
def test_images_that_would_be_written_twice_are_refused(
    tmp_path: Path, rows: list[str], sentence: str
) -> None:
    manifest = tmp_path / "list.csv"
    manifest.write_text("\n".join(["image", *rows]))
    with pytest.raises(InputError, match=sentence):
        run_batch(options(manifest, tmp_path / "out"))


def test_the_table_has_a_type_for_every_column() -> None:
    assert {*record.TYPES} <= {*COLUMNS}
    assert [field.name for field in record.ROW] == [name for name in COLUMNS if name != "image"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--chekpoint", "a.pt"], "--chekpoint is no option: did you mean --checkpoint"),
        (["--output_dir", "a"], "--output_dir is no option"),
        (["stray"], "'stray' belongs to no option"),
    ],
)
def test_options_that_are_none(words: list[str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        inference_options(words)
    assert inference_options(["--mode", "zoom", "--slice=3"]) == {"mode": "zoom", "slice": 3}


def test_values_that_cannot_be(folder: Path, tmp_path: Path) -> None:
    for others in (
        {"threads": 0},
        {"part": 0},
        {"inference": {"mode": "none"}},
        {"inference": {"device": "x"}},
    ):
        with pytest.raises(InputError, match=f"^({'|'.join([*others, 'mode', 'device'])}) is "):
            run_batch(options(folder, tmp_path / "out", **others))
    assert not (tmp_path / "out").exists()
    assert job.SUMMARY == "summary.json"
