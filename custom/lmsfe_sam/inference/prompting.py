"""Users' prompts on their way to the network: checked, scaled and carried in the image's metadata."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from lmsfe_sam.errors import InputError
from lmsfe_sam.predict.decoding import pack_prompts, scale_prompts

PROMPTS = "prompts"
"""The key of the prompts, in a record and in an image's metadata."""


class AttachPromptsd(MapTransform):
    """Put the prompts into the metadata of the image, in pixels of the inferer's input.

    A MONAI inferer sees nothing but the image, so they travel with it, as one array
    (`lmsfe_sam.predict.decoding`). The record's ``prompts``, a list of `ObjectPrompt` in pixels of
    the original image, becomes such an array as well; a record without it is unprompted.

    Args:
        keys: the image, (C, H, W) at its original size.
        image_size: the side of the square that the image will be resized to, None if it will not be.
        allow_missing_keys: as for every MONAI `MapTransform`.

    Raises:
        InputError: when called, on a prompt outside the image; it names the image and the object.
    """

    def __init__(
        self, keys: KeysCollection, image_size: int | None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size = None if image_size is None else (image_size, image_size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:  # noqa: D102
        result = dict(data)
        objects = result.get(PROMPTS) or []
        packed = pack_prompts(objects)
        for key in self.key_iterator(result):
            height, width = result[key].shape[-2:]
            for number, prompt in enumerate(objects, 1):
                try:
                    prompt.check_inside(height, width)
                except InputError as error:
                    name = result[key].meta["filename_or_obj"]
                    raise InputError(f"object {number} of '{name}' in the prompts: {error}") from error
            size = (height, width)
            result[key].meta[PROMPTS] = scale_prompts(packed, size, self.size or size)
        result[PROMPTS] = packed
        return result
