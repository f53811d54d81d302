"""Batch inference on real local clusters of Ray: killed workers, a stopped writer, failures, S3."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if find_spec("ray") is None:  # it is not imported before it is told of its token
    pytest.skip("Ray is not installed", allow_module_level=True)

import fsspec
from PIL import Image

from batch_jobs import assert_complete, options, read_table, s3_server, save_images
from lmsfe_sam import LMSFESAM
from lmsfe_sam.batch import cluster as workers
from lmsfe_sam.batch import job
from lmsfe_sam.batch.job import run_batch
from lmsfe_sam.errors import InputError
from lmsfe_sam.model.checkpoints import save_weights


@pytest.fixture(scope="module", autouse=True)
def _environment() -> Iterator[None]:
    """Ray's processes find the stand-in network, and know each other by a token of these tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)
        patch.delenv("RAY_ADDRESS", raising=False)
        yield


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of a bucket on an S3 server."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    with s3_server("registry") as url:
        yield url


@pytest.fixture(scope="module")
def running(bucket: str) -> Iterator[str]:
    """The address of a cluster that runs beside the tests, and whose processes can reach the bucket."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["start", "--head", f"--port={port}", "--num-cpus=2", "--object-store-memory=100000000"]
    words += ["--include-dashboard=false", "--disable-usage-stats", "--block"]
    ray = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert ray.stdout is not None
    try:
        if not any("Ray runtime started" in line for line in ray.stdout):
            pytest.skip("Ray does not start: the machine is too busy")
        yield f"127.0.0.1:{port}"
    finally:
        ray.terminate()
        ray.communicate()


@pytest.fixture
def cluster(running: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """RAY_ADDRESS names a running cluster."""
    monkeypatch.setenv("RAY_ADDRESS", running)


def is_ours(process: Path) -> bool:
    """Whether a process descends from this one: other jobs on this machine have workers of the same name."""
    while process.name not in ("0", "1"):
        if process.name == str(os.getpid()):
            return True
        parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
        process = process.with_name(parent)
    return False


def kill_a_worker(killed: list[int], over: threading.Event) -> None:
    """Kill the first process of an actor that has begun to segment."""
    while not over.is_set():
        for process in Path("/proc").glob("[0-9]*"):
            try:
                name = (process / "cmdline").read_bytes()
                ours = name.startswith(b"ray::") and is_ours(process)
            except OSError:
                continue  # it has ended
            if ours and b"MapWorker" in name and b"MapBatches(Worker)" in name:
                os.kill(int(process.name), signal.SIGKILL)
                killed.append(int(process.name))
                return
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are found in /proc")
def test_two_workers_do_what_one_process_does_though_one_is_killed(
    tmp_path: Path,
) -> None:
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


def settled(folder: Path, seconds: float = 3.0) -> int:
    """Return how many files a folder holds once there have been no more for so long."""
    count, since = -1, time.monotonic()
    while time.monotonic() - since < seconds:
        found = len([*folder.iterdir()]) if folder.is_dir() else 0
        if found != count:
            count, since = found, time.monotonic()
        time.sleep(0.1)
    return count


@pytest.mark.usefixtures("cluster")
def test_workers_wait_for_a_writer_that_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = save_images(tmp_path / "in", 60)
    add, ahead = job._Writing.add, []

    def stopped(self: Any, results: Any) -> None:
        if not ahead:
            ahead.append(settled(tmp_path / "out" / "masks"))
        add(self, results)

    monkeypatch.setattr(workers, "AHEAD", 4000)
    monkeypatch.setattr(job._Writing, "add", stopped)
    run_batch(options(tmp_path / "in", tmp_path / "out", workers=1, piece=1))
    assert 1 <= ahead[0] <= 30
    assert_complete(tmp_path / "out", names)


@pytest.mark.usefixtures("cluster")
def test_a_plan_in_several_windows_from_and_to_s3(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3 = fsspec.filesystem("s3")
    names = save_images(tmp_path / "in", 5)
    for name in names:
        s3.put_file(str(tmp_path / "in" / name), f"{bucket}/scans/{name}")
    s3.pipe_file(f"{bucket}/scans/bad.png", b"no picture")
    monkeypatch.setattr(workers, "WINDOW", 3)
    summary = run_batch(options(f"{bucket}/scans", f"{bucket}/out", workers=1, piece=1))
    assert (summary.total, summary.finished, summary.failures) == (6, 5, 1)
    assert {row["image"]: row["mask"] for row in read_table(f"{bucket}/out")} == {
        name: f"masks/{name}" for name in names
    }
    s3.invalidate_cache()
    assert len(s3.find(f"{bucket}/out/masks")) == 5 and not s3.exists(f"{bucket}/out/writer.json")


def test_a_job_that_ends_early_says_why(tmp_path: Path) -> None:
    """In a process of its own, as threads of Ray Data could end it without a word."""
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(b"no picture")
    save_weights(LMSFESAM("vit_t", image_size=64), tmp_path / "model.pt")
    command = [sys.executable, "-m", "lmsfe_sam.batch", "--input", tmp_path, "--output", tmp_path / "out"]
    command += ["--workers", "1", "--piece", "1", "--max_failures", "1", "--device", "cpu"]
    command += ["--checkpoint", tmp_path / "model.pt"]
    ended = subprocess.run(command, capture_output=True, text=True)
    if "Ray does not start" in ended.stderr:
        pytest.skip("Ray does not start: the machine is too busy")
    assert (ended.returncode, "more than max_failures 1" in ended.stderr) == (1, True), ended.stderr[-2000:]
    failures = read_table(tmp_path / "out", "failures.parquet")
    assert len(failures) == 2


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"])
def test_a_cluster_that_is_not_there(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_images(tmp_path / "in", 1)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match=f"RAY_ADDRESS '{address}' names no running cluster"):
        run_batch(options(tmp_path / "in", tmp_path / "out", workers=1))
    assert not (tmp_path / "out").exists()
