"""The folder of an inference run: what is finished, what a rerun does, and what it leaves alone."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lmsfe_sam import journal
from lmsfe_sam.errors import InputError
from lmsfe_sam.files import atomic_write
from lmsfe_sam.images.scale import Scale
from lmsfe_sam.inference import results
from lmsfe_sam.inference.inputs import find_inputs
from lmsfe_sam.inference.results import COLUMNS, Results, format_rows
from lmsfe_sam.inference.saving import SaveResults
from lmsfe_sam.inference.transforms import measure_objects
from lmsfe_sam.stopping import Stopped, raise_stopped

WRITES = [
    (results, "append_whole"),
    (results, "atomic_write"),
    (results, "remove_file"),
    (journal, "append_whole"),
]
OPTIONS = {"slice": None, "mode": "auto", "checkpoint": "none.pt", "output_ext": ".png"}


class TextWriter:
    """Writes a word for an image, in the place of its mask."""

    def __init__(self, folder: str, word: str = "whole") -> None:
        self.folder = folder
        self.word = word

    def name(self, item: Any) -> str:
        return f"{self.folder}/{item['stem']}.png"

    def write(self, path: Path, item: Any) -> None:
        with atomic_write(path) as temporary:
            temporary.write_text(self.word)


def test_temporary_files_are_removed_from_subfolders_too(images: Path, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    left = [out / "masks/ward/.a.png.tmp-a1b2c3d4.png", out / "overlays/.a.png.tmp-a1b2c3d4.png"]
    kept = [out / "masks/ward/.mine.png", elsewhere / ".a.png.tmp-a1b2c3d4.png"]
    for file in (*left, *kept):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (out / "masks/link").symlink_to(elsewhere)
    (out / "masks/ward/loop").symlink_to(out / "masks")
    (out / "journal.jsonl").touch()
    Results(out, {**OPTIONS, "input": images}).start(find_inputs(images))
    assert [file.exists() for file in (*left, *kept)] == [False, False, True, True]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "b", "c"):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / f"{name}.png")
    return folder


def rows_of(record: dict[str, Any]) -> dict[str, Any]:
    return {
        **record,
        "objects": measure_objects(np.ones((2, 2), np.uint8), [0.5], Scale((1.0, 1.0), "header")),
    }


def run(
    images: Path, out: Path, stop_before: str = "", word: str = "whole", prompts: Any = None, **options: Any
) -> list[str]:
    """Do what a run does, and return which images it did; like a kill, it ends before ``stop_before``."""
    records = find_inputs(images, prompts)
    folder = Results(out, {**OPTIONS, "input": str(images), **options})
    saver = SaveResults(folder, [TextWriter("overlays", word), TextWriter("masks", word)])
    folder.start(records)
    done = []
    for record in records:
        if record["name"] == stop_before:
            folder.close()
            return done
        if not folder.is_done(record):
            saver.save(rows_of(record))
            done.append(record["name"])
    folder.write_table()
    folder.close()
    return done


def table(out: Path) -> list[str]:
    with (out / "objects.csv").open(newline="") as file:
        return [row["image"] for row in csv.DictReader(file)]


def outputs(out: Path, folder: str = "masks") -> list[str]:
    return sorted(path.name for path in (out / folder).iterdir())


@pytest.mark.parametrize("rows", [["x"], [{"colour": 1}], [{"image": "\ud800"}]])
def test_a_journal_of_other_rows_is_refused_and_nothing_is_lost(
    images: Path, tmp_path: Path, rows: list[Any]
) -> None:
    out = tmp_path / "out"
    run(images, out)
    path = out / "journal.jsonl"
    lines = path.read_text().splitlines()
    last = json.loads(lines[-1])
    path.write_text("\n".join([*lines[:-1], json.dumps({**last, "rows": rows})]) + "\n")
    with pytest.raises(InputError, match=r"journal\.jsonl' is damaged: move the folder away"):
        run(images, out)
    assert table(out) == ["a.png", "b.png", "c.png"] and len(outputs(out)) == 3


def test_header_and_cells_to_the_letter() -> None:
    rows = measure_objects(
        np.array([[0, 1, 1], [0, 0, 0]], np.uint8), [0.875, -0.25], Scale((0.5, 0.5), "header")
    )
    assert format_rows([{"image": 'a,"b.png', **row} for row in rows]).splitlines() == [
        '"a,""b.png",1,2,0.5,1,0,3,1,0.875,header,',
        '"a,""b.png",2,0,0,,,,,-0.25,header,',
    ]
    assert ",".join(COLUMNS) == "image,object,area_px,area_mm2,x0,y0,x1,y1,predicted_iou,spacing_source,frame"


def test_each_image_has_its_rows_as_soon_as_it_is_finished(images: Path, tmp_path: Path) -> None:
    assert run(images, tmp_path / "out", stop_before="c.png") == ["a.png", "b.png"]
    assert table(tmp_path / "out") == ["a.png", "b.png"]
    assert outputs(tmp_path / "out") == ["a.png", "b.png"]


def test_a_rerun_does_what_is_missing_and_says_so(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    run(images, out, stop_before="c.png")
    caplog.set_level("INFO")
    assert run(images, out) == ["c.png"]
    assert "2 of 3 image(s) are finished in" in caplog.text
    assert table(out) == ["a.png", "b.png", "c.png"]
    assert run(images, out) == []
    assert "nothing is left to do" in caplog.text
    assert table(out) == ["a.png", "b.png", "c.png"]


def test_what_has_changed_is_done_again_and_the_table_keeps_the_order(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(images, out)
    Image.fromarray(np.ones((5, 5), np.uint8)).save(images / "a.png")
    (out / "masks" / "b.png").unlink()
    assert run(images, out) == ["a.png", "b.png"]
    assert table(out) == ["a.png", "b.png", "c.png"]
    prompts = tmp_path / "prompts.json"
    prompts.write_text('{"b.png": {"objects": [{"box": [0, 0, 2, 2]}]}}')
    assert run(images, out, prompts=prompts) == ["b.png"]


def test_a_change_while_the_clock_is_set_back_is_seen(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(images, out)
    earlier = (images / "b.png").stat().st_mtime - 3600
    Image.fromarray(np.full((4, 4), 9, np.uint8)).save(images / "b.png")
    os.utime(images / "b.png", (earlier, earlier))
    assert run(images, out) == ["b.png"]
    assert run(images, out) == []


def test_an_input_that_is_gone_takes_its_results_with_it(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(images, out)
    (images / "b.png").unlink()
    assert run(images, out) == []
    assert table(out) == outputs(out) == outputs(out, "overlays") == ["a.png", "c.png"]


@pytest.mark.parametrize("change", [{"mode": "resize"}, {"checkpoint": "other.pt"}, {"output_ext": ".nii"}])
def test_other_settings_replace_everything_even_if_they_are_killed(
    images: Path, tmp_path: Path, change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    run(images, out, word="old")
    assert run(images, out, stop_before="b.png", word="new", **change) == ["a.png"]
    assert f"from a run with other settings ({next(iter(change))}): they are replaced" in caplog.text
    assert table(out) == outputs(out) == outputs(out, "overlays") == ["a.png"]
    assert (out / "masks" / "a.png").read_text() == "new"


def test_other_weights_in_the_same_file_are_other_settings(images: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.pt"
    for word in ("one", "two"):
        checkpoint.write_text(word)
        assert len(run(images, tmp_path / "out", checkpoint=str(checkpoint))) == 3
    assert run(images, tmp_path / "out", checkpoint=str(checkpoint)) == []


def test_other_folders_are_other_runs(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(images, out)
    (tmp_path / "same").symlink_to(images)
    assert run(tmp_path / "same", out) == []
    assert run(images / "b.png", out) == ["b.png"]
    assert table(out) == outputs(out) == ["b.png"]


@pytest.mark.parametrize("moment", range(1, 9))
def test_a_kill_between_any_two_writes_is_mended(
    images: Path, tmp_path: Path, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write ends the run in turn, as SIGKILL would, and leaves what the next run then finds."""
    out = tmp_path / "out"
    run(images, out, word="old")
    writes = 0

    class Killed(BaseException):
        pass

    def count(original: Any) -> Any:
        def counted(*arguments: Any, **keys: Any) -> Any:
            nonlocal writes
            writes += 1
            if writes == moment:
                raise Killed
            return original(*arguments, **keys)

        return counted

    with monkeypatch.context() as patched:
        for module, name in WRITES:
            patched.setattr(module, name, count(getattr(module, name)))
        with pytest.raises(Killed):
            run(images, out, word="new", mode="resize")
    assert set(run(images, out, word="new", mode="resize")) <= {"a.png", "b.png", "c.png"}
    assert table(out) == outputs(out) == outputs(out, "overlays") == ["a.png", "b.png", "c.png"]
    assert {path.read_text() for path in (out / "masks").iterdir()} == {"new"}


def test_temporary_files_of_a_killed_run_are_removed_and_others_are_not(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(images, out, stop_before="b.png")
    with pytest.raises(KeyError), atomic_write(out / "masks" / "b.nii.gz") as temporary:
        left = temporary.with_name(temporary.name)
        os.link(temporary, tmp_path / "kept")
        raise KeyError
    os.link(tmp_path / "kept", left)
    (out / "masks" / ".mine.png").write_text("mine")
    run(images, out)
    assert sorted(path.name for path in (out / "masks").iterdir()) == [
        ".mine.png", "a.png", "b.png", "c.png"
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["objects.csv", "masks/a.png", "overlays/x.png", "masks/case_mask.png"])
def test_what_no_run_has_noted_is_left_alone(images: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / "out" / name
    file.parent.mkdir(parents=True)
    file.write_text("true masks")
    with pytest.raises(InputError, match=rf"holds '{name}', which no run of inference noted"):
        run(images, tmp_path / "out")
    assert file.read_text() == "true masks"
    assert list((tmp_path / "out").rglob("*.*")) == [file]


def test_no_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"input is missing: .*--input"):
        Results(tmp_path / "out", OPTIONS).start([])
    assert not (tmp_path / "out").exists()


def test_no_place_for_the_results(images: Path) -> None:
    with pytest.raises(InputError, match=r"output_dir '.*a\.png' cannot be written to .*--output_dir"):
        run(images, images / "a.png")


def test_a_signal_waits_until_an_image_is_written(images: Path, tmp_path: Path) -> None:
    import signal
    from types import SimpleNamespace

    class Interrupted(TextWriter):
        def write(self, path: Path, item: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            super().write(path, item)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    records = find_inputs(images)
    folder = Results(tmp_path / "out", {**OPTIONS, "input": str(images)})
    folder.start(records)
    try:
        raise_stopped()
        state = SimpleNamespace(batch=records, output=[rows_of(record) for record in records])
        with pytest.raises(Stopped) as stopped:
            SaveResults(folder, [Interrupted("masks")])(SimpleNamespace(state=state))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert stopped.value.exit_code == 143
    assert table(tmp_path / "out") == outputs(tmp_path / "out") == ["a.png"]
    assert (
        folder.summary()
        == f"1 of 3 images are finished in '{tmp_path / 'out'}': the same command does the rest."
    )
    folder.close()
