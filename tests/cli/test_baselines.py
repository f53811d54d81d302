"""Every row of the paper's tables 2 to 4 by the real configs: a step of training, evaluation, inference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import monai
import numpy as np
import pytest
import torch
from monai.bundle import run as run_bundle
from PIL import Image

from lmsfe_sam.baselines import BASELINES, build_promptable
from lmsfe_sam.data.phantoms import __main__ as phantoms
from lmsfe_sam.errors import find_input_error

ROWS = ("unet", "unet_small", "uctransnet", "transresunet", "ukan", "ukan_large")
PROMPTABLE = ("sam", "edgesam", "medsam", "sam_med2d")
STEP = {"image_size": 64, "batch_size": 2, "epochs": 1, "device": "cpu", "num_workers": 0, "threads": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "made up"
    phantoms.main(["--output", str(path), "--count", "4", "--seed", "3"])
    return path


@pytest.fixture
def call(bundle_root: Path, monkeypatch: pytest.MonkeyPatch, restored_globals: None) -> Any:
    monkeypatch.chdir(bundle_root)

    def run(run_id: str, *configs: str, **options: Any) -> None:
        files = [f"configs/{name}.json" for name in configs]
        given = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
        run_bundle(run_id=run_id, config_file=files, **given)

    return run


def test_there_is_a_config_for_every_row(bundle_root: Path) -> None:
    files = {path.stem for path in (bundle_root / "configs" / "baselines").glob("*.json")}
    assert files == {*ROWS, *PROMPTABLE} == {*BASELINES, "unet_small"}


@pytest.mark.parametrize("form", ["none", "box"])
@pytest.mark.parametrize("name", ["ukan", "unet_small"])
def test_training_evaluation_and_inference(
    call: Any, folder: Path, tmp_path: Path, name: str, form: str
) -> None:
    run = tmp_path / "run"
    given = {"dataset_dir": folder, "validation_fraction": 0.25, "test_fraction": 0.25, "prompt_form": form}
    call("training", "train", f"baselines/{name}", **STEP, **given, output_dir=run)
    described = json.loads((run / "model.json").read_text())
    assert (described["prompt_form"], described["image_size"]) == (form, 64)
    data = {"dataset_dir": run / "datalist.json", "checkpoint": run / "model.pt", "device": "cpu"}
    orders = (["train", "evaluate", f"baselines/{name}"], ["train", f"baselines/{name}", "evaluate"])
    found = []
    for i, order in enumerate(orders):
        call("evaluating", *order, **data, output_dir=tmp_path / str(i), bootstrap=10, gallery=1)
        found.append(json.loads((tmp_path / str(i) / "summary.json").read_text())["prompts"])
    assert found[0] == found[1]
    modes = [mode for mode in found[0] if not mode.startswith("control")]
    assert modes == (["box", "box_jitter_10", "box_jitter_20"] if form == "box" else ["none"])
    image = next((folder / "images").iterdir())
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps({image.name: {"objects": [{"box": [20, 20, 60, 60]}]}}))
    options = {"prompts": prompts} if form == "box" else {}
    out = tmp_path / "masks"
    options |= {"input": image, "checkpoint": run / "model.pt", "output_dir": out, "mode": "resize"}
    call("inferring", "inference", f"baselines/{name}", **options, device="cpu")
    mask = np.asarray(Image.open(next((out / "masks").iterdir())))
    assert mask.shape == np.asarray(Image.open(image)).shape[:2]
    with pytest.raises(Exception) as caught:
        call("inferring", "inference", **options, device="cpu")
    assert f"add configs/baselines/{described['baseline']}.json" in str(find_input_error(caught.value))


def test_what_a_network_cannot_be_asked(call: Any, folder: Path, tmp_path: Path) -> None:
    from lmsfe_sam.model.checkpoints import save_weights

    save_weights(build_promptable("ukan", image_size=64), tmp_path / "ukan.pt")
    given = {"dataset_dir": folder, "checkpoint": tmp_path / "ukan.pt", "device": "cpu"}
    given |= {"output_dir": tmp_path / "out"}
    for options, sentence in (
        ({"prompt_modes": "box"}, "prompt_modes names box, but ukan takes no such prompt: use none"),
        ({"multimask": "best"}, "multimask is 'best', but ukan gives one mask"),
        ({"prompt_form": "box"}, "prompt_form 'box' contradicts checkpoint"),
    ):
        with pytest.raises(Exception) as caught:
            call("evaluating", "train", "evaluate", **given, **options)
        assert sentence in str(find_input_error(caught.value))


@pytest.mark.parametrize("name", [*ROWS, *PROMPTABLE])
def test_every_config_builds_its_network(bundle_root: Path, name: str) -> None:
    parser = monai.bundle.ConfigParser()
    files = ("train.json", f"baselines/{name}.json")
    parser.read_config([str(bundle_root / "configs" / file) for file in files])
    parser["image_size"] = 64
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
    described = network.describe()
    assert described["image_size"] == 64
    assert described["baseline"] == name.removesuffix("_small")
