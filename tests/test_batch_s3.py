"""Batch inference from and to a real S3 server on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

import fsspec

from batch_jobs import options, read_table, s3_server, save_images
from lmsfe_sam.batch.job import run_batch


@pytest.fixture
def server() -> Iterator[str]:
    with s3_server("registry") as url:
        yield url


def test_a_job_from_and_to_s3_goes_on(server: str, tmp_path: Path) -> None:
    s3 = fsspec.filesystem("s3")
    names = save_images(tmp_path / "in", 3)
    for name in names[:2]:
        s3.put_file(str(tmp_path / "in" / name), f"registry/scans/sub/{name}")
    assert run_batch(options(f"{server}/scans", f"{server}/out")).finished == 2
    s3.put_file(str(tmp_path / "in" / names[2]), f"registry/scans/{names[2]}")
    s3.pipe_file("registry/scans/bad.png", b"no picture")
    s3.invalidate_cache()
    summary = run_batch(options(f"{server}/scans", f"{server}/out"))
    assert (summary.finished_before, summary.finished, summary.failures) == (2, 1, 1)
    found = {row["image"]: row["mask"] for row in read_table(f"{server}/out")}
    assert found == {name: f"masks/{name}" for name in ("sub/0000.png", "sub/0001.png", "0002.png")}
    failure = read_table(f"{server}/out", "failures.parquet")[0]
    assert f"'{server}/scans/bad.png' cannot be read" in failure["sentence"]
    s3.invalidate_cache()
    assert len(s3.find("registry/out/masks")) == 3
    assert not s3.exists("registry/out/writer.json") and not s3.find("registry/out/plan")
