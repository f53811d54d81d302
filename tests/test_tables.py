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
    summary["n_images"] = len(images)
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


def test_the_lead_over_the_ellipse_is_paired(tmp_path: Path) -> None:
    """Dice of .8 and 1 against ellipses of .7, which are in the folder of the other run alone."""
    without = {"modes": {"box": 0.8, "box_jitter_10": 0.8}}
    both = {"modes": {"box": 0.6, "point": 0.5, "control_ellipse": 0.7, "control_ellipse_jitter_10": 0.4}}
    runs = [evaluation(tmp_path / "a", OURS, **without), evaluation(tmp_path / "b", UKAN, **both)]
    table = only_table(*runs, prompts=("box", "box_jitter_10", "point"))
    at = table.heads.index("Dice above the ellipse")
    found = {(row[0], row[1]): row[at] for row in table.rows if row[-1] == tables.OURS}
    assert found.pop(("LMSFE-SAM vit_b", "tight box")) == "+0.200 (+0.100 to +0.300)"
    assert found.pop(("LMSFE-SAM vit_b", "box, jitter 10 %")) == "+0.400 (+0.400 to +0.400)"
    assert found.pop(("U-KAN, box as a channel", "tight box")) == "+0.000 (-0.100 to +0.100)"
    assert set(found.values()) == {""}


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


# --- runs of one name, and runs that cannot be read ---------------------------------------------------


def only_table(*runs: str, prompts: tuple[str, ...] = tables.PROMPTS) -> tables.Table:
    return tables.make_tables([read_run(path) for path in runs], prompts)[0]


def test_two_runs_of_one_seed_are_two_rows(tmp_path: Path) -> None:
    """They differ in something else than the seed, such as the learning rate, or are one network."""
    training = {"device": "cpu", "seed": 0}
    runs = [evaluation(tmp_path / name / "evaluation", UKAN, training=training) for name in ("slow", "fast")]
    runs.append(evaluation(tmp_path / "again" / "evaluation", UKAN, training={**training, "seed": 1}))
    found = [row for row in only_table(*runs).rows if row[-1] == tables.OURS and row[3]]
    assert [(row[0], row[3]) for row in found] == [
        ("U-KAN, box as a channel (slow/evaluation)", "2"),
        ("U-KAN, box as a channel (fast/evaluation)", "1"),
    ]


def test_one_run_named_twice_is_refused(tmp_path: Path) -> None:
    run = evaluation(tmp_path / "a", UKAN, training={"seed": 0})
    with pytest.raises(InputError, match=r"runs names '.*a' twice: name each evaluation once"):
        tables.main(["--runs", run, f"{run}/summary.json"])


def test_seeds_that_were_evaluated_in_other_modes(tmp_path: Path) -> None:
    """A mode's row holds the seeds that have it."""
    runs = [
        evaluation(tmp_path / "a", UKAN, training={"seed": 0}),
        evaluation(tmp_path / "b", UKAN, training={"seed": 1}, modes={"box": 0.5, "point": 0.6}),
    ]
    seeds = [(row[1], row[3]) for row in only_table(*runs).rows if row[-1] == tables.OURS and row[3]]
    assert seeds == [("tight box", "2"), ("one click", "1")]
    seeds = [(row[1], row[3]) for row in only_table(*runs[::-1], prompts=("point",)).rows if row[3]]
    assert seeds == [("one click", "1")]


def test_networks_of_equal_toggles_are_not_averaged_in_the_ablation(tmp_path: Path) -> None:
    base = {**OURS, **dict.fromkeys(TOGGLES, False)}
    small = {**OURS, "image_size": 128}
    runs = [
        evaluation(tmp_path / "base", base, 0.3, training={"seed": 0}),
        evaluation(tmp_path / "large" / "busi", OURS, 0.7, training={"seed": 0}),
        evaluation(tmp_path / "small" / "busi", small, 0.5, training={"seed": 0}),
        evaluation(tmp_path / "large" / "ddti", OURS, 0.6, dataset="ddti", training={"seed": 0}),
    ]
    table = next(own for own in tables.make_tables([read_run(path) for path in runs]) if "5" in own.caption)
    dice = {row[0]: (row[6], row[7][:5], row[9][:5]) for row in table.rows if row[-1] == tables.OURS}
    assert dice["LMSFE-SAM (large/busi)"] == ("1", "0.800", "0.700")
    assert dice["LMSFE-SAM (small/busi)"] == ("1", "0.600", "")


def test_the_ablation_on_a_set_that_the_paper_does_not_have(tmp_path: Path) -> None:
    """Its rows have no figure to show there."""
    base = {**OURS, **dict.fromkeys(TOGGLES, False)}
    runs = [evaluation(tmp_path / str(i), own, dataset="ours") for i, own in enumerate((base, OURS))]
    _, table = tables.make_tables([read_run(path) for path in runs])
    assert [row[0] for row in table.rows] == ["Baseline", "LMSFE-SAM"] and not table.notes


def test_names_are_text_in_every_format(tmp_path: Path) -> None:
    """A data set's folder may have any name, and so may a network."""
    run = evaluation(tmp_path / "a", {"network": r"my.N_%$x$|\<b>^{2}~"}, dataset="a_b & _50%_ #1 [c]\n*d*")
    table = only_table(run)
    latex, markdown = tables.to_latex(table), tables.to_markdown(table)
    assert r"\caption{a\_b \& \_50\%\_ \#1 {[}c{]} {*}d{*}, 2 images" in latex
    name = r"N\_\%\$x\$\textbar{}\textbackslash{}\textless{}b\textgreater{}\textasciicircum{}\{2\}"
    assert name + r"\textasciitilde{} &" in latex
    assert r"**a_b & \_50%\_ #1 \[c\] \*d\*, 2 images" in markdown
    assert r"| N\_%\$x\$\|\\\<b>^{2}\~ |" in markdown


def test_the_control_of_a_shown_mode_stands_below_it(tmp_path: Path) -> None:
    modes = {"box_jitter_20": 0.7, "control_ellipse_jitter_20": 0.6, "control_ellipse": 0.9}
    run = evaluation(tmp_path / "a", UKAN, modes=modes)
    assert "control: ellipse, jitter 20 %" in rows(only_table(run, prompts=("box_jitter_20",)))
    with pytest.raises(
        InputError, match="none of the runs on busi has these modes: name some of box_jitter_20"
    ):
        only_table(run)


def test_controls_alone_are_no_table(tmp_path: Path) -> None:
    run = evaluation(tmp_path / "a", {}, modes={"control_ellipse": 0.9})
    with pytest.raises(InputError, match="has these modes: evaluate a network, or --predictions, as well"):
        only_table(run)


def _without_last_row(text: str) -> str:
    return text.rsplit("b.png", 2)[0]


@pytest.mark.parametrize(
    ("file", "change", "sentence"),
    [
        ("metrics.csv", _without_last_row, r"metrics\.csv' lacks rows of the images and modes"),
        ("metrics.csv", lambda text: text.split("\n")[0] + "\n", r"metrics\.csv' lacks rows"),
        ("metrics.csv", lambda text: text.replace("0.8,", "nan,", 1), "runs '.*' holds .*'nan' is no number"),
        ("metrics.csv", lambda text: text.replace("0.8,", "inf,", 1), "'inf' is no number.*: evaluate again"),
        ("metrics.csv", lambda text: text[:-9], "runs '.*' holds a line that is no row of figures"),
        ("images.csv", lambda text: text[:-12], r"images\.csv' lacks images of metrics\.csv: evaluate again"),
        ("images.csv", lambda text: text[:-7], r"images\.csv' lacks images of metrics\.csv: evaluate again"),
        ("images.csv", lambda text: "", r"images\.csv' lacks images"),
        ("summary.json", lambda text: text.replace('"n_images": 2', '"n_images": 3'), "lacks rows"),
        ("summary.json", lambda text: text.replace('"objects"', '"objects": 7, "x"'), "objects"),
    ],
)
def test_a_damaged_run_is_a_sentence(tmp_path: Path, file: str, change: Any, sentence: str) -> None:
    place = evaluation(tmp_path / "a", UKAN, objects="union")
    path = tmp_path / "a" / file
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=sentence):
        read_run(place)


def test_a_run_without_the_table_of_groups_is_refused(tmp_path: Path) -> None:
    """Its intervals would be those of images that are all independent."""
    place = evaluation(tmp_path / "a", UKAN)
    (tmp_path / "a" / "images.csv").unlink()
    with pytest.raises(InputError, match=r"images\.csv' is no table of images and groups: evaluate again"):
        read_run(place)


def test_a_summary_without_a_split(tmp_path: Path) -> None:
    assert only_table(evaluation(tmp_path / "a", UKAN, split=None)).caption.endswith("split not stated")


def test_splits_and_objects_are_named(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "a", UKAN)
    other = evaluation(tmp_path / "b", SAM_MED2D, images=["a.png"], split="val")
    with pytest.raises(InputError, match=r"on different images, the splits test and val \(1 in one"):
        tables.main(["--runs", one, other])
    other = evaluation(tmp_path / "c", SAM_MED2D, images=["a.png#1", "b.png#1"], objects="parts")
    assert only_table(other).caption == "Table 2: busi, 2 objects, split test"
    with pytest.raises(InputError, match="were measured with objects union and parts"):
        tables.main(["--runs", one, other])


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_a_folder_is_no_name_of_a_table(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="is a folder: give the name of a file in it"):
        tables.main(["--runs", evaluation(tmp_path / "a", UKAN), "--output", name])
