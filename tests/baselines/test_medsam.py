"""MedSAM: its input, its boxes, its masks, and its network."""

from __future__ import annotations

import functools
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from published import cases, check, filled, keys, normal, outputs_of, shapes, uniform, unreached
from test_sam import prompted_loss
from torch import Tensor

from lmsfe_sam import LMSFESAM, ImageEmbedding
from lmsfe_sam.baselines import build
from lmsfe_sam.baselines.preprocessing import Frame, Prepared, medsam_probability, prepare_medsam
from lmsfe_sam.model.mask_decoder import ObjectMaskDecoder
from lmsfe_sam.model.presets import PRESETS
from lmsfe_sam.model.prompt_encoder import ObjectPromptEncoder
from tiny import TINY

CASES = cases("medsam")
INPUTS = ("noise_up", "pattern_grey", "noise_down")


def image_of(case: str) -> np.ndarray:
    shape = CASES[case]["inputs"]["image"]["shape (height, width[, channel])"]
    if case != "pattern_grey":
        tag = CASES[case]["inputs"]["image"]["tag"]
        return (256 * uniform(tag, shape)).floor().to(torch.uint8).numpy()
    row, column = np.indices(shape)
    return (20 + (3 * row + 2 * column) % 150 + 40 * ((row // 7 + column // 9) % 2)).astype(np.uint8)


@functools.cache
def prepared(case: str) -> Prepared:
    return prepare_medsam(image_of(case))


@pytest.mark.parametrize("case", INPUTS)
def test_input(case: str) -> None:
    """The cast truncates: a pixel that is a whole grey level up to rounding may fall on either side."""
    expected = CASES[case]["tensors"]["preprocessed"]
    image, frame = prepared(case)
    assert list(image.shape) == expected["shape"][1:]
    assert image.dtype == torch.float32
    assert frame == Frame(image_of(case).shape[:2], (1024, 1024), (0, 0), 1024, from_probability=True)
    low, high = expected["uint8_min_max"]
    grey = (image * (high - low) + low).round().to(torch.uint8)
    assert (grey.min(), grey.max()) == (low, high)
    own, values = image.flatten()[expected["indices"]], torch.tensor(expected["values"])
    off = (own - values).abs()
    near = expected["share_of_pixels_within_1e-6_of_a_grey_step"]
    assert off.max() <= 1 / (high - low) + 1e-6
    assert (off > 1e-6).float().mean() <= near
    assert abs(int(grey.sum(dtype=torch.int64)) - expected["uint8_sum"]) <= near * grey.numel()
    assert image.mean().item() == pytest.approx(expected["mean"], abs=1e-4)
    assert image.std(correction=0).item() == pytest.approx(expected["std"], abs=1e-4)


def test_input_is_published_bit_for_bit() -> None:
    skimage = pytest.importorskip("skimage")
    if skimage.__version__ != "0.26.0":
        pytest.skip("the checksum holds for scikit-image 0.26.0")
    for case in INPUTS:
        expected = CASES[case]["tensors"]["preprocessed"]
        low, high = expected["uint8_min_max"]
        grey = (prepared(case).image * (high - low) + low).round().to(torch.uint8)
        pixels = np.ascontiguousarray(grey.permute(1, 2, 0).numpy())
        assert zlib.crc32(pixels) == expected["uint8_crc32 (height, width, channel order)"], case


def test_box() -> None:
    facts = CASES["box"]
    frame = Frame((60, 88), (1024, 1024), (0, 0), 1024)
    assert frame.boxes([10, 5, 60, 50]) == pytest.approx(facts["box_1024"], rel=1e-7)


@pytest.fixture(scope="module")
def decoder() -> LMSFESAM:
    """MedSAM without an image encoder, which the decoding cases do not ask."""
    with torch.device("meta"):
        network = build("medsam")
    network.image_encoder = torch.nn.Identity()
    network.prompt_encoder = ObjectPromptEncoder(256, 64, 1024)
    network.mask_decoder = ObjectMaskDecoder(256, 2048)
    return filled(network)


@pytest.mark.parametrize("case", ["decode", "decode_large"])
@torch.no_grad()
def test_masks(decoder: LMSFESAM, case: str) -> None:
    facts: dict[str, Any] = CASES[case]
    inputs, expected = facts["inputs"], facts["tensors"]
    size = (inputs["height"], inputs["width"])
    embedding = inputs["image embedding"]
    box = Frame(size, (1024, 1024), (0, 0), 1024).boxes(inputs["box x0 y0 x1 y1 in image pixels"])
    _, iou, low_res = decoder.decode(
        ImageEmbedding(normal(embedding["tag"], embedding["shape"]), []),
        boxes=torch.tensor(box, dtype=torch.float32)[None, None],
        return_low_res=True,
    )
    probability = medsam_probability(low_res, size)
    check(low_res, expected["low_res_logits"], "low_res_logits")
    check(iou, expected["iou"], "iou")
    check(probability, expected["probability"], "probability")
    mask, facts_of_mask = (probability > 0.5)[0, 0], facts["mask"]
    undecided = facts_of_mask["pixels within 1e-5 of the threshold"]
    assert abs(int(mask.sum()) - facts_of_mask["foreground_pixels"]) <= undecided
    if not undecided:
        assert zlib.crc32(mask.to(torch.uint8).numpy()) == facts_of_mask["crc32"]
    from_logits = torch.nn.functional.interpolate(low_res, size=size, mode="bilinear")[0, 0] > 0
    differ = facts_of_mask["pixels that differ if logits instead of probabilities are interpolated"]
    assert abs(int((from_logits != mask).sum()) - differ) <= undecided + 2


@torch.no_grad()
def test_encoder() -> None:
    with torch.device("meta"):
        encoder = build("medsam").image_encoder
    encoder = filled(encoder.to_empty(device="cpu"), prefix="image_encoder.")
    image = uniform("image/medsam/encoder", [1, 3, 1024, 1024])
    blocks = {f"block{i}": f"blocks.{i}" for i in (0, 2, 11)}
    with outputs_of(encoder, {"patch_embed": "patch_embed", **blocks}) as found:
        found["output"], _ = encoder(image)
    expected = CASES["encoder"]["tensors"]
    assert set(expected) == set(found)
    for name, tensor in found.items():
        check(tensor, expected[name], name)


def test_names_and_what_trains() -> None:
    with torch.device("meta"):
        network = build("medsam")
    assert shapes(network) == keys("medsam")
    frozen = {
        name.split(".")[0] for name, parameter in network.named_parameters() if not parameter.requires_grad
    }
    assert frozen == {"prompt_encoder"}


def test_a_gradient_reaches_every_parameter_but_the_prompt_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt encoder is frozen, as in MedSAM's training."""
    monkeypatch.setitem(PRESETS, "vit_b", TINY["tiny_b"])
    network = filled(build("medsam", image_size=64))
    missing: list[str] = unreached(network, prompted_loss(network, 64))
    assert missing == [f"prompt_encoder.{name}" for name, _ in network.prompt_encoder.named_parameters()]


def test_grey_and_colour_are_alike() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (20, 30)).astype(np.uint8)
    colour: Tensor = prepare_medsam(np.stack([grey] * 3, axis=-1), 64).image
    assert torch.equal(prepare_medsam(grey, 64).image, colour)
