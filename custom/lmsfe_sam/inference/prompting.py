"""Check users' prompts, and carry them to the inferer in the image's metadata."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import MapTransform
from torch import Tensor

from lmsfe_sam.errors import InputError
from lmsfe_sam.prompts.prompt import Prompts

PROMPTS = "prompts"
"""The key of the prompts, in a record and in an image's metadata."""

CATEGORY = "category"
"""The key of the objects' categories, joined by commas; "" where the prompts name none."""


class AttachPromptsd(MapTransform):
    """Put the prompts into the metadata of the image, in its pixels.

    A MONAI inferer sees nothing but the image, so they travel with it, as a dictionary of tensors, which
    MONAI can collate. The record's ``prompts``, a list of `ObjectPrompt` in pixels of the image, becomes
    such a dictionary, too; a record without it is unprompted.

    Args:
        keys: the image, (C, H, W) at its original size.
        allow_missing_keys: as for every MONAI `MapTransform`.

    Raises:
        InputError: when called, on a prompt outside the image; it names the image and the object.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:  # noqa: D102
        result = dict(data)
        objects = result.get(PROMPTS) or []
        tensors = Prompts.of(objects).given()
        for key in self.key_iterator(result):
            height, width = result[key].shape[-2:]
            for number, prompt in enumerate(objects, 1):
                try:
                    prompt.check_inside(height, width)
                except InputError as error:
                    name = result[key].meta["filename_or_obj"]
                    raise InputError(f"object {number} of '{name}' in the prompts: {error}") from error
            result[key].meta[PROMPTS] = tensors
        result[PROMPTS] = tensors
        result[CATEGORY] = ",".join(prompt.category or "" for prompt in objects)
        return result


def carried_prompts(inputs: Tensor) -> Prompts:
    """Return the prompts in the metadata of one image (1, C, H, W).

    Raises:
        ValueError: more than one image; their prompts would not be of one shape.
    """
    if len(inputs) != 1:
        raise ValueError(f"The inferer takes one image at a time, not {len(inputs)}: set batch_size to 1.")
    meta: Mapping[str, Any] = getattr(inputs, "meta", {})
    if PROMPTS not in meta:
        return Prompts.of([])
    prompts = Prompts(**{name: torch.as_tensor(tensor) for name, tensor in meta[PROMPTS].items()})
    assert prompts.boxes is not None
    return prompts if prompts.boxes.ndim == 2 else prompts.select(0)  # collated, there is one axis more
