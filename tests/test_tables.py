"""Tables from evaluations: what stands in them, what is the paper's, and which runs do not go together."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from lmsfe_sam import tables
from lmsfe_sam.errors import InputError
from lmsfe_sam.evaluation.comparison import HEADER
from lmsfe_sam.evaluation.metrics import COLUMNS
from lmsfe_sam.evaluation.report.published import ABLATION, PUBLISHED, TOGGLES
from lmsfe_sam.evaluation.report.runs import read_run

SAM_MED2D = {"baseline": "sam_med2d", "image_size": 256, "freeze_encoder": True}
UKAN = {"baseline": "ukan", "image_size": 128, "prompt_form": "box"}
OURS = {"preset": "vit_b", "image_size": 256, **dict.fromkeys(TOGGLES, True)}


def evaluation(folder: Path, network: dict[str, Any], dice: float = 0.8, **changes: Any) -> str:
    """Write a folder as ``run evaluating`` does; Dice is ``dice`` on a.png and .2 higher on b.png."""
    folder.mkdir(parents=True)
    images = changes.pop("images", ["a.png", "b.png"])
    ellipse = changes.pop("ellipse", 0.9)
    modes = changes.pop("modes", {"box": dice, "control_ellipse": ellipse})
    with (folder / "metrics.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(HEADER)
        for i, image in enumerate(images):
            for mode, value in modes.items():
                values = [value + (0.2 * i if mode == "box" else 0)] * (len(COLUMNS) - 1)
                writer.writerow([image, mode, *values, ""])
    (folder / "images.csv").write_text("image,group\n" + "".join(f"{image},{image}\n" for image in images))
    means = {mode: {"dice": {"mean": value + (0.1 if mode == "box" else 0)}} for mode, value in modes.items()}
    summary = {"dataset": "busi", "split": "test", "metric_size": 256, "prompts": means, "network": network}
    (folder / "summary.json").write_text(json.dumps({**summary, **changes}))
    return str(folder)


def rows(table: tables.Table) -> dict[str, list[str]]:
    return {row[0]: row for row in table.rows}


def test_a_row_stands_beside_the_papers(tmp_path: Path) -> None:
    runs = [evaluation(tmp_path / "a", SAM_MED2D), evaluation(tmp_path / "b", UKAN, 0.5)]
    (table,) = tables.make_tables([read_run(path) for path in runs])
    assert table.caption == "Table 2: busi, 2 images, split test"
    found = rows(table)
    at = table.heads.index("Dice")
    assert found["SAM-Med2D"][at] == "0.900 (0.800 to 1.000)"
    assert found["U-KAN, box as a channel"][2] == "128"
    printed = found["SAM-Med2D †"]
    assert printed[at : at + 6] == ["0.8838", "0.7961", "0.8751", "0.9832", "0.9807", "14.4 mm"]
    assert {name.removesuffix(" †") for name in found if name.endswith("†")} == set(PUBLISHED["busi"])
    assert list(found).index("SAM-Med2D †") == list(found).index("SAM-Med2D") + 1
    assert found["control: ellipse"][at] == "0.900 (0.900 to 0.900)"
    assert any("not to be compared" in note for note in table.notes)


def test_seeds_become_one_row(tmp_path: Path) -> None:
    training = {"max_minutes": 120, "device": "cpu"}
    runs = [
        evaluation(tmp_path / str(seed), UKAN, 0.4 + 0.1 * seed, training={**training, "seed": seed})
        for seed in range(3)
    ]
    (table,) = tables.make_tables([read_run(path) for path in runs])
    row = rows(table)["U-KAN, box as a channel"]
    assert row[3] == "3" and row[4].startswith("0.600 (")
    assert "Rows were trained with a budget of 120 minutes of machine time each." in table.notes
    assert any("Dice of the seeds 0.500, 0.600, 0.700, deviation 0.100" in note for note in table.notes)


def test_what_training_cost(tmp_path: Path) -> None:
    """Once for a network that was evaluated on two sets; nothing for a run that says nothing."""
    training = {"minutes": 90.0, "peak_memory_gib": 2.25, "steps": 300, "steps_an_epoch": 200, "seed": 1}
    training["precision"] = "bfloat16"
    runs = [
        evaluation(tmp_path / "a", UKAN, training={**training, "device": "cpu"}),
        evaluation(tmp_path / "b", UKAN, training={**training, "device": "cpu"}, dataset="ddti"),
        evaluation(tmp_path / "c", OURS, training={"max_minutes": 5}),
        evaluation(tmp_path / "d", SAM_MED2D),
        evaluation(tmp_path / "e", {**UKAN, "prompt_form": "none"}, training={"minutes": 6}),
    ]
    *_, table = tables.make_tables([read_run(path) for path in runs])
    assert table.caption == "Training"
    assert table.rows == [
        ["U-KAN, box as a channel", "1", "128", "cpu", "bfloat16", "1.50", "2.2", "1.5"],
        ["U-KAN, image alone", "", "128", "", "", "0.10", "", ""],
    ]


def test_the_ablation(tmp_path: Path) -> None:
    base = {**OURS, **dict.fromkeys(TOGGLES, False)}
    runs = [evaluation(tmp_path / "base", base, 0.3), evaluation(tmp_path / "all", OURS, 0.7)]
    _, table = tables.make_tables([read_run(path) for path in runs])
    assert table.caption == "Table 5: ablation of vit_b"
    found = rows(table)
    assert found["Baseline"][:6] == ["Baseline", "no", "no", "no", "no", "tight box"]
    assert found["LMSFE-SAM"][7].startswith("0.800 (")
    assert found["Ablation 3 †"][1:5] == ["yes", "no", "no", "yes"]
    assert found["Ablation 3 †"][7:9] == ["0.7828", "0.6759"]
    assert {name.removesuffix(" †") for name in found} == set(ABLATION)


def test_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = evaluation(tmp_path / "a", UKAN)
    tables.main(["--runs", run])
    printed = capsys.readouterr().out
    assert "| U-KAN, box as a channel | tight box | 128 | 1 | 0.900 (0.800 to 1.000) |" in printed
    assert "| *U-KAN †* | *unsaid* |" in printed
    tables.main(["--runs", run, "--format", "md,tex,csv", "--output", str(tmp_path / "table")])
    assert (tmp_path / "table.md").read_text() == printed.removesuffix("\n")
    latex = (tmp_path / "table.tex").read_text()
    assert r"\textit{U-KAN $\dagger$}" in latex and r"95 \%" in latex and latex.count(r"\begin{tabular}") == 1
    content = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    assert content[0]["Model"] == "U-KAN, box as a channel" and content[0]["Source"] == "this project"
    assert content[1]["Source"] == "the paper"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"images": ["a.png", "c.png"]}, r"different images \(2 in one of them alone, 'b.png' first\)"),
        ({"metric_size": "native"}, "metric_size 256 and native"),
        ({"ellipse": 0.85}, r"different masks or with different seeds \(the control of 'a.png' differs\)"),
    ],
)
def test_runs_that_do_not_go_together(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    runs = [evaluation(tmp_path / "a", UKAN), evaluation(tmp_path / "b", SAM_MED2D, **changes)]
    with pytest.raises(InputError, match=sentence) as caught:
        tables.main(["--runs", *runs])
    assert all(run in str(caught.value) for run in runs)


def test_other_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no summary\.json of a finished evaluation"):
        tables.main(["--runs", str(tmp_path)])
    run = evaluation(tmp_path / "a", UKAN)
    with pytest.raises(InputError, match="prompts is none, but none of the runs on busi has"):
        tables.main(["--runs", run, "--prompts", "none"])
    with pytest.raises(InputError, match="format 'pdf' is unknown: give some of md, tex, csv"):
        tables.main(["--runs", run, "--format", "pdf"])
    (tmp_path / "a" / "summary.json").write_text("[]")
    with pytest.raises(InputError, match="is no summary of an evaluation"):
        tables.main(["--runs", run])


@pytest.mark.parametrize(
    "change",
    [
        {"network": 7}, {"network": [{}]}, {"network": {"baseline": 7}}, {"network": {"baseline": {}}},
        {"network": {"preset": "vit_t", "mhpm": "no"}}, {"training": 7}, {"training": {"max_minutes": "x"}},
        {"training": {"max_minutes": float("nan")}}, {"training": {"minutes": "x"}},
        {"training": {"minutes": 1, "steps": 10**20, "steps_an_epoch": 1}},
        {"prompts": 7}, {"prompts": {"box": 7}}, {"dataset": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_summary_of_other_values_is_a_sentence(tmp_path: Path, change: dict[str, Any]) -> None:
    place = evaluation(tmp_path / "a", OURS)
    content = json.loads((tmp_path / "a" / "summary.json").read_text())
    (tmp_path / "a" / "summary.json").write_text(json.dumps({**content, **change}))
    key = next(iter(change))
    with pytest.raises(InputError, match=rf"summary\.json' is no summary of an evaluation \({key}"):
        read_run(place)


def test_a_network_of_fewer_words_is_a_row(tmp_path: Path) -> None:
    runs = [evaluation(tmp_path / "a", {"preset": "vit_t"}), evaluation(tmp_path / "b", OURS)]
    assert tables.make_tables([read_run(path) for path in runs])


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"\xff\xfe", b"image,group\n" + b"x" * 200_000 + b",y\n"])
def test_a_table_of_groups_that_is_none_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    place = evaluation(tmp_path / "a", OURS)
    (tmp_path / "a" / "images.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"images\.csv' is no table of images and groups"):
        read_run(place)
