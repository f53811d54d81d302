"""Bad inputs of batch inference, of the annotation server's command and of the package's other commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bad_files import PAGE, written
from cases import OUT, Case, batch, tool

from data_folders import make_plain, save
from fuzzing import PIXELS


def manifest_cases(folder: Path) -> Iterator[Case]:
    """Manifests that cannot be read, or that say what cannot be."""
    folder.mkdir()
    save(folder / "a.png", PIXELS)
    for number, (ending, content) in enumerate(MANIFESTS):
        file = written(folder / f"m{number}{ending}", content)
        yield batch("--input", file, may_work=number in RECORDED)
    for words in (
        ("--input", folder / "gone.csv"),
        ("--input", "s3://"),
        ("--input", "nothing://a/b.csv"),
        ("--input", "/dev/null"),
        ("--input", folder / "a.png", "--workers", "-1"),
        ("--input", folder / "a.png", "--threads", "0"),
        ("--input", folder / "a.png", "--piece", "0"),
        ("--input", folder / "a.png", "--part", "-5"),
        ("--input", folder / "a.png", "--gpus", "nan"),
        ("--input", folder / "a.png", "--max_failures", "-1"),
        ("--input", folder / "a.png", "--config_file", folder / "a.png"),
        ("--input", folder / "a.png", "--config_file", folder / "gone.json"),
        ("--input", folder / "a.png", "--prompts", folder / "a.png"),
        ("--input", folder / "a.png", "--no_option", "1"),
        ("--input", folder / "a.png", "--checkpoint", folder / "a.png"),
        ("--input", folder / "a.png", "--mode", "sideways"),
        ("--input", folder / "a.png", "--output", "s3://"),
    ):
        yield batch(*words)


RECORDED = (5, 6, 7, 8, 11, 14, 16, 22, 23, 26)
"""Manifests whose one image cannot be segmented: a job notes that in ``failures.parquet``, and goes on."""

MANIFESTS: tuple[tuple[str, str | bytes], ...] = (
    (".csv", ""),
    (".csv", "image\n"),
    (".csv", "picture\na.png\n"),
    (".csv", "image,colour\na.png,red\n"),
    (".csv", "image\na.png,1,2\n"),
    (".csv", "image,x0,y0,x1,y1\na.png,1,1,9\n"),
    (".csv", "image,x0,y0,x1,y1\na.png,9,9,1,1\n"),
    (".csv", "image,x0,y0,x1,y1\na.png,a,b,c,d\n"),
    (".csv", "image,x,y,label\na.png,1,1,7\n"),
    (".csv", "image,slice\na.png,-1\n"),
    (".csv", "image,slice\na.png,1.5\n"),
    (".csv", "image,slice\na.png,3\n"),
    (".csv", "image,name\na.png,../../x\n"),
    (".csv", "image,name\na.png,/\n"),
    (".csv", 'image,objects\na.png,"[{]"\n'),
    (".csv", 'image\n"a.png\n'),
    (".csv", "image\ngone.png\n"),
    (".csv", "image\na.png\na.png\nb.png\na.png\n"),
    (".csv", b"image\n\xff\xfe\xfd.png\n"),
    (".csv", b"\x00" * 200),
    (".jsonl", "[1]\n"),
    (".jsonl", '{"image": 7}\n'),
    (".jsonl", '{"image": "a.png", "objects": 7}\n'),
    (".jsonl", '{"image": "a.png", "objects": [{"box": [1, 1]}]}\n'),
    (".jsonl", '{"image": "a.png"\n'),
    (".jsonl", "[" * 100_000 + "\n"),
    (".jsonl", '{"image": "nothing://a/b.png"}\n'),
    (".jsonl", '{"image": "a.png", "slice": true}\n'),
    (".parquet", PAGE),
    (".parquet", b"PAR1" + bytes(50) + b"PAR1"),
)


def tool_cases(folder: Path) -> Iterator[Case]:
    """The package's other commands."""
    folder.mkdir()
    page = written(folder / "page.csv", PAGE)
    gone, empty = folder / "gone", folder / "empty"
    empty.mkdir()
    results = folder / "results"
    results.mkdir()
    written(results / "summary.json", "[]")
    written(results / "metrics.csv", "image,prompt\n")
    full = written(folder / "file", "") / "below"
    data = make_plain(folder / "data", 4)
    for place in (gone, empty, page, "/dev/null"):
        yield tool("data.audit", place, "--output", OUT + ".html")
        yield tool("tables", "--runs", place)
        yield tool("figures", "--runs", place, "--output", OUT + ".png")
        yield tool("zoo.verify", place)
        yield tool("package", "--bundle", place, "--output", OUT)
        yield tool("selftest", "--bundle", place)
        yield tool("label", "--studies", place, "--app", "/dev/null", "--port", "0")
        yield tool("options", "--configs", place)
        yield tool("zoo.publish", "zoo", place, "--clone", place, "--dry_run")
        yield tool("zoo.publish", "hub", place, "--repo", "a/b", "--dry_run")
    yield tool("tables", "--runs", results)
    yield tool("figures", "--runs", results, "--output", OUT + ".png")
    yield tool("data.audit", data, "--layout", "busi", "--output", OUT + ".html")
    yield tool("data.audit", data, "--output", full)
    yield tool("data.audit", data, "--split_rule", "coin", "--output", OUT + ".html")
    yield tool("data.audit", data, "--seed", "x", "--output", OUT + ".html")
    yield tool("data.phantoms", "--output", full)
    yield tool("data.phantoms", "--output", OUT, "--count", "-1")
    yield tool("data.phantoms", "--output", OUT, "--count", "1", "--seed", "-1")
    yield tool("zoo.publish", "hub", empty, "--repo", "no name", "--dry_run")
    yield tool("selftest", "--device", "abacus")
    for words in LABEL:
        yield tool("label", "--studies", data / "images", "--app", OUT, *words)


LABEL = (
    ("--port", "-1"),
    ("--port", "99999"),
    ("--host", "0.0.0.0"),
    ("--host", "no such host", "--token", "x"),
    ("--token", "two words"),
    ("--allow_origin", "everyone"),
    ("--allow_origin", "http://a/path"),
    ("--allow_host", "http://a"),
    ("--enable", "everything"),
    ("--max_body", "-1"),
    ("--max_body", "nan"),
    ("--max_pixels", "0"),
    ("--timeout", "0"),
    ("--ssl_keyfile", "/dev/null"),
    ("--ssl_certfile", "/gone.pem"),
    ("--ssl_certfile", "/etc/hostname", "--ssl_keyfile", "/etc/hostname"),
    ("--names", ""),
    ("--names", "../../x"),
    ("--bundle", "/nowhere"),
)
