"""Figures of images x methods: files, what is drawn, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lmsfe_sam import figures
from lmsfe_sam.data.datalist import build_datalist
from lmsfe_sam.data.phantoms import __main__ as phantoms
from lmsfe_sam.data.transforms.loading import load_image_and_mask
from lmsfe_sam.errors import InputError
from lmsfe_sam.evaluation.report.runs import read_run
from test_tables import UKAN, evaluation


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "made up"
    phantoms.main(["--output", str(path), "--count", "3", "--seed", "5"])
    return path


def run(data: Path, folder: Path, shift: int = 0) -> str:
    """An evaluation whose masks are the truth at 64 x 64, moved to the right."""
    records = {record["name"]: record for record in build_datalist(data).select("all")}
    path = evaluation(folder, UKAN, images=sorted(records), dataset="made up")
    for name, record in records.items():
        mask = Image.fromarray(load_image_and_mask(record)[1] > 0).resize((64, 64), Image.Resampling.NEAREST)
        file = (folder / "masks" / "box" / name).with_suffix(".png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(np.asarray(mask), shift, axis=1)).save(file)
    return path


def test_a_figure_for_every_run(data: Path, tmp_path: Path) -> None:
    runs = [run(data, tmp_path / "a"), run(data, tmp_path / "b", 3)]
    files = [tmp_path / "figure.png", tmp_path / "figure.pdf"]
    figures.main(["--runs", *runs, "--dataset_dir", str(data), "--count", "2", "--output", *map(str, files)])
    assert Image.open(files[0]).size[0] == pytest.approx(3 * 1.8 * 200, abs=2)
    assert files[1].read_bytes().startswith(b"%PDF")
    records = {record["name"]: record for record in build_datalist(data).select("all")}
    found = [read_run(path) for path in runs]
    assert figures.choose_images(found[0], "box", 2) == [
        "images/phantom_00002.png",
        "images/phantom_00000.png",
    ]
    figure = figures.draw(found, records, ["images/phantom_00001.png"])
    image, first, second = figure.axes
    assert first.get_title() == "U-KAN, box as a channel\ntight box"
    assert first.get_xlabel() == "Dice 1.000"
    assert not image.collections
    truth, prediction = (lines.get_paths()[0].vertices for lines in second.collections)
    assert prediction[:, 0].mean() > truth[:, 0].mean() + 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"--output": "figure.svg"},
            "output 'figure.svg' is no figure: give a name that ends in .png or .pdf",
        ),
        ({"--images": "z.png"}, "images names 'z.png', which the runs did not evaluate"),
        ({"--prompts": "point"}, "has none of the modes point: name one of box with --prompts"),
        ({"--count": "0"}, "count is 0"),
    ],
)
def test_refusals(data: Path, tmp_path: Path, changes: dict[str, str], sentence: str) -> None:
    options: dict[str, Any] = {"--runs": run(data, tmp_path / "a"), "--dataset_dir": str(data)}
    options |= {"--output": str(tmp_path / "figure.png"), **changes}
    with pytest.raises(InputError, match=sentence):
        figures.main([word for pair in options.items() for word in pair])


def test_masks_that_were_not_saved(data: Path, tmp_path: Path) -> None:
    names = [record["name"] for record in build_datalist(data).select("all")]
    path = evaluation(tmp_path / "a", UKAN, images=sorted(names))
    with pytest.raises(InputError, match=r"lacks the mask .* evaluate again with --save_masks True"):
        figures.main(["--runs", path, "--dataset_dir", str(data), "--output", str(tmp_path / "f.png")])
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["dataset"] == "busi"


def test_names_are_no_formulas(data: Path, tmp_path: Path) -> None:
    """matplotlib would set what stands between two dollar signs, or fail at it."""
    path = run(data, tmp_path / "a")
    content = json.loads((tmp_path / "a" / "summary.json").read_text())
    content["network"] = {"network": r"my.$\frac$"}
    (tmp_path / "a" / "summary.json").write_text(json.dumps(content))
    records = {record["name"]: record for record in build_datalist(data).select("all")}
    figure = figures.draw([read_run(path)], records, sorted(records)[:1])
    figure.savefig(tmp_path / "figure.pdf")
    assert all(not axes.title.get_parse_math() for axes in figure.axes[1:])


def test_objects_one_by_one_are_refused(data: Path, tmp_path: Path) -> None:
    path = evaluation(tmp_path / "a", UKAN, images=["images/phantom_00000.png#1"], objects="parts")
    with pytest.raises(InputError, match=r"which scored objects one by one, .* --objects union"):
        figures.main(["--runs", path, "--dataset_dir", str(data), "--output", str(tmp_path / "f.png")])
