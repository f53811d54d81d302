"""Batch inference: the images of folders, manifests and URLs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")

import fsspec
import pyarrow as pa
from pyarrow import parquet

from batch_jobs import save_images
from lmsfe_sam.batch.sources import Source, read_sources
from lmsfe_sam.errors import InputError
from lmsfe_sam.prompts.prompt import ObjectPrompt
from lmsfe_sam.prompts.prompts_file import PromptsByName

BOX = {"box": [1, 2, 30, 40]}
CLICK = {"points": [[5, 6]], "labels": [1]}


def read(source: object, prompts: PromptsByName | None = None, excluded: str = "") -> dict[str, Source]:
    return {found.image: found for found in read_sources(str(source), prompts or {}, excluded)}


def objects(source: Source) -> object:
    return json.loads(source.objects) if source.objects else None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_images(tmp_path / "in", 2)
    save_images(tmp_path / "in" / "sub", 1)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    return tmp_path / "in"


def test_a_folder_with_subfolders_and_without_the_output(folder: Path) -> None:
    save_images(folder / "out" / "masks", 1)
    found = read(folder, excluded=str(folder / "out"))
    assert [*found] == ["0000.png", "0001.png", "sub/0000.png"]
    assert [source.name for source in found.values()] == ["0000", "0001", "sub/0000"]
    assert Path(found["sub/0000.png"].url) == folder / "sub" / "0000.png"


def test_a_folder_in_memory_is_read_as_one_on_disk(folder: Path) -> None:
    memory = fsspec.filesystem("memory")
    for path in folder.rglob("*.png"):
        memory.pipe_file(f"/scans/{path.relative_to(folder)}", path.read_bytes())
    found = read("memory://scans")
    assert [*found] == [*read(folder)]
    assert found["sub/0000.png"].url == "memory://scans/sub/0000.png"
    memory.rm("/scans", recursive=True)


def test_prompts_by_path_or_by_file_name(folder: Path) -> None:
    box = [ObjectPrompt((1, 2, 30, 40))]
    found = read(folder, {"0001.png": box, "sub/0000.png": box})
    assert [objects(source) for source in found.values()] == [None, [BOX], [BOX]]
    with pytest.raises(InputError, match=r"'0000.png', of which there are several: write each one's path"):
        read(folder, {"0000.png": box})
    with pytest.raises(InputError, match=r"'9.png', which is not among the inputs"):
        read(folder, {"9.png": box})


ROWS = [
    {"image": "in/0000.png", "objects": [BOX, CLICK]},
    {"image": "in/sub/0000.png"},
    {"image": "s3://bucket/a/scan.nii.gz", "slice": 3, "name": "mine/scan"},
]


def write_manifest(path: Path) -> None:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif path.suffix == ".parquet":
        names = ("image", "objects", "slice", "name")
        parquet.write_table(pa.table({name: [row.get(name) for row in ROWS] for name in names}), path)
    else:
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, ["image", "slice", "name", "objects"])
            table.writeheader()
            for row in ROWS:
                table.writerow({**row, "objects": json.dumps(row["objects"]) if "objects" in row else ""})


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_manifests_say_the_same_in_every_format(folder: Path, suffix: str) -> None:
    manifest = folder.parent / f"list{suffix}"
    write_manifest(manifest)
    found = read(manifest)
    assert [*found] == ["in/0000.png", "in/sub/0000.png", "s3://bucket/a/scan.nii.gz#3"]
    assert [source.name for source in found.values()] == ["in/0000", "in/sub/0000", "mine/scan"]
    assert [source.slice for source in found.values()] == [None, None, 3]
    assert Path(found["in/0000.png"].url) == folder / "0000.png"
    assert [objects(source) for source in found.values()] == [[BOX, CLICK], None, None]


def test_flat_columns_and_rows_that_follow_each_other_are_objects(tmp_path: Path) -> None:
    manifest = tmp_path / "list.csv"
    manifest.write_text(
        "image,x0,y0,x1,y1,x,y,label\na.png,1,2,30,40,,,\na.png,,,,,5,6,\nb.png,1,2,30,40.5,5,6,0\nc.png,one,2,3,4,,,\n"
    )
    found = read(manifest)
    assert [objects(source) for source in found.values()] == [
        [BOX, CLICK],
        [{"box": [1, 2, 30, 40.5], "points": [[5, 6]], "labels": [0]}],
        [{"box": ["one", 2, 3, 4]}],
    ]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("list.csv", "image\n", "has no row"),
        ("list.csv", "file\na.png\n", "row 1 names no image: give a column 'image'"),
        ("list.csv", "image,bbox\na.png,1\n", "row 1 has the unknown column 'bbox': the columns are image"),
        ("list.csv", "image,name\na.png,../a\n", "the name '../a': give a path without '..'"),
        ("list.csv", "image,slice\na.png,x\n", "the slice 'x': give 0, 1, 2"),
        ("list.csv", "image\na.png,b.png\n", "has more cells than columns"),
        ("list.jsonl", "[1]\n", "a line that is no JSON object"),
        ("list.jsonl", "{\n", "cannot be read"),
        ("list.parquet", "PAR1", "cannot be read"),
        ("list.txt", "a.png", "is no folder, manifest or image"),
    ],
)
def test_a_bad_manifest_ends_in_a_sentence(tmp_path: Path, name: str, content: str, sentence: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=sentence) as caught:
        read(tmp_path / name)
    assert len(str(caught.value)) <= 500


@pytest.mark.parametrize(
    ("source", "sentence"),
    [("missing", "does not exist"), ("nowhere://a/b", "no known protocol"), (".", "holds no image")],
)
def test_input_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=sentence):
        read(source)


def test_a_key_changes_with_prompts_and_content(folder: Path) -> None:
    before = read(folder)["0000.png"]
    assert before.key == read(folder)["0000.png"].key
    assert before.key != read(folder, {"0001.png": [ObjectPrompt()], "sub/0000.png": []})["0001.png"].key
    (folder / "0000.png").write_bytes((folder / "0000.png").read_bytes() + b"\0")
    assert before.key != read(folder)["0000.png"].key
