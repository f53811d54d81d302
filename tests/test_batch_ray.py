"""Batch inference on a real local cluster of Ray, one of whose workers is killed on the way."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ray")

from PIL import Image

from batch_jobs import assert_complete, options, read_table, save_images
from lmsfe_sam.batch.job import run_batch
from lmsfe_sam.errors import InputError


def kill_a_worker(killed: list[int], over: threading.Event) -> None:
    """Kill the first process of an actor that has begun to segment."""
    while not over.is_set():
        for process in Path("/proc").glob("[0-9]*"):
            try:
                name = (process / "cmdline").read_bytes()
            except OSError:
                continue  # it has ended
            if name.startswith(b"ray::") and b"MapWorker" in name and b"MapBatches(Worker)" in name:
                os.kill(int(process.name), signal.SIGKILL)
                killed.append(int(process.name))
                return
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are found in /proc")
def test_two_workers_do_what_one_process_does_though_one_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))  # the workers' stand-in network
    names = save_images(tmp_path / "in", 9)
    (tmp_path / "in" / "bad.png").write_bytes(b"\x89PNG")
    alone, together = tmp_path / "alone", tmp_path / "together"
    run_batch(options(tmp_path / "in", alone))
    killed: list[int] = []
    over = threading.Event()
    killer = threading.Thread(target=kill_a_worker, args=(killed, over))
    killer.start()
    try:
        summary = run_batch(options(tmp_path / "in", together, workers=2, piece=2))
    except InputError as error:
        if "Ray does not start" in str(error):
            pytest.skip(str(error))
        raise
    finally:
        over.set()
        killer.join()
    assert killed
    assert (summary.total, summary.finished, summary.failures) == (10, 9, 1)
    assert_complete(together, names)
    assert [row["image"] for row in read_table(together, "failures.parquet")] == ["bad.png"]
    expected = {row["image"]: row["area_px"] for row in read_table(alone)}
    assert {row["image"]: row["area_px"] for row in read_table(together)} == expected
    for name in names:
        masks = (np.asarray(Image.open(out / "masks" / name)) for out in (alone, together))
        np.testing.assert_array_equal(*masks)
