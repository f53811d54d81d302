"""Jobs of batch inference with a stand-in network, on tiny images, and what they left."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import fsspec
import numpy as np
from PIL import Image

from lmsfe_sam.batch.job import BatchOptions

STAND_IN = {"network": "$__import__('boxnet').BoxNetwork()", "image_size": 64, "device": "cpu"}


def save_images(folder: Path, count: int, start: int = 0) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number:04d}.png" for number in range(start, start + count)]
    for name in names:
        Image.fromarray(np.full((40, 50), 200, np.uint8)).save(folder / name)
    return names


def options(source: object, output: object, **others: Any) -> BatchOptions:
    inference = {**STAND_IN, **others.pop("inference", {})}
    return BatchOptions(str(source), str(output), inference=inference, **others)


def read_table(output: object, name: str = "objects") -> list[dict[str, Any]]:
    """Return the rows of all parts, or of one file."""
    from pyarrow import parquet

    system, root = fsspec.core.url_to_fs(str(output))
    system.invalidate_cache()
    path = f"{root}/{name}"
    files = [path] if name.endswith(".parquet") else sorted(system.ls(path, detail=False))
    rows: list[dict[str, Any]] = []
    for file in files:
        with system.open(file, "rb") as stream:
            rows += parquet.read_table(stream).to_pylist()
    return rows


def assert_complete(output: Path, names: list[str]) -> None:
    """Each image has one row and a whole mask, and nothing else lies about."""
    assert Counter(row["image"] for row in read_table(output)) == Counter(names)
    masks = [path for path in (output / "masks").rglob("*") if path.is_file()]
    assert sorted(path.name for path in masks) == sorted(
        Path(name).with_suffix(".png").name for name in names
    )
    for path in masks:
        assert np.asarray(Image.open(path)).shape == (40, 50)
    known = {"masks", "objects", "plan", "settings.json", "summary.json", "failures.parquet", ".lock"}
    assert {path.name for path in output.iterdir()} <= known
    assert not any((output / "plan").iterdir())


@contextmanager
def s3_server(bucket: str) -> Iterator[str]:
    """Start an S3 server on this machine, name it in the environment, and yield a new bucket's URL."""
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    # Moto's buckets belong to the process, so those of an earlier server would still be there.
    with urlopen(f"http://{host}:{port}/moto-api/reset", data=b""):
        pass
    given = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    given |= dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "made-up")
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    fsspec.filesystem("s3").clear_instance_cache()
    fsspec.filesystem("s3").mkdir(bucket)
    try:
        yield f"s3://{bucket}"
    finally:
        running.stop()
        fsspec.filesystem("s3").clear_instance_cache()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
