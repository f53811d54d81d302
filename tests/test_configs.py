"""The configs hang together: every component exists, every option is checked, shared parts are the same."""

from __future__ import annotations

import json
import logging.config
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ComponentLocator, ConfigParser, ConfigWorkflow
from monai.bundle.config_item import ConfigComponent
from monai.transforms import Compose, Randomizable

from lmsfe_sam import LMSFESAM
from lmsfe_sam.model.checkpoints import save_weights
from lmsfe_sam.model.presets import PIXEL_MEAN, PIXEL_STD, PRESETS
from lmsfe_sam.options import EvaluationOptions, TrainingOptions, check_options
from lmsfe_sam.prompts.sampling import KINDS
from lmsfe_sam.training.run_folder import MAY_CHANGE
from lmsfe_sam.version import __version__

CONFIGS = (
    "train.json",
    "multi_gpu_train.json",
    "multi_gpu_evaluate.json",
    "paper.json",
    "paper_prompts.json",
    *("weights.json", "weights_boxes.json", "weights_clicks.json"),
    "evaluate.json",
    "inference.json",
)
INTERFACE = (
    "dataset_dir layout split_rule preset local_encoder mhpm adapters balancing_adapter pretrained resume "
    "output_dir device seed epochs batch_size learning_rate num_workers amp"
)


@pytest.fixture
def configs(bundle_root: Path) -> Path:
    return bundle_root / "configs"


def read(configs: Path, *names: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(configs / name) for name in names])
    return parser


def components(config: Any) -> Iterator[dict[str, Any]]:
    if isinstance(config, dict):
        if "_target_" in config:
            yield config
        config = list(config.values())
    if isinstance(config, list):
        for item in config:
            yield from components(item)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_target_exists(configs: Path, name: str) -> None:
    locator = ComponentLocator()
    for component in components(json.loads((configs / name).read_text())):
        target = ConfigComponent({"_target_": component["_target_"]}, locator=locator).resolve_module_name()
        assert callable(target) or "." in str(target), component


@pytest.mark.parametrize("name", CONFIGS)
def test_every_reference_is_defined(configs: Path, name: str) -> None:
    alone = name in ("train.json", "evaluate.json", "inference.json")
    parser = read(configs, name) if alone else read(configs, "train.json", name)
    for reference in set(re.findall(r"[@%]([\w#]+)", json.dumps(parser.get()))):
        assert reference in parser, reference


def test_the_training_config_has_the_keys_of_the_interface_and_checks_every_one(configs: Path) -> None:
    config = json.loads((configs / "train.json").read_text())
    assert set(INTERFACE.split()) <= set(config)
    options = config["options"]
    assert set(TrainingOptions.model_fields) == set(options)
    assert set(INTERFACE.split()) <= set(options)
    for key, value in options.items():
        assert value == {"device": "$str(@device)", "epochs": "@train#trainer#max_epochs"}.get(key, f"@{key}")
    assert config["check"]["options"] == config["folder"]["settings"] == "@options"
    check_options(TrainingOptions, {key: config[key] for key in options if key != "device"})
    assert (
        config["dataset_dir"] is None and config["layout"] == "auto" and config["output_dir"] == "runs/train"
    )
    assert config["preset"] == "vit_t" and config["epochs"] is None and config["seed"] == 0
    assert config["training"] == "%run"


def test_the_training_config_has_the_properties_of_a_bundle(configs: Path, tmp_path: Path) -> None:
    workflow = ConfigWorkflow(
        config_file=str(configs / "train.json"),
        workflow_type="train",
        logging_file=False,
        phantoms=8,
        image_size=64,
        device="cpu",
        output_dir=str(tmp_path),
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    assert workflow.max_epochs == json.loads((configs / "train.json").read_text())["demonstration_epochs"]
    assert len(workflow.train_dataset_data) == 6 and len(workflow.val_dataset_data) == 1


def test_a_validation_mode_that_is_left_out_is_not_measured(configs: Path) -> None:
    parser = read(configs, "train.json")
    parser["validation_modes"] = ["point"]
    assert set(parser.get_parsed_content("validate#additional_metrics")) == {"val_dice_point"}


def test_the_evaluation_config_has_and_checks_every_option(configs: Path) -> None:
    config = json.loads((configs / "evaluate.json").read_text())
    assert set(EvaluationOptions.model_fields) == set(config["options"])
    for key, value in config["options"].items():
        assert value == {"device": "$str(@device)"}.get(key, f"@{key}")
    assert config["check"]["options"] == "@options"


def test_a_setting_that_changes_the_weights_is_remembered_for_resuming() -> None:
    harmless = (
        "resume output_dir mlflow demonstration_epochs full_epochs epochs patience num_workers threads "
        "max_pixels "
    )
    assert (
        set((harmless + "max_minutes device amp").split()) == MAY_CHANGE <= set(TrainingOptions.model_fields)
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_no_line_of_a_config_is_longer_than_160_characters(configs: Path, name: str) -> None:
    assert max(map(len, (configs / name).read_text().splitlines())) <= 160


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_in_a_config_is_named_by_its_place_in_a_list(configs: Path, name: str) -> None:
    keys = json.loads((configs / name).read_text())
    assert not [key for key in keys if re.search(r"#\d", key)]


PAPER = {
    "preset": "vit_b",
    "split_rule": "paper",
    "position_norm": "layer",
    "position_mode": "add",
    "amp": False,
    "batch_size": 2,
    "learning_rate": 1e-4,
    "weight_decay": 0.0,
    "full_epochs": 15,
    "demonstration_epochs": 15,
    "patience": 15,
    "ema_decay": 0.0,
    "clip_norm": None,
    "prompts_per_image": 1,
    "prompt_kinds": {"box_jitter": 0.5, "point": 0.5},
    "validation_modes": ["box", "point"],
    "correction_steps": 8,
    "no_grad_corrections": 0,
    "correction_prob": 1.0,
    "train#preprocessing": "@validate#preprocessing",
    "train#loss": {"_target_": "lmsfe_sam.training.losses.PromptedLoss"},
    "optimizer": {"_target_": "torch.optim.Adam", "params": "@parameter_groups", "lr": "@learning_rate"},
    "lr_scheduler": {
        "_target_": "torch.optim.lr_scheduler.ConstantLR",
        "optimizer": "@optimizer",
        "factor": 1.0,
    },
}

ROUNDS = {
    "prompts_per_image": 5,
    "accumulate": 1,
    "train#prompts": {
        "_target_": "lmsfe_sam.prompts.rounds.BoxOrClick",
        "per_image": "@prompts_per_image",
        "shift": 5,
    },
    "train#iteration": {
        "_target_": "lmsfe_sam.training.rounds.RoundsIteration",
        "sampler": "@train#prompts",
        "seed": "@seed",
        "clip_norm": "@clip_norm",
        "channels_last": True,
        "rounds": "@correction_steps",
        "click_counts": [1, 3, 5, 9],
        "teachers": "@teacher_networks",
        "normal_images": "@normal_images",
    },
    "network": {
        "_target_": "lmsfe_sam.training.rounds.choosing_best",
        "network": "@start_network",
        "device": "@device",
    },
}


@pytest.mark.parametrize("name", ["train.json", "evaluate.json"])
def test_training_and_evaluation_have_one_precision(configs: Path, name: str) -> None:
    engines = [
        component
        for component in components(json.loads((configs / name).read_text()))
        if component["_target_"] in ("SupervisedTrainer", "SupervisedEvaluator")
    ]
    assert engines
    assert all(engine["amp_kwargs"] == {"dtype": "$torch.bfloat16"} for engine in engines)


@pytest.mark.parametrize("name", ["train.json", "evaluate.json", "inference.json"])
def test_every_command_lets_idle_threads_sleep(configs: Path, name: str) -> None:
    steps = json.loads((configs / name).read_text())["initialize"]
    assert any("set_threads(" in step or "let_idle_threads_sleep(" in step for step in steps)


def test_inference_pays_for_no_cache_that_it_cannot_hit(configs: Path) -> None:
    config = json.loads((configs / "inference.json").read_text())
    assert config["cached_embeddings"] == 0
    assert {inferer["cached_embeddings"] for inferer in config["inferers"].values()} == {"@cached_embeddings"}


def test_the_iteration_gets_the_teachers(configs: Path, tmp_path: Path) -> None:
    save_weights(LMSFESAM("vit_t", 64), tmp_path / "teacher.pt")
    parser = read(configs, "train.json")
    parser.update({"image_size": 64, "device": "cpu"})
    assert parser.get_parsed_content("train#iteration").teachers is None
    parser.update({"teachers": [str(tmp_path / "teacher.pt")], "distillation": 0.2})
    teachers = parser.get_parsed_content("train#iteration").teachers
    assert len(teachers.networks) == 1 and teachers.share == 0.2
    assert "$@teacher_networks" in parser["run"], "read before the images are"
    parser = read(configs, "train.json", "paper.json", "paper_prompts.json")
    parser.update({"image_size": 64, "device": "cpu", "teachers": [str(tmp_path / "teacher.pt")]})
    with pytest.raises(RuntimeError) as error:
        parser.get_parsed_content("train#iteration")
    assert "leave --teachers out" in str(error.value.__cause__)


def test_the_papers_protocol(configs: Path) -> None:
    assert json.loads((configs / "paper.json").read_text()) == PAPER
    parser = read(configs, "train.json", "paper.json")
    assert PRESETS["vit_b"].frozen
    own = set(PAPER) & set(TrainingOptions.model_fields)
    check_options(TrainingOptions, {key: parser[key] for key in own})
    steps = parser.get_parsed_content("train#preprocessing").transforms
    assert not any(isinstance(step, Randomizable) for step in steps)
    parser["device"] = "cuda:0"
    assert parser.get_parsed_content("use_amp") is False, "single precision on a GPU, too"


def test_sam_med2ds_own_loop(configs: Path) -> None:
    assert json.loads((configs / "paper_prompts.json").read_text()) == ROUNDS
    parser = read(configs, "train.json", "paper.json", "paper_prompts.json")
    parser["device"] = "cpu"
    iteration = parser.get_parsed_content("train#iteration")
    assert (iteration.rounds, iteration.click_counts, iteration.clip_norm) == (8, [1, 3, 5, 9], None)
    assert (iteration.sampler.per_image, iteration.sampler.shift) == (5, 5)


@pytest.mark.parametrize("name", ["weights.json", "weights_boxes.json", "weights_clicks.json"])
def test_the_options_of_the_shipped_weights_are_options_of_training(configs: Path, name: str) -> None:
    before = read(configs, "train.json")
    options = json.loads((configs / name).read_text())
    for key, value in options.items():
        if "#" in key:  # within a component, which has to be there
            assert before[key] is not None and value != before[key], key
        else:
            check_options(TrainingOptions, {key: value})


@pytest.mark.parametrize("name", ["train.json", "weights.json", "weights_boxes.json"])
def test_the_prompt_kinds_are_the_samplers(configs: Path, name: str) -> None:
    kinds = json.loads((configs / name).read_text())["prompt_kinds"]
    assert set(kinds) == set(KINDS)
    assert sum(kinds.values()) == pytest.approx(1)


def test_the_configs_normalise_as_the_predictor_does(configs: Path) -> None:
    found = 0
    for name in CONFIGS:
        for component in components(json.loads((configs / name).read_text())):
            if component["_target_"] == "NormalizeIntensityd":
                assert component["subtrahend"] == list(PIXEL_MEAN) and component["divisor"] == list(PIXEL_STD)
                found += 1
    assert found >= 2


def test_metadata(configs: Path) -> None:
    metadata = json.loads((configs / "metadata.json").read_text())
    assert metadata["version"] == __version__ and __version__ in metadata["changelog"]
    required = (
        "schema monai_version pytorch_version numpy_version required_packages_version supported_apps name "
    )
    required += "task description authors copyright data_type image_classes label_classes pred_classes "
    required += "eval_metrics intended_use references network_data_format"
    assert set(required.split()) <= set(metadata)
    assert "optional_packages_version" not in metadata and isinstance(metadata["supported_apps"], dict)
    data = metadata["network_data_format"]
    assert next(iter(data["inputs"])) == "image" and next(iter(data["outputs"])) == "pred"
    assert all(
        key.isdigit()
        for part in ("inputs", "outputs")
        for entry in data[part].values()
        for key in entry["channel_def"]
    )
    low = min(-m / s for m, s in zip(PIXEL_MEAN, PIXEL_STD))
    high = max((255 - m) / s for m, s in zip(PIXEL_MEAN, PIXEL_STD))
    assert data["inputs"]["image"]["value_range"] == pytest.approx([low, high], abs=1e-4)


def test_the_logging_config_is_read_by_monai(configs: Path) -> None:
    from monai.bundle.workflows import _apply_logging_file

    _apply_logging_file(str(configs / "logging.conf"))
    assert logging.getLogger("lmsfe_sam.training").isEnabledFor(logging.INFO)
    assert not logging.getLogger("ignite.engine").isEnabledFor(logging.ERROR)


def test_the_metadata_has_the_figures_of_the_model_card(configs: Path) -> None:
    card = (configs.parent / "docs" / "README.md").read_text()
    counts = re.search(r"\((\d+), (\d+)\s+and\s+(\d+) images\)", card)
    assert counts is not None
    images = dict(zip(("BUSI", "BUS-BRA", "DDTI"), map(int, counts.groups()), strict=True))
    rows = re.findall(
        r"^\| (\S+) \| ([^|]+) \| \*\*(\.\d+)\*\* (?:\|[^|]*){3}\| (\S+) \|", card, re.MULTILINE
    )

    def mean(mode: str, column: int) -> float:
        found = {row[0]: float(row[column]) for row in rows if row[1] == mode}
        return sum(count * found[name] for name, count in images.items()) / sum(images.values())

    metrics = json.loads((configs / "metadata.json").read_text())["eval_metrics"]
    modes = {
        "tight_box": "tight box",
        "box_jitter_20": "box, jitter 20 %",
        "one_click": "one click",
        "five_clicks": "5 clicks",
        "no_prompt": "none",
    }
    expected = {f"validation_dice_{key}": mean(mode, 2) for key, mode in modes.items()}
    expected["validation_dice_ellipse_in_the_tight_box_without_a_network"] = mean("tight box", 3)
    assert metrics == pytest.approx(expected, abs=0.0011)


def test_images_wait_in_memory_as_bytes_and_nothing_is_lost_by_it(configs: Path) -> None:
    parser = read(configs, "train.json")
    parser.update({"phantoms": 8})
    data = parser.get_parsed_content("train#dataset")
    assert {item["image"].dtype for item in data._cache} == {torch.uint8}
    transforms = parser.get_parsed_content("train#transforms")
    plain = Compose([one for name, one in transforms.items() if name not in ("to_bytes", "to_float")])
    plain.set_random_state(0)
    expected = plain(data.data[0])
    data.transform.set_random_state(0)
    item = data[0]
    assert torch.equal(item["image"], expected["image"]) and torch.equal(item["label"], expected["label"])
