"""The summary of a run: means, gains over controls, curves, subgroups and the comparison with another run."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from evaluation_results import INFO, make_result, make_results
from lmsfe_sam.errors import InputError
from lmsfe_sam.evaluation.comparison import HEADER, check_overlap, compare, read_metrics
from lmsfe_sam.evaluation.metrics import COLUMNS
from lmsfe_sam.evaluation.protocol import MODES
from lmsfe_sam.evaluation.report import writing
from lmsfe_sam.evaluation.results import ImageResult
from lmsfe_sam.evaluation.summary import Summary, clicks_needed, size_tertiles, summarise


def summary_of(results: list[ImageResult], **more: object) -> Summary:
    groups = [result.image for result in results]
    labels = [{"class": "benign" if i % 2 else "malignant"} for i in range(len(results))]
    return summarise(results, groups, labels, INFO, **more)  # type: ignore[arg-type]


def test_summary_has_the_promised_form() -> None:
    content = json.loads(json.dumps(summary_of(make_results()).as_json(), allow_nan=False))
    assert content["dataset"] == "busi" and content["split"] == "test"
    assert content["n_images"] == 12 and content["checkpoint_sha256"] == "ab" * 32
    assert list(content["prompts"]) == list(MODES)
    for columns in content["prompts"].values():
        assert list(columns) == list(COLUMNS)
        for name, figures in columns.items():
            assert set(figures) == {"mean", "ci95"} and len(figures["ci95"]) == 2
            if name != "hd_mm":
                assert figures["ci95"][0] <= figures["mean"] <= figures["ci95"][1]
    assert content["prompts"]["box"]["hd_mm"] == {"mean": None, "ci95": [None, None]}
    assert content["prompts"]["box"]["dice"]["mean"] == pytest.approx(0.895)


def test_gain_over_the_control_on_the_same_box() -> None:
    gains = summary_of(make_results(20)).as_json()["gain_over_control"]
    assert {mode: own["control"] for mode, own in gains.items()} == {
        "box": "control_ellipse",
        "box_jitter_10": "control_ellipse_jitter_10",
        "box_jitter_20": "control_ellipse_jitter_20",
    }
    dice = gains["box"]["dice"]
    assert dice["mean"] == pytest.approx(0.055)
    # .95 ... .81 beat .8, then one tie, then four losses; a smaller HD is a win too.
    assert (dice["wins"], dice["losses"], dice["ties"]) == (15, 4, 1)
    assert (gains["box"]["hd"]["wins"], gains["box"]["hd"]["losses"]) == (15, 4)
    assert gains["box"]["hd"]["mean"] < 0


def test_curves_and_clicks_needed() -> None:
    curves = summary_of(make_results()).as_json()["curves"]
    jitter = curves["box_jitter"]
    assert jitter["percent"] == [0, 5, 10, 15, 20, 25, 30]
    assert [point["mean"] for point in jitter["dice"]] == pytest.approx(
        [0.895 - p / 200 for p in jitter["percent"]]
    )
    assert jitter["control_ellipse_dice"][-1]["mean"] == pytest.approx(0.5)
    assert curves["clicks"]["count"] == list(range(1, 11))
    reached = [i for i in range(12) if (0.95 - 0.01 * i) / (1.05 + 0.01 * i) + 0.09 >= 0.85]
    assert curves["noc@85"]["reached"] == pytest.approx(len(reached) / 12)
    assert curves["noc@85"]["mean"] < curves["noc@90"]["mean"] <= curves["noc@90"]["limit"] == 10


def test_clicks_needed_counts_from_one() -> None:
    assert clicks_needed([0.5, 0.85, 0.8, 0.9], 0.85) == 2
    assert clicks_needed([0.9], 0.85) == 1
    assert clicks_needed([0.5, 0.6], 0.85) is None


def test_reliability_of_an_honest_prediction() -> None:
    own = summary_of(make_results()).as_json()["reliability"]["none"]
    assert own["spearman"] == pytest.approx(1)
    assert own["calibration_error"] == pytest.approx(0, abs=1e-6)
    assert sum(part["n_images"] for part in own["bins"]) == 12


def test_the_overall_reliability_ranks_the_predictions_of_all_modes() -> None:
    results = [
        dataclasses.replace(
            result, predicted_iou={mode: 0.9 - 0.1 * (i + 3 * k) % 0.7 for k, mode in enumerate(MODES[:6])}
        )
        for i, result in enumerate(make_results())
    ]
    content = summary_of(results).as_json()
    pairs = [(p, r.scores[mode]["iou"]) for r in results for mode, p in r.predicted_iou.items()]
    own = content["reliability_overall"]
    assert own["spearman"] == pytest.approx(spearmanr(*zip(*pairs)).statistic, abs=1e-6)
    assert -0.9 < own["spearman"] < 0.9
    assert sum(part["n_images"] for part in own["bins"]) == len(pairs)


def test_subgroups_by_label_and_by_size() -> None:
    rows = summary_of(make_results()).subgroups
    assert {(row.subgroup, row.value) for row in rows} == {
        ("class", "benign"),
        ("class", "malignant"),
        ("lesion_size", "small"),
        ("lesion_size", "medium"),
        ("lesion_size", "large"),
    }
    small = next(row for row in rows if (row.value, row.prompt) == ("small", "box"))
    assert small.n_images == 4
    assert small.estimates["dice"].mean == pytest.approx(np.mean([0.95, 0.94, 0.93, 0.92]))
    assert [row.value for row in rows if row.subgroup == "lesion_size"][:: len(MODES)] == [
        "small",
        "medium",
        "large",
    ]


def test_tertiles() -> None:
    assert size_tertiles([0.3, 0.1, 0.2]) == ["large", "small", "medium"]
    assert size_tertiles([0.1, 0.1]) == ["", ""]
    assert sorted(size_tertiles(list(range(9)))) == ["large"] * 3 + ["medium"] * 3 + ["small"] * 3


def test_a_subgroup_that_names_every_image_is_none() -> None:
    results = make_results(15)
    labels = [{"device": "one", "id": result.image} for result in results]
    rows = summarise(results, [result.image for result in results], labels, INFO).subgroups
    assert {row.subgroup for row in rows} == {"lesion_size"}


# --- the comparison with another run --------------------------------------------------------------


def written(results: list[ImageResult], folder: Path) -> Path:
    writing.write_metrics(results, folder / "metrics.csv")
    return folder / "metrics.csv"


def test_metrics_file_is_read_back_as_written(tmp_path: Path) -> None:
    results = make_results(3)
    path = written(results, tmp_path)
    assert path.read_text().splitlines()[0] == (
        "image,prompt,dice,iou,sensitivity,specificity,accuracy,hd,hd95,assd,hd_mm"
    )
    other = read_metrics(path)
    assert len(other.scores) == 3 * len(MODES)
    assert other.images == {result.image for result in results}
    for result in results:
        for mode, scores in result.scores.items():
            assert other.scores[result.image, mode] == pytest.approx(scores, nan_ok=True, abs=1e-6)


def test_a_run_compared_with_itself_differs_nowhere(tmp_path: Path) -> None:
    results = make_results()
    content = summary_of(results, others=[read_metrics(written(results, tmp_path))]).as_json()["compare"]
    assert content["n_images"] == 12 and content["same_protocol"] is True
    for columns in content["prompts"].values():
        assert columns["dice"] == {"mean": 0, "ci95": [0, 0], "wins": 0, "losses": 0, "ties": 12}


def test_better_and_worse_are_distinguished(tmp_path: Path) -> None:
    before = [make_result(i, 0.7) for i in range(10)]
    now = [make_result(i, 0.8 if i < 8 else 0.6) for i in range(10)]
    comparison = summary_of(now, others=[read_metrics(written(before, tmp_path))]).comparisons[0]
    assert comparison is not None and comparison.same_protocol
    dice, hd = comparison.differences["box"]["dice"], comparison.differences["box"]["hd"]
    assert dice.mean.mean == pytest.approx(0.06) and hd.mean.mean == pytest.approx(-3)
    assert (dice.wins, dice.losses, hd.wins, hd.losses) == (8, 2, 8, 2)
    assert comparison.differences["control_box"]["dice"].ties == 10


def test_only_shared_images_and_modes_are_compared(tmp_path: Path) -> None:
    before = [
        dataclasses.replace(result, scores={mode: result.scores[mode] for mode in ("box", "none")})
        for result in make_results(8)
    ]
    now = make_results(12)[4:]
    comparison = summary_of(now, others=[read_metrics(written(before, tmp_path))]).comparisons[0]
    assert comparison is not None
    assert (comparison.n_images, comparison.only_here, comparison.only_there) == (4, 4, 4)
    assert set(comparison.differences) == {"box", "none"}
    assert comparison.same_protocol is None


def test_controls_that_differ_betray_another_protocol(tmp_path: Path) -> None:
    before = [make_result(i, 0.7, control_dice=0.81) for i in range(5)]
    now = [make_result(i, 0.7) for i in range(5)]
    comparison = summary_of(now, others=[read_metrics(written(before, tmp_path))]).comparisons[0]
    assert comparison is not None and comparison.same_protocol is False


def test_masks_of_another_program_are_compared_with_every_mode(tmp_path: Path) -> None:
    """A run of nnU-Net's masks and one of a network have no mode in common, and are still paired."""
    network = [make_result(i, 0.7) for i in range(4)]
    foreign = [
        dataclasses.replace(
            result,
            scores={
                "predictions": make_result(i, 0.8).scores["box"],
                "control_box": result.scores["control_box"],
            },
            masks={"predictions": result.masks["box"]},
            prompts={},
            predicted_iou={},
            curves=dataclasses.replace(result.curves, click_dice=(), click_iou=()),
        )
        for i, result in enumerate(network)
    ]
    (tmp_path / "foreign").mkdir()
    others = [read_metrics(written(network, tmp_path)), read_metrics(written(foreign, tmp_path / "foreign"))]
    check_overlap(others[0], [foreign[0].image], ["predictions"])
    names = [result.image for result in network]
    one = compare(foreign, names, others[0], 0, 10)
    assert one.differences["predictions minus point"]["dice"].mean.mean == pytest.approx(0.1)
    assert {"predictions minus box", "control_box"} < set(one.differences)
    assert not any("minus control" in name for name in one.differences)
    other = compare(network, names, others[1], 0, 10)
    assert other.differences["box minus predictions"]["dice"].losses == 4 and other.same_protocol
    both = compare(foreign, names, others[1], 0, 10)
    assert set(both.differences) == {"predictions", "control_box"}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "cannot be read"),
        ("a,b\n1,2\n", "does not begin with the line image,prompt,dice"),
        ("", "does not begin"),
        (",".join(HEADER) + "\nx.png,box,high,,,,,,,,\n", "no row of figures"),
        (",".join(HEADER) + "\nx.png,box,0.5\n", "no row of figures"),
        (",".join(HEADER) + "\nx.png,box,nan,1,1,1,1,1,1,1,\n", "'nan' is no number"),
    ],
)
def test_a_file_that_is_no_metrics_file_is_refused(tmp_path: Path, content: str | None, named: str) -> None:
    path = tmp_path / "other.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=named) as caught:
        read_metrics(path)
    assert str(path) in str(caught.value)


def test_nothing_in_common_is_refused(tmp_path: Path) -> None:
    other = read_metrics(written(make_results(3), tmp_path))
    with pytest.raises(InputError, match="no image in common"):
        check_overlap(other, ["y.png"], MODES)
    with pytest.raises(InputError, match="none of the prompt modes"):
        check_overlap(other, ["x/000.png"], ["another"])
    check_overlap(other, ["x/000.png"], ["box"])


def test_missing_millimetres_stay_missing(tmp_path: Path) -> None:
    other = read_metrics(written(make_results(2), tmp_path))
    assert math.isnan(other.scores["x/000.png", "box"]["hd_mm"])
