"""``configs/inference.json`` with MONAI's own inferers, with a network without prompts, and in bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import UNet
from PIL import Image
from torch.nn import functional

from inference_workflow import (
    BOX,
    HEIGHT,
    NOISE,
    WIDTH,
    Run,
    assert_sentence,
    finish,
    inference_workflow,
    table,
    write_prompts,
)
from lmsfe_sam.model.checkpoints import save_weights
from lmsfe_sam.model.prompt_free import PromptFreeNetwork
from lmsfe_sam.predict.preprocessing import normalise, prepare, resize_image


@pytest.fixture
def workflow(bundle_root: Path, tmp_path: Path) -> Run:
    return inference_workflow(bundle_root, tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    path.mkdir()
    return path


class TestMonaisInferers:
    """MONAI's own inferers in the place of ours: a normalised float image in, logits out."""

    SLIDING = {"_target_": "SlidingWindowInferer", "roi_size": [64, 64], "sw_batch_size": 2}  # noqa: RUF012
    SIMPLE = {"_target_": "SimpleInferer"}  # noqa: RUF012
    UNET = {  # noqa: RUF012
        "_target_": "UNet",
        "spatial_dims": 2,
        "in_channels": 3,
        "out_channels": 1,
        "channels": [4, 8],
        "strides": [2],
    }

    @pytest.mark.parametrize("mode", [{}, {"mode": "zoom"}, {"mode": "resize"}])
    @pytest.mark.parametrize("inferer", [SLIDING, SIMPLE])
    def test_they_see_the_normalised_image_and_give_the_mask(
        self, folder: Path, tmp_path: Path, workflow: Run, inferer: dict[str, Any], mode: dict[str, str]
    ) -> None:
        Image.fromarray(NOISE).save(folder / "a.png")
        torch.manual_seed(0)
        made = workflow(input=str(folder), network=self.UNET, image_size=64, inferer=inferer, **mode)
        network = made.parser.get_parsed_content("network").eval()
        finish(made)
        image = normalise(torch.from_numpy(NOISE).float().expand(1, 3, -1, -1))
        with torch.no_grad():
            if inferer is self.SIMPLE:
                logits = network(resize_image(image, (64, 64)))
            else:
                logits = SlidingWindowInferer((64, 64), 2)(image, network)
        expected = functional.interpolate(logits, (HEIGHT, WIDTH), mode="bilinear")[0, 0].numpy()
        labels = np.asarray(Image.open(tmp_path / "out" / "masks" / "a.png"))
        assert labels.shape == (HEIGHT, WIDTH) and 0.05 < labels.mean() < 0.95
        wrong = (labels == 1) != (expected > 0)
        assert np.abs(expected[wrong]).max(initial=0) < 1e-4
        (row,) = table(tmp_path / "out")
        assert int(row["area_px"]) == labels.sum() and 0 < float(row["predicted_iou"]) < 1

    def test_a_network_without_prompts_infers_with_none(
        self, folder: Path, tmp_path: Path, workflow: Run
    ) -> None:
        Image.fromarray(NOISE).save(folder / "a.png")
        torch.manual_seed(0)
        unet = UNet(2, 3, 1, channels=(4, 8), strides=(2,)).eval()
        save_weights(PromptFreeNetwork(unet, 64), tmp_path / "unet.pt")
        keys = {"input": str(folder), "checkpoint": str(tmp_path / "unet.pt")}
        finish(workflow(**keys, network_def=self.UNET))
        with torch.no_grad():
            logits = unet(prepare(NOISE, 64)[None])
        expected = functional.interpolate(logits, (HEIGHT, WIDTH), mode="bilinear")[0, 0].numpy()
        labels = np.asarray(Image.open(tmp_path / "out" / "masks" / "a.png"))
        wrong = (labels == 1) != (expected > 0)
        assert 0.05 < labels.mean() < 0.95 and np.abs(expected[wrong]).max(initial=0) < 1e-4
        assert table(tmp_path / "out")[0]["predicted_iou"] == ""
        prompts = write_prompts(folder, **{"a.png": [{"box": BOX}]})
        with pytest.raises(Exception) as caught:
            finish(workflow(**keys, prompts=prompts, network_def=self.UNET))
        assert_sentence(caught.value, "network_def takes no prompts")
        with pytest.raises(Exception) as caught:
            finish(workflow(**keys))
        assert_sentence(caught.value, "give the network_def that it was trained with")

    def test_they_refuse_prompts(self, folder: Path, workflow: Run) -> None:
        Image.fromarray(NOISE).save(folder / "a.png")
        prompts = write_prompts(folder, **{"a.png": [{"box": BOX}]})
        with pytest.raises(Exception) as caught:
            finish(
                workflow(
                    input=str(folder),
                    prompts=prompts,
                    network=self.UNET,
                    image_size=64,
                    inferer=self.SIMPLE,
                )
            )
        assert_sentence(caught.value, "inferer takes no prompts: leave out --prompts")


class Precision(torch.nn.Module):
    """A convolution that notes the type that it computes in."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 1, 3, padding=1)
        self.seen: set[torch.dtype] = set()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = self.layer(image)
        self.seen.add(logits.dtype)
        return logits


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("keys", [{}, {"inferer": {"_target_": "SimpleInferer"}}])
def test_amp_is_bfloat16_on_a_cpu_too(
    folder: Path, tmp_path: Path, workflow: Run, amp: bool, keys: dict[str, Any]
) -> None:
    """With our inferers and with MONAI's own; the masks stay all but the same."""
    Image.fromarray(NOISE).save(folder / "a.png")
    torch.manual_seed(0)
    network = Precision()
    expected = PromptFreeNetwork(network, 64).eval()
    made = workflow(input=str(folder), network=expected, image_size=64, amp=amp, **keys)
    finish(made)
    assert network.seen == {torch.bfloat16 if amp else torch.float32}
    with torch.no_grad():
        logits = network(prepare(NOISE, 64)[None])
    mask = functional.interpolate(logits, (HEIGHT, WIDTH), mode="bilinear")[0, 0].numpy() > 0
    labels = np.asarray(Image.open(tmp_path / "out" / "masks" / "a.png"))
    assert np.mean((labels == 1) != mask) < (0.02 if amp else 0.001)
