"""How the images of a run are dealt out to processes, and what is refused before a run starts."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lmsfe_sam import distributed as processes
from lmsfe_sam.data.datalist import DataList, build_datalist
from lmsfe_sam.errors import InputError
from lmsfe_sam.evaluation.protocol import CONTROLS, MODES
from lmsfe_sam.evaluation.settings import (
    NoNetwork,
    announce,
    check_settings,
    choose_split,
    describe_run,
    evaluated_network,
    has_curves,
    read_other_runs,
    usable_modes,
)
from lmsfe_sam.model.checkpoints import save_weights
from lmsfe_sam.model.network import LMSFESAM
from lmsfe_sam.model.prompt_free import PromptFreeNetwork

SETTINGS: dict[str, Any] = {
    "device": "cpu",
    "prompt_modes": "all",
    "dataset_dir": None,
    "layout": "auto",
    "split_rule": "group",
    "split": None,
    "checkpoint": "models/model.pt",
    "metric_size": 256,
    "curves": True,
    "compare": None,
    "predictions": None,
    "save_masks": True,
    "gallery": 3,
    "bootstrap": 2000,
    "seed": 0,
    "batch_size": 1,
    "num_workers": 0,
    "amp": False,
}


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend to be one of several processes."""

    def pretend(rank: int, count: int) -> None:
        stand_in = SimpleNamespace(
            is_available=lambda: True,
            is_initialized=lambda: True,
            get_rank=lambda: rank,
            get_world_size=lambda: count,
        )
        monkeypatch.setattr(processes, "distributed", stand_in)

    return pretend


def test_alone_a_process_does_everything() -> None:
    assert processes.local_items([1, 2, 3], 2) == [1, 2, 3]
    assert processes.is_main_process()


@pytest.mark.parametrize(("images", "batch_size", "count"), [(11, 1, 2), (11, 3, 2), (12, 4, 3), (7, 2, 4)])
def test_every_image_is_dealt_once_in_the_batches_of_one_process(
    together: Any, images: int, batch_size: int, count: int
) -> None:
    alone = [list(range(images))[i : i + batch_size] for i in range(0, images, batch_size)]
    batches = []
    for rank in range(count):
        together(rank, count)
        assert processes.is_main_process() == (rank == 0)
        share = processes.local_items(range(images), batch_size)
        batches += [list(share[i : i + batch_size]) for i in range(0, len(share), batch_size)]
    assert sorted(batches) == sorted(alone)


@pytest.mark.parametrize(("images", "batch_size", "count"), [(52, 8, 8), (3, 2, 3), (9, 8, 8), (16, 8, 3)])
def test_more_processes_than_batches_share_smaller_ones(
    together: Any, images: int, batch_size: int, count: int
) -> None:
    shares = []
    for rank in range(count):
        together(rank, count)
        shares.append(processes.local_items(range(images), batch_size))
    assert sorted(item for share in shares for item in share) == list(range(images))
    assert min(map(len, shares)) > 0


def test_more_processes_than_images_are_refused(together: Any) -> None:
    together(0, 4)
    with pytest.raises(InputError, match=r"start at most 3 of them, which are torchrun's --nnodes times"):
        processes.local_items([1, 2, 3], 2)


# --- settings -------------------------------------------------------------------------------------


def check(tmp_path: Path, **changed: Any) -> None:
    check_settings({**SETTINGS, "output_dir": str(tmp_path / "out"), **changed})


def test_the_defaults_pass_and_native_too(tmp_path: Path) -> None:
    check(tmp_path)
    check(tmp_path, metric_size="native", split="val", prompt_modes="box,none")
    assert (tmp_path / "out").is_dir()


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("split", "validation", "train, val, test, all, or null"),
        ("split", 3, "train, val, test, all, or null"),
        ("metric_size", "big", "native or a whole number of at least 16"),
        ("metric_size", 0, "native or a whole number of at least 16"),
        ("metric_size", 256.5, "native or a whole number of at least 16"),
        ("prompt_modes", "boxes", "choose from box, box_jitter_10"),
        ("compare", "nowhere/metrics.csv", "metrics.csv that another run"),
        ("compare", "", "null"),
        ("curves", "no", "True or False"),
        ("gallery", -1, "a whole number of at least 0"),
        ("bootstrap", 0, "a whole number of at least 1"),
        ("seed", -1, "a whole number of at least 0"),
        ("batch_size", 0, "a whole number of at least 1"),
        ("device", "tpu9", "--device"),
    ],
)
def test_a_wrong_setting_is_named_with_the_remedy(
    tmp_path: Path, key: str, value: object, remedy: str
) -> None:
    with pytest.raises(InputError) as caught:
        check(tmp_path, **{key: value})
    assert key in str(caught.value) and remedy in str(caught.value)


def test_an_output_folder_among_the_data_is_refused(tmp_path: Path) -> None:
    for output in (tmp_path, tmp_path / "sub"):
        with pytest.raises(InputError, match=r"output_dir .* lies in dataset_dir"):
            check(tmp_path, dataset_dir=str(tmp_path), output_dir=str(output))
    check(tmp_path, dataset_dir=str(tmp_path / "data"))


def test_an_output_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--output_dir"):
        check(tmp_path, output_dir=str(tmp_path / "file" / "out"))


# --- the network and the images -------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "some.pt"
    save_weights(LMSFESAM(preset="vit_t", local_encoder=False), path)
    return str(path)


def test_the_network_is_what_the_checkpoint_holds(checkpoint: str) -> None:
    network = evaluated_network(checkpoint, MODES, preset=None, image_size=None, local_encoder=None)
    assert isinstance(network, LMSFESAM)
    assert network.describe()["local_encoder"] is False
    evaluated_network(checkpoint, MODES, preset="vit_t", image_size=256, local_encoder=False)


@pytest.mark.parametrize(
    ("key", "value"), [("preset", "vit_b"), ("image_size", 512), ("local_encoder", True)]
)
def test_what_contradicts_the_checkpoint_is_refused(checkpoint: str, key: str, value: object) -> None:
    with pytest.raises(InputError, match=f"{key}.*contradicts.*leave out --{key}"):
        evaluated_network(checkpoint, MODES, **{key: value})


def test_a_missing_checkpoint_is_refused_unless_controls_are_all(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.pt")
    with pytest.raises(InputError, match="--checkpoint"):
        evaluated_network(missing, MODES)
    network = evaluated_network(missing, CONTROLS)
    info = describe_run(DataList("d", Path(), "plain", {}), "all", missing, network, 256, 0, 10)
    assert isinstance(network, NoNetwork)
    assert info.checkpoint is None and info.checkpoint_sha256 is None


def test_the_run_is_described_by_its_checkpoint(checkpoint: str) -> None:
    network = evaluated_network(checkpoint, MODES)
    info = describe_run(DataList("d", Path(), "plain", {}), "test", checkpoint, network, "native", 3, 10)
    assert info.checkpoint_sha256 == hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()
    assert info.network["preset"] == "vit_t" and (info.dataset, info.metric_size) == ("d", "native")


def test_the_split_is_test_where_there_is_one() -> None:
    own = DataList("d", Path(), "tn3k", {}, own_split=True)
    none = DataList("d", Path(), "busi", {})
    assert choose_split(own, None, "there") == "test"
    assert choose_split(none, None, "there") == "all"
    assert choose_split(none, "val", "there") == "val"
    assert choose_split(none, "test", "there") == "test"
    assert choose_split(none, None, None) == "test"  # phantoms


@pytest.mark.parametrize("main", [True, False])
def test_only_the_main_process_announces_the_run(
    main: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "lmsfe_sam")
    monkeypatch.setattr("lmsfe_sam.evaluation.settings.is_main_process", lambda: main)
    parts: dict[str, list[Any]] = {"train": [], "val": [], "test": []}
    for layout, words in (("phantoms", "SYNTHETIC PHANTOMS"), ("busi", "Evaluating 3 images")):
        announce(DataList("d", Path(), layout, parts), "test", 3)
        assert (words in caplog.text) == main


def test_modes_of_a_network_without_prompts() -> None:
    network = PromptFreeNetwork(torch.nn.Conv2d(4, 1, 1), form="box")
    assert usable_modes(network, None) == ("box", "box_jitter_10", "box_jitter_20", *CONTROLS)
    assert not has_curves(network)
    network = PromptFreeNetwork(torch.nn.Conv2d(3, 1, 1))
    assert usable_modes(network, "all") == ("none", *CONTROLS)
    assert usable_modes(network, "none,control_box") == ("none", "control_box")
    assert usable_modes(NoNetwork(), "all") == MODES
    with pytest.raises(InputError, match="names box, point, but network_def takes no such prompt"):
        usable_modes(network, ["point", "none", "box"])


def test_no_comparison_by_default() -> None:
    assert read_other_runs(None, ["a.png"], MODES) == []


def test_no_network_runs_nothing() -> None:
    with pytest.raises(RuntimeError):
        NoNetwork()(torch.zeros(1))


@pytest.mark.parametrize("spacing", [[0.1], "fine", [0.1, -0.1], {"x": 1}])
def test_a_spacing_that_is_none_is_refused(tmp_path: Path, spacing: object) -> None:
    for name in ("a.png", "m.png"):
        (tmp_path / name).write_bytes(b"")
    entry = {"image": "a.png", "label": "m.png", "spacing": spacing}
    (tmp_path / "datalist.json").write_text(json.dumps({"test": [entry]}))
    with pytest.raises(InputError, match=r"spacing.*such as \[0\.1, 0\.1\]"):
        build_datalist(tmp_path)
