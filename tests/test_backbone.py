"""The backbone of the local encoder: timm's networks, their normalisation, their weights, old checkpoints."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from lmsfe_sam.errors import InputError
from lmsfe_sam.model.checkpoints import network_from_checkpoint, read_description, save_weights
from lmsfe_sam.model.encoder.backbone import (
    PairedBackbone,
    PlainBackbone,
    TimmBackbone,
    build_backbone,
    load_classifier,
)
from lmsfe_sam.model.network import LMSFESAM
from lmsfe_sam.model.presets import PIXEL_MEAN, PIXEL_STD
from lmsfe_sam.training.optimization import parameter_groups
from lmsfe_sam.training.settings import start_network
from tiny import SIZE, tiny_presets

LITE = "tf_efficientnet_lite0"
WIDTHS, BLOCKS = (8, 8, 12, 16), (0, 0, 0, 0)


@pytest.fixture(scope="module")
def classifier() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return timm.create_model(LITE).state_dict()


def image() -> Tensor:
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["plain", LITE, "resnet18", "mobilenetv3_small_100", "dla34"])
def test_features_are_at_a_half_to_a_sixteenth_and_every_part_learns(name: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(name, WIDTHS, BLOCKS)
    features = backbone(image())
    assert [feature.shape[1] for feature in features] == list(backbone.widths)
    assert [SIZE // feature.shape[-1] for feature in features] == [2, 4, 8, 16]
    sum((feature * torch.randn_like(feature)).sum() for feature in features).backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []  # timm starts some at zero


def test_timms_features_are_those_of_the_whole_network_on_its_own_normalisation(
    classifier: dict[str, Tensor],
) -> None:
    backbone = TimmBackbone(LITE).eval()
    load_classifier(backbone, classifier)
    whole = timm.create_model(LITE, features_only=True).eval()
    whole.load_state_dict({name: classifier[name] for name in whole.state_dict()})
    pixels = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 255
    mean, std = torch.tensor(PIXEL_MEAN)[:, None, None], torch.tensor(PIXEL_STD)[:, None, None]
    with torch.no_grad():
        found = backbone((pixels - mean) / std)
        expected = whole(pixels / 127.5 - 1)[:4]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=2e-4)


def test_another_librarys_names_are_matched_by_order(classifier: dict[str, Tensor]) -> None:
    backbone = TimmBackbone(LITE)
    load_classifier(backbone, {f"_blocks.{i}": t for i, t in enumerate(classifier.values())})
    for name, tensor in backbone.net.state_dict().items():
        torch.testing.assert_close(tensor, classifier[name])


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("no_such_network", "is unknown: give 'plain', a network's name in timm, or both"),
        ("resnet18.no_such_weights", "'resnet18.no_such_weights' is unknown"),
        ("plain+", r"'plain\+' is unknown"),
        ("vit_tiny_patch16_224", "does not give features at 1/2"),
        ("legacy_xception", "does not give features at 1/2"),  # of 64 pixels: 29, 15, 8 and 4
        ("test_maxvit", "does not take images of 64 pixels"),
        ("plain+test_maxvit", "does not take images of 48 pixels"),
    ],
)
def test_networks_that_do_not_serve_are_refused(name: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        build_backbone(name, WIDTHS, BLOCKS, 64)


def test_a_size_that_a_network_takes() -> None:
    assert build_backbone("test_maxvit", WIDTHS, BLOCKS, 320).widths


def test_without_timm_it_is_named(network: LMSFESAM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_weights(network, tmp_path / "model.pt")
    monkeypatch.setitem(sys.modules, "timm", None)
    with tiny_presets():
        for build in (
            lambda: LMSFESAM("tiny_t", SIZE, backbone=LITE),
            lambda: network_from_checkpoint(tmp_path / "model.pt"),
        ):
            with pytest.raises(InputError, match=rf"^backbone '{LITE}' needs the package timm"):
                build()
        assert LMSFESAM("tiny_t", SIZE).backbone == "plain"


@pytest.mark.parametrize("flattened", ["resnet18", "repghostnet_050"])
def test_files_without_counters_or_with_another_head(flattened: str) -> None:
    torch.manual_seed(1)
    state = timm.create_model(flattened).state_dict()
    expected = [t for name, t in state.items() if not name.endswith("num_batches_tracked")]
    old = {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}
    other_head = {**state, **{name: t[:3] for name, t in list(state.items())[-2:]}}
    no_head = dict(list(state.items())[:-2])
    for file in (state, old, other_head, no_head, {f"a.{name}": t for name, t in old.items()}):
        backbone = TimmBackbone(flattened, SIZE)
        load_classifier(backbone, file)
        found = [t for name, t in backbone.net.state_dict().items() if not name.endswith("tracked")]
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=False))


@pytest.mark.parametrize(
    ("name", "larger"), [("resnet18", "resnet34"), (LITE, "tf_efficientnet_lite1"), (LITE, "efficientnet_b0")]
)
@pytest.mark.parametrize("prefix", ["", "encoder."])
def test_weights_of_a_network_that_holds_the_same_stages_are_refused(
    name: str, larger: str, prefix: str
) -> None:
    state = {prefix + key: tensor for key, tensor in timm.create_model(larger).state_dict().items()}
    with pytest.raises(InputError, match=f"another network than --backbone names, '{name}'"):
        load_classifier(TimmBackbone(name, SIZE), state)


def test_weights_of_another_network_are_refused(classifier: dict[str, Tensor]) -> None:
    with pytest.raises(InputError, match="another network than --backbone names"):
        load_classifier(TimmBackbone("resnet18"), classifier)
    with pytest.raises(InputError, match="name it with --backbone"):
        load_classifier(PlainBackbone(WIDTHS, BLOCKS), classifier)
    with pytest.raises(InputError, match="another network than --backbone names"):
        load_classifier(TimmBackbone(LITE), dict(list(classifier.items())[:20]))


@pytest.fixture(scope="module")
def network() -> LMSFESAM:
    torch.manual_seed(0)
    with tiny_presets():
        return LMSFESAM("tiny_t", SIZE, backbone=LITE).eval()


def test_a_checkpoint_comes_back_with_its_backbone(network: LMSFESAM, tmp_path: Path) -> None:
    save_weights(network, tmp_path / "model.pt")
    with tiny_presets():
        again = network_from_checkpoint(tmp_path / "model.pt")
    assert again.backbone == LITE
    with torch.no_grad():
        torch.testing.assert_close(again(image()), network(image()))


def test_without_its_description_such_a_checkpoint_is_refused(network: LMSFESAM, tmp_path: Path) -> None:
    save_weights(network, tmp_path / "model.pt")
    (tmp_path / "model.json").unlink()
    with pytest.raises(InputError, match=r"backbone of timm, whose name only 'model\.json' tells"):
        read_description(tmp_path / "model.pt")


def test_a_description_older_than_the_option_means_the_plain_backbone(tmp_path: Path) -> None:
    with tiny_presets():
        save_weights(LMSFESAM("tiny_t", SIZE), tmp_path / "model.pt")
        description = json.loads((tmp_path / "model.json").read_text())
        assert description.pop("backbone") == "plain"
        (tmp_path / "model.json").write_text(json.dumps(description))
        assert network_from_checkpoint(tmp_path / "model.pt").backbone == "plain"


def test_training_starts_from_a_file_with_another_backbone(
    network: LMSFESAM, classifier: dict[str, Tensor], tmp_path: Path
) -> None:
    with tiny_presets():
        plain = LMSFESAM("tiny_t", SIZE)
        started = LMSFESAM("tiny_t", SIZE, backbone=LITE)
    save_weights(plain, tmp_path / "plain.pt")
    torch.save(classifier, tmp_path / "lite.pth")
    start_network(started, str(tmp_path / "plain.pt"), str(tmp_path / "lite.pth"))
    stem = started.state_dict()["image_encoder.local_encoder.stages.net.conv_stem.weight"]
    torch.testing.assert_close(stem, classifier["conv_stem.weight"])
    token = started.mask_decoder.iou_token.weight
    torch.testing.assert_close(token, plain.mask_decoder.iou_token.weight)
    report = started.load_pretrained(tmp_path / "plain.pt")
    assert report.replaced and not report.unused
    assert all("stages" in n or "project" in n for n in (*report.replaced, *report.new))


@pytest.fixture(scope="module")
def paired() -> LMSFESAM:
    torch.manual_seed(0)
    with tiny_presets():
        return LMSFESAM("tiny_t", SIZE, backbone=f"plain+{LITE}").eval()


def test_beside_the_plain_backbone_it_changes_nothing_at_first(
    paired: LMSFESAM, network: LMSFESAM, classifier: dict[str, Tensor], tmp_path: Path
) -> None:
    with tiny_presets():
        plain = LMSFESAM("tiny_t", SIZE).eval()
    save_weights(plain, tmp_path / "plain.pt")
    save_weights(network, tmp_path / "timm.pt")
    started = start_network(copy.deepcopy(paired), str(tmp_path / "plain.pt"), str(tmp_path / "timm.pt"))
    with torch.no_grad():
        torch.testing.assert_close(started(image()), plain(image()))
    stages = started.image_encoder.local_encoder.stages
    assert isinstance(stages, PairedBackbone)
    theirs = network.image_encoder.local_encoder.stages.net.state_dict()
    torch.testing.assert_close(stages.beside.net.state_dict(), theirs)
    load_classifier(stages, classifier)
    torch.testing.assert_close(stages.beside.net.conv_stem.weight.detach(), classifier["conv_stem.weight"])


def test_beside_the_plain_backbone_it_learns(paired: LMSFESAM) -> None:
    stages = copy.deepcopy(paired.image_encoder.local_encoder.stages).train()
    for project in stages.project:
        torch.nn.init.normal_(project.weight)
    sum(feature.square().mean() for feature in stages(image())).backward()
    assert [name for name, p in stages.beside.named_parameters() if p.grad is None] == []
    assert [feature.shape[1] for feature in stages(image())] == list(stages.widths)


def test_a_checkpoint_of_both_comes_back(paired: LMSFESAM, tmp_path: Path) -> None:
    save_weights(paired, tmp_path / "model.pt")
    with tiny_presets():
        again = network_from_checkpoint(tmp_path / "model.pt")
    assert again.backbone == f"plain+{LITE}"
    with torch.no_grad():
        torch.testing.assert_close(again(image()), paired(image()))
    (tmp_path / "model.json").unlink()
    with pytest.raises(InputError, match="whose name only"):
        read_description(tmp_path / "model.pt")


def test_torchscript_compiles_both(paired: LMSFESAM) -> None:
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(paired)(image()), paired(image()))


def test_torchscript_compiles_it(network: LMSFESAM) -> None:
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(network)(image()), network(image()))


def test_the_backbone_has_a_learning_rate_of_its_own(network: LMSFESAM) -> None:
    groups = parameter_groups(network, 0.1, learning_rate=1e-3, backbone_rate=0.25)
    assert [group["lr"] for group in groups] == [1e-3, 1e-3, 2.5e-4, 2.5e-4]
    slow = {id(p) for group in groups[2:] for p in group["params"]}
    assert slow == {id(p) for p in network.image_encoder.local_encoder.stages.parameters()}
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
