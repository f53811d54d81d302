"""The files that an evaluation leaves: report, tables, masks."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation_results import INFO, make_result, make_results
from lmsfe_sam.evaluation.comparison import OtherRun
from lmsfe_sam.evaluation.protocol import CONTROLS, MODES
from lmsfe_sam.evaluation.report import writing
from lmsfe_sam.evaluation.report.gallery import pick_cases
from lmsfe_sam.evaluation.report.page import write_report
from lmsfe_sam.evaluation.report.plots import Line, line_plot
from lmsfe_sam.evaluation.results import Curves, ImageResult, PackedMask
from lmsfe_sam.evaluation.statistics import Estimate
from lmsfe_sam.evaluation.summary import Summary, summarise


class Page(HTMLParser):
    """Collects tags with their attributes, and checks that they are closed in order."""

    VOID = frozenset(("meta", "br"))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def having(self, tag: str, style: str) -> list[dict[str, str | None]]:
        return [own for name, own in self.tags if name == tag and style in (own.get("class") or "").split()]


def grey(name: str) -> np.ndarray:
    return np.full((64, 64, 3), 90, dtype=np.uint8)


def summary_of(results: list[ImageResult], *others: OtherRun) -> Summary:
    labels = [{"class": "benign" if i % 2 else "malignant"} for i in range(len(results))]
    return summarise(results, [result.image for result in results], labels, INFO, others)


@pytest.fixture
def page(tmp_path: Path) -> Page:
    results = make_results()
    other = OtherRun(
        Path("old/<metrics>.csv"), {(r.image, m): s for r in results for m, s in r.scores.items()}
    )
    write_report(summary_of(results, other), results, tmp_path / "report.html", grey, cases=2)
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_the_report_is_one_file_that_needs_nothing_else(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe")
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/jpeg;base64,"))
    style = "".join(page.words)
    assert "@import" not in style and "url(" not in style


def test_every_picture_is_embedded_once(page: Page) -> None:
    stored = [own["id"] for tag, own in page.tags if tag == "image"]
    used = [(own["href"] or "").removeprefix("#") for tag, own in page.tags if tag == "use"]
    assert len(stored) == len(set(stored))
    assert set(used) == set(stored)
    # Two best, two median and two worst of each of the six modes, each in four panels.
    assert len(used) == 6 * 6 * 4


def test_controls_stand_beside_the_network_dashed(page: Page) -> None:
    text = " ".join(page.words)
    assert len(page.having("tr", "control")) == len(CONTROLS)
    assert page.having("polyline", "control") and page.having("polyline", "series-1")
    assert re.search(r"svg \.line\.control[^}]*stroke-dasharray", text)
    for words in ("control: ellipse, jitter 20 %", "noc@85", "noc@90", "Spearman", "malignant", "small"):
        assert words in text
    assert "prefers-color-scheme: dark" in text


def test_names_are_escaped(page: Page) -> None:
    assert "old/<metrics>.csv" in " ".join(page.words)


def test_a_report_of_controls_alone(tmp_path: Path) -> None:
    nothing = {"masks": {}, "predicted_iou": {}, "prompts": {}, "curves": Curves()}
    results = [
        dataclasses.replace(result, scores={mode: result.scores[mode] for mode in CONTROLS}, **nothing)
        for result in make_results(4)
    ]
    write_report(summary_of(results), results, tmp_path / "report.html", grey, cases=3)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len(page.having("tr", "control")) == len(CONTROLS)
    assert not page.having("div", "card")


def test_one_image_alone_makes_a_report(tmp_path: Path) -> None:
    results = make_results(1)
    write_report(summary_of(results), results, tmp_path / "report.html", grey, cases=3)
    Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_best_median_and_worst() -> None:
    results = make_results(9)
    names = {kind: [case.image for case in cases] for kind, cases in pick_cases(results, "box", 2).items()}
    assert names == {
        "best": ["x/000.png", "x/001.png"],
        "median": ["x/003.png", "x/004.png"],
        "worst": ["x/008.png", "x/007.png"],
    }
    few = pick_cases(make_results(2), "box", 5)
    assert [len(few[kind]) for kind in ("best", "median", "worst")] == [1, 0, 1]


def test_a_lesion_at_the_edge_has_a_closed_outline(tmp_path: Path) -> None:
    results = make_results(1)
    write_report(summary_of(results), results, tmp_path / "report.html", grey, cases=1)
    outlines = [own["d"] for tag, own in Page((tmp_path / "report.html").read_text()).tags if tag == "path"]
    truth = re.findall(r"(-?[\d.]+) (-?[\d.]+)", outlines[0] or "")
    corners = np.array(truth, dtype=float)
    np.testing.assert_allclose(corners.min(axis=0), [0, 10], atol=0.5)
    np.testing.assert_allclose(corners.max(axis=0), [30, 20], atol=0.5)


def test_lines_run_through_their_points() -> None:
    line = Line("a", "series-1", [0, 10], [Estimate(0.2, 0.1, 0.3), Estimate(0.8, 0.7, 0.9)])
    drawing = line_plot("t", "x", "y", [line])
    points = re.search(r'<polyline class="line series-1" points="([^"]+)"', drawing)
    assert points is not None
    (x0, y0), (x1, y1) = (map(float, pair.split(",")) for pair in points.group(1).split())
    assert x0 < x1 and y0 > y1


# --- tables and masks -----------------------------------------------------------------------------


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_predictions_and_prompts_are_stored(tmp_path: Path) -> None:
    results = make_results(2)
    writing.write_predictions(results, tmp_path / "predictions.csv")
    rows = rows_of(tmp_path / "predictions.csv")
    assert len(rows) == 2 * 6
    assert rows[0]["box"] == "0.000 10.000 30.000 20.500" and rows[0]["clicks"] == ""
    assert rows[4]["prompt"] == "clicks_5" and rows[4]["clicks"] == "5 12 1;40 12 0"
    assert float(rows[0]["predicted_iou"]) == pytest.approx(0.95 / 1.05, abs=1e-6)


def test_curves_are_stored_image_by_image(tmp_path: Path) -> None:
    writing.write_curves(make_results(2), tmp_path / "curves.csv")
    rows = rows_of(tmp_path / "curves.csv")
    assert len(rows) == 2 * (7 + 7 + 10)
    assert [row["x"] for row in rows if row["curve"] == "clicks"][:10] == [str(k) for k in range(1, 11)]


def test_subgroups_are_stored(tmp_path: Path) -> None:
    writing.write_subgroups(summary_of(make_results()).subgroups, tmp_path / "subgroups.csv")
    rows = rows_of(tmp_path / "subgroups.csv")
    assert len(rows) == 5 * len(MODES)
    assert float(rows[0]["dice_low"]) <= float(rows[0]["dice"]) <= float(rows[0]["dice_high"])


def test_the_summary_is_json_with_intervals_on_one_line(tmp_path: Path) -> None:
    summary = summary_of(make_results())
    writing.write_summary(summary, tmp_path / "summary.json")
    text = (tmp_path / "summary.json").read_text()
    assert json.loads(text) == json.loads(json.dumps(summary.as_json()))
    assert re.search(r'"ci95": \[0\.\d+, 0\.\d+\]', text)


def test_masks_keep_the_datasets_folders(tmp_path: Path) -> None:
    results = [make_result(1, 0.9, folder="benign"), make_result(1, 0.9, folder="../up")]
    writing.write_masks(results, tmp_path)
    mask = Image.open(tmp_path / "masks" / "box" / "benign" / "001.png")
    assert mask.size == (64, 64)
    np.testing.assert_array_equal(np.asarray(mask) == 255, results[0].masks["box"].unpack())
    assert (tmp_path / "masks" / "none" / "up" / "001.png").is_file()
    assert {path.parts[len(tmp_path.parts)] for path in tmp_path.rglob("*.png")} == {"masks"}
    assert not (np.asarray(mask) % 255).any()


def test_packed_masks_come_back() -> None:
    mask = np.random.default_rng(0).random((37, 61)) > 0.7
    packed = PackedMask.pack(mask)
    np.testing.assert_array_equal(packed.unpack(), mask)
    assert packed.unpack().dtype == bool


def test_chromium_draws_it(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here to draw the report with")
    results = make_results()
    write_report(summary_of(results), results, tmp_path / "report.html", grey, cases=1)
    picture = tmp_path / "page.png"
    process = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,3000"),
            *(f"--screenshot={picture}", (tmp_path / "report.html").as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert picture.is_file(), process.stderr
    pixels = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3)
    colours = {tuple(colour) for colour in pixels[::7].tolist()}
    # The page, and the network's series, which only the style sheet and the plots together give.
    assert {(246, 247, 249), (255, 255, 255), (31, 102, 196)} <= colours
