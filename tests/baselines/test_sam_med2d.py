"""SAM-Med2D: names, numbers and sizes of its authors' code, its choice among masks, and its file as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from published import (
    cases,
    check,
    filled,
    fixture,
    keys,
    multiply_adds,
    normal,
    outputs_of,
    parameters,
    shapes,
    uniform,
    unreached,
)
from test_sam import prompted_loss
from torch import Tensor

from lmsfe_sam import LMSFESAM, ImageEmbedding
from lmsfe_sam.baselines import build
from lmsfe_sam.baselines.preprocessing import Frame
from lmsfe_sam.baselines.sam import TOGGLES_OFF
from lmsfe_sam.baselines.sam_med2d import SamMed2D
from lmsfe_sam.model.presets import PRESETS
from sam_med2d import build_sam, randomise
from tiny import SIZE, TINY

CASES = cases("sam_med2d")
ENCODER = {
    "patch_embed": "patch_embed",
    "block0.mlp": "blocks.0.mlp",
    "block0.adapter.channel": "blocks.0.Adapter.channel",
    "block0.adapter": "blocks.0.Adapter",
    **{f"block{i}": f"blocks.{i}" for i in (0, 1, 2, 5, 8, 11)},
    **{f"neck.{i}": f"neck.{i}" for i in range(3)},
}
INNER = {"attention": "blocks.0.attn", "normed": "blocks.0.norm2"}


@pytest.fixture(scope="module")
def network() -> SamMed2D:
    """Built without first values, which the rule's would replace."""
    with torch.device("meta"):
        built = build("sam_med2d")
    filled(built.to_empty(device="cpu"))
    assert isinstance(built, SamMed2D)
    return built


@pytest.fixture(scope="module")
def encoded(network: SamMed2D) -> dict[str, Tensor]:
    with torch.no_grad(), outputs_of(network.image_encoder, {**ENCODER, **INNER}) as found:
        output, _ = network.image_encoder(uniform("image", [2, 3, 256, 256]))
    return {**found, "output": output}


def test_encoder(encoded: dict[str, Tensor]) -> None:
    expected = CASES["encoder"]["tensors"]
    assert set(expected) - set(encoded) == {"block0.attn", "block0.adapter.spatial"}
    for name in set(expected) & set(encoded):
        check(encoded[name], expected[name], name)


@torch.no_grad()
def test_spatial_part_of_an_adapter(network: SamMed2D, encoded: dict[str, Tensor]) -> None:
    """It runs as matrix products in the network; as convolutions here."""
    gate = encoded["block0.adapter.channel"][:, :, None, None]
    maps = network.image_encoder.blocks[0].Adapter.spatial(encoded["normed"].permute(0, 3, 1, 2) * gate)
    check(maps, CASES["encoder"]["tensors"]["block0.adapter.spatial"], "block0.adapter.spatial")


def test_attention_of_a_window(encoded: dict[str, Tensor]) -> None:
    """Published for windows of 14 x 14 with padding, which has no queries here: its values are left out."""
    expected = CASES["encoder"]["tensors"]["block0.attn"]
    compared = 0
    for index, value in zip(expected["indices"], expected["values"], strict=True):
        window, y, x, channel = (int(i) for i in torch.unravel_index(torch.tensor(index), expected["shape"]))
        row, column = 14 * (window % 4 // 2) + y, 14 * (window % 2) + x
        if row < 16 and column < 16:
            found = encoded["attention"][window // 4, row, column, channel].item()
            assert found == pytest.approx(value, abs=1e-4 * expected["std"] + 1e-5 * abs(value))
            compared += 1
    assert compared >= 3


def prompts(inputs: dict[str, Any]) -> dict[str, Tensor | None]:
    """One object for each image."""

    def objects(name: str) -> Tensor | None:
        return (
            None if inputs[name] is None else torch.tensor(inputs[name])[:, None].reshape(2, 1, *shape[name])
        )

    shape: dict[str, tuple[int, ...]] = {"boxes": (4,), "points": (-1, 2), "labels": (-1,)}
    mask = inputs["mask_input"]
    return {
        "boxes": objects("boxes"),
        "points": objects("points"),
        "point_labels": objects("labels"),
        "masks": None if mask is None else 4 * normal(mask["tag"], mask["shape"]),
    }


@pytest.mark.parametrize("case", ["box", "points", "points_mask"])
@torch.no_grad()
def test_prompts(network: SamMed2D, encoded: dict[str, Tensor], case: str) -> None:
    facts = CASES[case]
    embedding = ImageEmbedding(encoded["output"], [])
    multimask, size = facts["inputs"]["multimask_output"], tuple(facts["inputs"]["original_size"])
    with outputs_of(network, {"prompts": "prompt_encoder"}) as found:
        _, iou, low_res = network.decode(
            embedding, **prompts(facts["inputs"]), multimask_output=multimask, return_low_res=True
        )
    low_res, iou = (low_res[:, 0], iou[:, 0]) if multimask else (low_res, iou)
    results = {
        "sparse": found["prompts"][0],
        "dense": found["prompts"][1],
        "iou": iou,
        "low_res_logits": low_res,
        "full_logits": Frame(size, (256, 256), (0, 0), 256).restore(low_res),
    }
    assert set(results) == set(facts["tensors"])
    for name, expected in facts["tensors"].items():
        check(results[name].expand(expected["shape"]), expected, name)


@torch.no_grad()
def test_best_of_three_masks_by_default(network: SamMed2D, encoded: dict[str, Tensor]) -> None:
    embedding = ImageEmbedding(encoded["output"], [])
    boxes = torch.tensor(CASES["box"]["inputs"]["boxes"])
    logits, iou, low_res = network.decode(embedding, boxes=boxes, multimask_output=True, return_low_res=True)
    best, best_iou, best_low_res = network.decode(embedding, boxes=boxes, return_low_res=True)
    for image in range(2):
        chosen = iou[image, 0].argmax()
        assert torch.equal(best_iou[image, 0], iou[image, 0].max())
        assert torch.equal(best[image, 0], logits[image, 0, chosen])
        assert torch.equal(best_low_res[image, 0], low_res[image, 0, chosen])
    ragged, ragged_iou = network.decode(embedding, boxes=[boxes[0], boxes[1].expand(2, 4)])
    assert [len(image) for image in ragged] == [1, 2]
    torch.testing.assert_close(ragged[1][1], best[1, 0], atol=1e-4, rtol=0)
    torch.testing.assert_close(ragged_iou[0], best_iou[0], atol=1e-5, rtol=0)


def test_names_and_sizes(network: SamMed2D) -> None:
    """Fewer multiply-adds than the published 45.84 G: windows are not padded before the projections here."""
    facts = fixture("sam_med2d")
    assert shapes(network) == keys("sam_med2d")
    assert parameters(network) == facts["parameters"]["whole"]
    assert parameters(network.image_encoder) == facts["parameters"]["image_encoder"]
    adapters = [block.Adapter for block in network.image_encoder.blocks]
    assert [parameters(adapter) for adapter in adapters] == 12 * [facts["parameters"]["one adapter"]]
    with torch.device("meta"):
        encoder, plain = build("sam_med2d").image_encoder, build("sam", image_size=256).image_encoder
    image = (1, 3, 256, 256)
    published = facts["multiply_adds"]
    assert (
        multiply_adds(encoder, image) - multiply_adds(plain, image)
        == published["encoder@256"] - published["encoder@256 without adapters"]
    )
    assert multiply_adds(encoder, image) < published["encoder@256"]


def test_what_trains() -> None:
    with torch.device("meta"):
        network, whole = build("sam_med2d"), build("sam_med2d", freeze_encoder=False)
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad == (".Adapter." in name or not name.startswith("image_encoder.")), name
    assert all(parameter.requires_grad for parameter in whole.parameters())


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "vit_b", TINY["tiny_b"])


@pytest.mark.usefixtures("_small")
def test_a_gradient_reaches_every_parameter() -> None:
    network = filled(build("sam_med2d", image_size=SIZE, freeze_encoder=False))
    assert unreached(network, prompted_loss(network, SIZE)) == []


@pytest.mark.usefixtures("_small")
def test_new_adapters_add_something() -> None:
    """Unlike ours, whose norms start at zero; with the eps that is not the rest of the encoder's."""
    for block in build("sam_med2d", image_size=SIZE).image_encoder.blocks:
        assert torch.equal(block.Adapter.norm.weight, torch.ones_like(block.Adapter.norm.weight))
        assert (block.Adapter.norm.eps, block.norm2.eps) == (1e-5, 1e-6)


@pytest.mark.usefixtures("_small")
def test_its_file_loads_as_it_is(tmp_path: Path) -> None:
    """Written by the plain SAM-Med2D of ``tests/sam_med2d.py``, whose features come out again."""
    plain = randomise(build_sam(TINY["tiny_b"], SIZE, med2d=True), 0)
    torch.save({"model": plain.state_dict()}, tmp_path / "sam-med2d_b.pth")
    network = build("sam_med2d", image_size=SIZE).eval()
    report = network.load_pretrained(tmp_path / "sam-med2d_b.pth")
    assert report.format == "sam-med2d"
    assert sorted(report.loaded) == sorted(plain.state_dict())
    assert report.resized == report.new == report.left_out == []
    image = torch.rand(1, 3, SIZE, SIZE)
    with torch.no_grad():
        torch.testing.assert_close(
            network.encode(image).features, plain.image_encoder(image), atol=1e-4, rtol=0
        )


@pytest.mark.usefixtures("_small")
def test_starts_from_sams_file(tmp_path: Path) -> None:
    torch.save(build_sam(TINY["tiny_b"], SIZE).state_dict(), tmp_path / "sam.pth")
    network = build("sam_med2d", image_size=SIZE)
    report = network.load_pretrained(tmp_path / "sam.pth")
    assert report.format == "sam"
    assert sorted(report.new) == sorted(name for name in network.state_dict() if ".Adapter." in name)


@pytest.mark.usefixtures("_small")
def test_its_file_loads_without_the_adapters(tmp_path: Path) -> None:
    """The paper's ablations without ViTA start from it, too."""
    plain = randomise(build_sam(TINY["tiny_b"], SIZE, med2d=True), 0)
    torch.save({"model": plain.state_dict()}, tmp_path / "sam-med2d_b.pth")
    network = LMSFESAM("vit_b", SIZE, **TOGGLES_OFF)
    report = network.load_pretrained(tmp_path / "sam-med2d_b.pth")
    assert sorted(report.left_out) == sorted(name for name in plain.state_dict() if ".Adapter." in name)
    assert len(report.left_out) == 6 * TINY["tiny_b"].depth
    assert sorted(report.loaded) == sorted(network.state_dict())
    assert f"{len(report.left_out)} left out" in str(report)
    assert "left out: image_encoder.blocks.0.Adapter." in str(report)


@pytest.mark.usefixtures("_small")
def test_image_alone_gives_logits_alone() -> None:
    network = build("sam_med2d", image_size=SIZE).eval()
    image = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        alone, (logits, iou) = network(image), network.decode(network.encode(image))
        assert torch.equal(alone, logits)
        assert iou.shape == (2, 1)
        boxes = torch.tensor([[[10.0, 12, 40, 50]]]).expand(2, 1, 4)
        assert torch.equal(
            network(image, boxes=boxes)[0], network.decode(network.encode(image), boxes=boxes)[0]
        )
