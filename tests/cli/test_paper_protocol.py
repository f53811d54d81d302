"""The commands of docs/reading-the-paper.md for either reading of table 1, as they are printed.

On made-up folders in the layouts of the public sets, with a small network and one epoch: which images are
trained on, which choose the epoch, and which are scored.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import monai
import pytest
import torch
from monai.bundle import run as run_bundle

from data_folders import make_busi, make_ddti_views, make_tg3k, make_tn3k
from lmsfe_sam.model.presets import PRESETS
from sam_med2d import build_sam, randomise
from tiny import SIZE, TINY

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reading-the-paper.md"
QUICK = {"image_size": SIZE, "device": "cpu", "threads": 1, "epochs": 1, "correction_steps": 1}
Parts = dict[str, set[str]]


def commands() -> list[list[str]]:
    """Words of the commands in the block that begins with P=."""
    (block,) = re.findall(r"```\nP=(.*?)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    configs, lines = shlex.split(block[0])[0], block[1].splitlines()
    return [shlex.split(line.replace('"$P"', shlex.quote(configs)), comments=True) for line in lines]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    data = tmp_path_factory.mktemp("data")
    return {
        "BUSI": make_busi(data / "BUSI", benign=6, malignant=4),
        "TN3K": make_tn3k(data / "TN3K", train=6, val=2, test=2),
        "TG3K": make_tg3k(data / "TG3K"),
        "DDTI": make_ddti_views(data / "DDTI"),
    }


@pytest.fixture(scope="module")
def runs(
    folders: dict[str, Path], bundle_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """What the commands write, under the names that they give."""
    place, hook = tmp_path_factory.mktemp("runs"), sys.excepthook
    plain = randomise(build_sam(TINY["tiny_b"], SIZE, med2d=True), 0)
    torch.save({"model": plain.state_dict()}, place / "sam-med2d_b.pth")
    paths = {**{name: str(path) for name, path in folders.items()}, "runs": str(place)}

    def moved(text: str) -> str:
        text = text.replace("sam-med2d_b.pth", f"runs/{'sam-med2d_b.pth'}")
        return re.sub(r"\b(BUSI|TN3K|TG3K|DDTI|runs)\b", lambda found: paths[found[0]], text)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(bundle_root)
        patch.setitem(PRESETS, "vit_b", TINY["tiny_b"])
        for words in commands():
            assert words[:5] == ["python", "-m", "monai.bundle", "run", words[4]]
            options = dict(zip((word.removeprefix("--") for word in words[5::2]), words[6::2], strict=True))
            given: dict[str, Any] = {key: _value(moved(value)) for key, value in options.items()}
            given["config_file"] = _value(options["config_file"])
            if words[4] == "training":
                given |= QUICK
            else:
                given |= {"device": "cpu", "output_dir": str(place / "ddti"), "bootstrap": 10, "gallery": 0}
            run_bundle(run_id=words[4], **given)
        options = {**given, "dataset_dir": paths["TN3K"], "output_dir": str(place / "tn3k")}
        run_bundle(run_id="evaluating", **options)
    yield place
    sys.excepthook = hook
    monai.data.set_track_meta(True)
    monai.utils.set_determinism(None)


def _value(text: str) -> Any:
    return json.loads(text.replace("'", '"')) if text.startswith("[") else text


def parts(run: Path) -> Parts:
    content = json.loads((run / "datalist.json").read_text())
    assert content["split_rule"] == "paper"
    sections = {"train": "training", "val": "validation", "test": "test"}
    return {part: {entry["name"] for entry in content[section]} for part, section in sections.items()}


def counts(names: set[str]) -> dict[str, int]:
    sets = [name.split("/")[0] for name in names]
    return {one: sets.count(one) for one in sorted(set(sets))}


def scored(run: Path) -> set[str]:
    with (run / "metrics.csv").open(newline="") as stream:
        return {row["image"] for row in csv.DictReader(stream)}


def test_a_model_for_each_organ(runs: Path) -> None:
    breast, thyroid = parts(runs / "breast"), parts(runs / "thyroid")
    assert (len(breast["train"]), len(breast["test"])) == (8, 2)
    assert counts(thyroid["train"]) == {"tg3k": 12, "tn3k": 8}, "all of TG3K, four fifths of TN3K"
    assert counts(thyroid["test"]) == {"tn3k": 2}
    for own in (breast, thyroid):
        assert own["val"] and own["val"] < own["train"]
        assert not own["train"] & own["test"]


def test_one_model_for_all(runs: Path) -> None:
    both, breast, thyroid = parts(runs / "both"), parts(runs / "breast"), parts(runs / "thyroid")
    for part in ("train", "val", "test"):
        assert both[part] == {f"busi/{name}" for name in breast[part]} | thyroid[part], part


def test_all_of_ddti_is_scored_and_none_of_it_trained_on(runs: Path, folders: dict[str, Path]) -> None:
    images = {f"images/{path.name}" for path in (folders["DDTI"] / "images").iterdir()}
    assert scored(runs / "ddti") == images
    for run in ("breast", "thyroid", "both"):
        assert "ddti" not in counts(parts(runs / run)["train"])


def test_table_3_is_scored_on_the_images_that_training_left_out(runs: Path) -> None:
    assert {f"tn3k/{name}" for name in scored(runs / "tn3k")} == parts(runs / "thyroid")["test"]


def test_what_trains_is_the_papers(runs: Path) -> None:
    for run in ("breast", "thyroid", "both"):
        settings = json.loads((runs / run / "run.json").read_text())["settings"]
        assert (settings["preset"], settings["batch_size"], settings["amp"]) == ("vit_b", 2, False)
        described = json.loads((runs / run / "model.json").read_text())
        assert described["preset"] == "vit_b" and described["position_mode"] == "add"
