"""The controls' figures on real images, as they were published with them."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from PIL import Image

from data_folders import make_busi
from lmsfe_sam.data.datalist import build_datalist
from lmsfe_sam.data.masks.files import read_label_map
from lmsfe_sam.data.masks.reading import resize_mask
from lmsfe_sam.evaluation.metrics import border_distances, dice
from lmsfe_sam.evaluation.protocol import CONTROLS, control_mask

PUBLISHED = {
    "busi": (518, 0.832, 0.887, 14.4, 0.85, 0.78),
    "busbra": (1309, 0.821, 0.894, 12.6, 0.856, 0.781),
    "ddti": (245, 0.853, 0.917, 11.0, 0.872, 0.792),
}
"""Images, Dice of the filled box and of the ellipse, the ellipse's HD, its Dice with jitter 10 and 20 %."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_controls_score_what_is_known_of_them(shared_data: Path, name: str) -> None:
    count, *expected = PUBLISHED[name]
    figures = []
    records = build_datalist(shared_data / name).select("all")
    assert len(records) == count
    for record in records:
        lesions = [read_label_map(path).labels != 0 for path in record["label"]]
        mask = np.logical_or.reduce(lesions)
        truth = resize_mask(mask, (256, 256))
        masks = {mode: control_mask(mode, truth, 0, record["name"]) for mode in CONTROLS}
        overlaps = [dice(mask, truth) for mask in masks.values()]
        figures.append([*overlaps[:2], border_distances(masks["control_ellipse"], truth)[0], *overlaps[2:]])
    measured = np.mean(figures, axis=0)
    for value, known, tolerance in zip(measured, expected, (0.003, 0.003, 0.1, 0.01, 0.01), strict=True):
        assert value == pytest.approx(known, abs=tolerance)


@pytest.mark.parametrize(
    ("folder", "pattern", "box_dice", "ellipse_dice", "jitter_10", "jitter_20"),
    [
        ("busi", "**/*_mask.png", 0.832, 0.887, 0.85, 0.78),
        ("busbra/Masks", "*.png", 0.821, 0.894, 0.856, 0.781),
        ("ddti/masks", "*.png", 0.853, 0.917, 0.872, 0.792),
    ],
)
def test_controls_on_real_masks(shared_data, folder, pattern, box_dice, ellipse_dice, jitter_10, jitter_20):
    scores = {control: [] for control in CONTROLS}
    root = shared_data / folder
    for path in sorted(root.glob(pattern)):
        whole = np.asarray(Image.open(path).convert("L")) > 127
        rows, columns = (((np.arange(256) + 0.5) * side / 256).astype(int) for side in whole.shape)
        mask = whole[np.ix_(rows, columns)]
        for control, own in scores.items():
            drawn = control_mask(control, mask, 0, path.relative_to(root).as_posix())
            own.append(2 * np.sum(drawn & mask) / (np.sum(drawn) + np.sum(mask)))
    means = {control: np.mean(own) for control, own in scores.items()}
    assert means["control_box"] == pytest.approx(box_dice, abs=0.003)
    assert means["control_ellipse"] == pytest.approx(ellipse_dice, abs=0.003)
    assert means["control_ellipse_jitter_10"] == pytest.approx(jitter_10, abs=0.01)
    assert means["control_ellipse_jitter_20"] == pytest.approx(jitter_20, abs=0.01)


def test_the_documented_program_prints_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path(__file__).resolve().parents[1] / "docs" / "reading-the-paper.md"
    (program,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    monkeypatch.setattr("sys.argv", ["controls.py", str(make_busi(tmp_path / "busi"))])
    exec(dedent(program), {})
    count, *values = re.findall(r"[\d.]+", capsys.readouterr().out)
    share, overlap = float(values[0]), float(values[1])
    assert int(count) == 7
    assert share == pytest.approx(np.pi * 12**2 / (60 * 72), abs=0.01)
    assert overlap > 0.95  # the lesions are discs
