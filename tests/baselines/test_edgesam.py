"""EdgeSAM: names, numbers and sizes of its authors' code."""

from __future__ import annotations

from collections.abc import Iterator
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
from torch import Tensor
from torch.nn import functional as F

from lmsfe_sam import ImageEmbedding
from lmsfe_sam.baselines import build
from lmsfe_sam.baselines.edgesam import EdgeSam
from lmsfe_sam.baselines.preprocessing import Frame
from lmsfe_sam.errors import InputError
from lmsfe_sam.predict.preprocessing import normalise

STAGES = {
    "stem": "features.0",
    "block1": "features.1",
    "block2": "features.2",
    "stage0": "features.3",
    "block4 (stride 2)": "features.4",
    "stage1": "features.7",
    "stage2": "features.23",
    "stage3": "features.26",
    "fuse_stage2": "fuse_stage2",
    "fuse_stage3": "fuse_stage3",
    **{f"neck.{i}": f"neck.{i}" for i in range(3)},
}


@pytest.fixture(scope="module")
def network() -> EdgeSam:
    built = filled(build("edgesam"))
    assert isinstance(built, EdgeSam)
    return built


@torch.no_grad()
def encoder_outputs(network: EdgeSam, image: Tensor) -> dict[str, Tensor]:
    with outputs_of(network.image_encoder, STAGES) as found:
        output, skips = network.image_encoder(image)
    assert skips == []
    return {**found, "output": output}


@pytest.fixture(scope="module")
def encoded(network: EdgeSam) -> Iterator[dict[str, Tensor]]:
    yield encoder_outputs(network, uniform("image", [1, 3, 1024, 1024]))


def test_encoder(encoded: dict[str, Tensor]) -> None:
    expected = cases("edgesam")["encoder"]["tensors"]
    assert set(expected) == set(encoded)
    for name in expected:
        check(encoded[name], expected[name], name)


def test_encoder_at_another_size(network: EdgeSam) -> None:
    case = cases("edgesam")["encoder_256"]
    found = encoder_outputs(network, uniform("image/256", case["inputs"]["image"]["shape"]))
    for name, expected in case["tensors"].items():
        check(found[name], expected, name)


def prompts(inputs: dict[str, Any]) -> dict[str, Tensor | None]:
    """One image's prompts, one object for each set of the fixture's."""

    def objects(name: str) -> Tensor | None:
        return None if inputs[name] is None else torch.tensor(inputs[name])[None]

    mask = inputs["mask_input"]
    return {
        "boxes": objects("boxes"),
        "points": objects("points"),
        "point_labels": objects("labels"),
        "masks": None if mask is None else 4 * normal(mask["tag"], mask["shape"]),
    }


TOKENS = {1: slice(0, 1), 3: slice(1, 4), 4: slice(0, 4)}


@pytest.mark.parametrize("case", ["box", "box_all", "points", "box_point_mask"])
@torch.no_grad()
def test_prompts(network: EdgeSam, encoded: dict[str, Tensor], case: str) -> None:
    facts = cases("edgesam")[case]
    with outputs_of(network, {"prompts": "prompt_encoder"}) as found:
        decoded = network.decode_tokens(ImageEmbedding(encoded["output"], []), **prompts(facts["inputs"]))
    chosen = TOKENS[facts["inputs"]["num_multimask_outputs"]]
    results = {
        "sparse": found["prompts"][0],
        "dense": found["prompts"][1],
        "dense_pe": network.prompt_encoder.get_dense_pe(),
        "low_res_logits": decoded.masks[0, :, chosen],
        "iou": decoded.iou[0, :, chosen],
    }
    assert set(results) == set(facts["tensors"])
    for name, expected in facts["tensors"].items():
        check(results[name].expand(expected["shape"]), expected, name)


@torch.no_grad()
def test_whole(network: EdgeSam) -> None:
    """Normalised, padded, encoded, decoded from a box, cropped and resized to the original size."""
    facts = cases("edgesam")["whole"]
    expected, inputs = facts["tensors"], facts["inputs"]
    raw = (256 * uniform(inputs["image"]["tag"], inputs["image"]["shape"])).floor()
    image = F.pad(normalise(raw), (0, 1024 - raw.shape[2], 0, 1024 - raw.shape[1]))
    check(image, expected["preprocessed"], "preprocessed")
    boxes = torch.tensor(inputs["boxes (already in the 1024 frame)"])[None]
    _, iou, low_res = network(image[None], boxes=boxes, multimask_output=False, return_low_res=True)
    check(iou, expected["iou"], "iou")
    check(low_res, expected["low_res_logits"], "low_res_logits")
    frame = Frame(tuple(inputs["original_size"]), raw.shape[1:], (0, 0), 1024)
    logits = frame.restore(low_res)
    check(logits, expected["full_logits"], "full_logits")
    assert (logits > 0).float().mean().item() == pytest.approx(
        expected["positive_fraction"]["values"][0], abs=2e-5
    )


def test_names_and_sizes(network: EdgeSam) -> None:
    facts = fixture("edgesam")
    assert shapes(network) == keys("edgesam")
    assert parameters(network) == facts["parameters"]["whole"]
    for part in ("image_encoder", "prompt_encoder", "mask_decoder"):
        assert parameters(network.get_submodule(part)) == facts["parameters"][part]
    with torch.device("meta"):
        encoder = build("edgesam").image_encoder
    for size in (256, 1024):
        assert multiply_adds(encoder, (1, 3, size, size)) == facts["multiply_adds"][f"encoder@{size}"]


def test_a_gradient_reaches_every_parameter() -> None:
    """With filled weights: at the start the channel mixers' last norms are zero and let nothing through."""
    network = filled(build("edgesam", image_size=64))
    embedding = network.encode(torch.rand(1, 3, 64, 64))
    clicks = network.decode_tokens(
        embedding, points=torch.rand(1, 1, 2, 2) * 64, point_labels=torch.tensor([[[1, 0]]])
    )
    box = network.decode_tokens(
        embedding, boxes=torch.tensor([[[5.0, 6, 40, 50]]]), masks=torch.randn(1, 1, 16, 16)
    )
    loss = sum(part.square().mean() for part in (clicks.masks, clicks.iou, box.masks, box.iou))
    assert unreached(network, loss) == []


def test_what_it_cannot_take() -> None:
    with pytest.raises(InputError, match="edgesam cannot work at 1000 pixels: give a multiple of 32"):
        build("edgesam", image_size=1000)
