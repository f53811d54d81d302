"""The benchmarks that print tables for the docs run, in a small form, with a small network."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from lmsfe_sam import LMSFESAM
from lmsfe_sam.data.phantoms.rendering import render_phantom
from lmsfe_sam.errors import InputError
from lmsfe_sam.model.checkpoints import save_weights
from lmsfe_sam.model.presets import PRESETS
from tiny import SIZE, tiny_presets

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr("sys.excepthook", lambda *_: None)  # each installs its own
    return importlib.import_module(name)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "model.pt"
    with tiny_presets():
        save_weights(LMSFESAM("tiny_t", image_size=SIZE), path)
    return path


class TestGpuChecklist:
    def test_without_a_gpu_it_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
        with pytest.raises(InputError, match=r"device is 'cuda', which this machine does not have: give cpu"):
            benchmark("gpu_checklist", monkeypatch).main([])

    def test_the_small_form(self, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        module = benchmark("gpu_checklist", monkeypatch)
        page = tmp_path / "docs" / "gpu.md"
        with tiny_presets():
            module.main(["--device", "cpu", "--checkpoint", str(checkpoint), "--output", str(page)])
        text = page.read_text()
        assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == list(module.STEPS)
        tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
        assert len(tables) == len(module.STEPS)
        for rows in tables:
            assert len(rows) > 2 and len({row.count("|") for row in rows}) == 1
        half = tables[2][2].split(" | ")
        assert half[0] == "| bfloat16" and float(half[3]) > 0.5


class TestWindows:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for number in range(3):
            image, mask = render_phantom(number, (90, 120 + 10 * number))
            for name, pixels in (("images", image), ("masks", 255 * mask)):
                (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / name / f"{number}.png")
        return tmp_path / "data"

    @pytest.mark.parametrize("tiles", [1, 2])
    def test_the_tables(
        self, checkpoint: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiles: int
    ) -> None:
        module = benchmark("windows", monkeypatch)
        page = tmp_path / "page.md"
        page.write_text(f"Before.\n<!-- tiles {tiles} -->\nstale\n<!-- end of tiles {tiles} -->\nAfter.\n")
        threads = str(torch.get_num_threads())
        with tiny_presets():
            module.main(
                ["--dataset_dir", str(folder), "--split", "all", "--checkpoint", str(checkpoint), "--threads",
                 threads, "--shares", "0.5", "--tiles", str(tiles), "--output", str(page)]
            )  # fmt: skip
        assert page.read_text().startswith("Before.\n") and page.read_text().endswith("-->\nAfter.\n")
        assert "stale" not in page.read_text()
        rows = [line.split(" | ") for line in page.read_text().splitlines() if line.startswith("|")]
        modes = {row[1] for row in rows if row[0] == "| box"}
        assert modes == {module.CONTROL, "resize", "auto 0.01", "zoom 0.5", "window"}
        ellipse = next(row for row in rows if row[:2] == ["| box", module.CONTROL])
        assert 0.5 < float(ellipse[2]) < 1

    def test_prompts_are_moved_into_their_tiles(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        module = benchmark("windows", monkeypatch)
        records = module.build_datalist(str(folder)).select("all")
        ((picture, lesions),) = module.pictures(records, tiles=2)
        assert picture.shape == (180, 280, 3)
        for lesion in lesions:
            truth = lesion.in_picture(picture.shape[:2])
            box, *_, point = module.prompts_of(lesion, seed=0)
            rows, columns = np.nonzero(truth)
            assert box.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            (x, y) = point.points[0]
            assert truth[int(y), int(x)]


class TestAblation:
    def config(self, overrides: dict[str, object]) -> ConfigParser:
        parser = ConfigParser()
        parser.read_config(BENCHMARKS.parent / "bundle" / "configs" / "train.json")
        for key, value in overrides.items():
            assert key.removesuffix("#_disabled_") in parser, key
            parser[key] = value
        return parser

    def test_what_is_taken_away_is_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = benchmark("ablation", monkeypatch)
        whole = self.config({}).get()
        for name, options in module.INGREDIENTS.items():
            options = dict(options)
            fields = options.pop("preset_fields", {})
            options.pop("phantoms_first", None)
            options.pop("imagenet", None)
            preset = PRESETS["vit_t"]
            assert all(getattr(preset, field) != value for field, value in fields.items()), name
            assert (self.config(options).get() != whole) == bool(options), name
        assert all(key in whole for key in module.COMMON)

    @pytest.mark.parametrize(
        ("name", "gone"),
        [
            ("lesion zoom", {"RandLesionZoomd"}),
            ("elastic deformation", {"Rand2DElasticd"}),
            ("depth gain, speckle and shadows", {"RandDepthGaind", "RandSpeckled", "RandShadowd"}),
            ("markings painted in and out", {"OneOf", "RandMarkersd"}),
        ],
    )
    def test_augmentations_taken_away(
        self, name: str, gone: set[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module = benchmark("ablation", monkeypatch)

        def steps(overrides: dict[str, object]) -> set[str]:
            transforms = self.config(overrides).get_parsed_content("train#preprocessing").transforms
            return {type(transform).__name__ for transform in transforms}

        assert steps({}) - steps(module.INGREDIENTS[name]) == gone

    def test_the_table(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        module = benchmark("ablation", monkeypatch)
        for run, dice in (("00_0", 0.80), ("00_1", 0.90), ("02_1", 0.85)):
            means = {"dice": {"mean": dice}, "hd": {"mean": 10.0}}
            summary = tmp_path / run / "evaluation" / "summary.json"
            summary.parent.mkdir(parents=True)
            summary.write_text(json.dumps({"prompts": dict.fromkeys(module.MODES, means)}))
        module.write_table(tmp_path)
        rows = [line.split(" | ") for line in (tmp_path / "ablation.md").read_text().splitlines()]
        assert [row[0] for row in rows[2:]] == ["| nothing", "| MHPM"]
        assert rows[2][1:3] == ["2", "0.850 (0.800..0.900)"] and rows[2][-1] == "- |"
        assert rows[3][1:3] == ["1", "0.850"] and rows[3][-1] == "-0.050 |"
