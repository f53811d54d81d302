"""The inferer that zooms, from a record to a label map and its table."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch

from boxnet import BoxNetwork
from lmsfe_sam.inference.inferers import IOU, LABELS, PROMPTS, FullImageInferer, ZoomInferer
from lmsfe_sam.inference.transforms import AttachPromptsd, MergeObjectsd
from lmsfe_sam.prompts.prompt import ObjectPrompt, Prompts

HEIGHT, WIDTH = 120, 160
IMAGE = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, HEIGHT, WIDTH), np.uint8))
META = {"filename_or_obj": "a.png", "spatial_shape": np.array([WIDTH, HEIGHT])}


def prompted(*prompts: ObjectPrompt) -> MetaTensor:
    return MetaTensor(IMAGE[None], meta={PROMPTS: Prompts.of(prompts).given()})


def test_prompts_travel_in_the_pixels_of_the_image() -> None:
    data = {"image": MetaTensor(IMAGE, meta=META), "prompts": [ObjectPrompt(box=(30, 42, 90, 100))]}
    result = AttachPromptsd("image")(data)
    assert result["image"].meta[PROMPTS]["boxes"].tolist() == [[30, 42, 90, 100]]


def test_objects_in_their_places_the_better_one_on_top() -> None:
    large, small = (20, 20, 100, 100), (40, 40, 60, 60)
    answer = ZoomInferer(share=0.5)(
        prompted(ObjectPrompt(box=small), ObjectPrompt(box=large)), BoxNetwork().eval()
    )
    labels = answer[LABELS][0, 0].numpy()
    assert labels.shape == (HEIGHT, WIDTH)
    best = 1 + int(answer[IOU][0].argmax())
    assert (labels[42:58, 42:58] == best).all()
    assert (labels[22:38, 22:98] == 2).all()
    assert not labels[:18].any() and not labels[:, 103:].any()


def test_more_than_255_objects() -> None:
    boxes = [ObjectPrompt(box=(x, y, x + 6, y + 6)) for x in range(0, 154, 8) for y in range(0, 114, 8)]
    labels = ZoomInferer(min_side=1)(prompted(*boxes), BoxNetwork().eval())[LABELS]
    assert labels.dtype == torch.uint16
    assert labels[0, 0].to(torch.int32).unique().numel() == len(boxes) + 1


def test_the_label_map_goes_on_through_the_postprocessing() -> None:
    image = prompted(ObjectPrompt(box=(20, 20, 100, 100)))
    image.meta.update(META)
    (answer,) = decollate_batch(ZoomInferer()(image, BoxNetwork().eval()))
    result = MergeObjectsd("pred")({"image": image[0], "pred": answer})
    assert result["pred"].shape == (1, HEIGHT, WIDTH)
    assert result["pred"][0, 60, 60] == 1
    assert result["pred"].meta["filename_or_obj"] == "a.png"
    assert result[IOU].shape == (1,)


def test_the_same_window_is_encoded_once() -> None:
    stand_in, inferer = BoxNetwork().eval(), ZoomInferer(cached_embeddings=8)
    box = (20, 20, 100, 100)
    with torch.no_grad():
        inferer(prompted(ObjectPrompt(box=box)), stand_in)
        inferer(prompted(ObjectPrompt(box=box, points=[(50, 60)], labels=[1])), stand_in)
        assert stand_in.encoded == 1
        changed = prompted(ObjectPrompt(box=box))
        changed[0, 0, 60, 60] = 255 - changed[0, 0, 60, 60]
        inferer(changed, stand_in)
    assert stand_in.encoded == 2


@pytest.mark.parametrize("inferer", [ZoomInferer(), FullImageInferer()])
def test_more_than_one_image_is_refused(inferer: ZoomInferer | FullImageInferer) -> None:
    with pytest.raises(ValueError, match="one image at a time"):
        inferer(torch.zeros(2, 3, 64, 64), BoxNetwork())
