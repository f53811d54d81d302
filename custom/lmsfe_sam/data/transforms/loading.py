"""From a record to the tensors that the other transforms work on.

Images are plain tensors without metadata: ragged or missing metadata would not collate, and all
that later steps need of a file is its name and size.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from lmsfe_sam.data.masks.objects import object_map, record_objects
from lmsfe_sam.data.masks.reading import nearest_indices
from lmsfe_sam.images.limits import pixel_limit
from lmsfe_sam.images.reading import read_image
from lmsfe_sam.predict.preprocessing import resize_image, to_rgb_uint8

__all__ = ["LoadUltrasoundd", "ResizeUltrasoundd", "load_image_and_mask"]

_CONSUMED = frozenset(
    {"outlines", "phantom", "subgroup", "objects", "object", "masks", "max_pixels", "normal"}
)
"""What a record holds for this step or for tables only; left in, it would not collate."""


class LoadUltrasoundd(MapTransform):
    """Load the image and the mask of a record.

    A record is what `lmsfe_sam.data.datalist.DataList` holds, or a phantom's
    (`lmsfe_sam.data.phantoms.rendering`), which is rendered instead of read. In the result

    - ``image`` is (3, H, W) float32, RGB in 0..255,
    - ``label`` is (1, H, W) uint8, k inside object k; by default the only object is the union of all masks
      (`lmsfe_sam.data.masks.objects`), and of a record with ``object`` that one alone is there, as 1,
    - ``normal`` is whether the image has no lesion, so that its label is empty,
    - ``unprompted`` is whether the image may be segmented without a prompt, True unless the record says no,
    - ``original_size`` is (2,) int64, height and width,
    - ``name`` is the image's name, a string,

    and the record's other entries stay, but for those that describe the label and the subgroups.

    Args:
        keys: "image", or "image" and "label".
        allow_missing_keys: as for every MONAI `MapTransform`.

    Raises:
        InputError: when called, on an unreadable file, a bad mask, or a mask of another size.
    """

    def __init__(self, keys: KeysCollection = ("image", "label"), allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:  # noqa: D102
        result = {key: value for key, value in data.items() if key not in _CONSUMED}
        if "label" in self.keys or "phantom" in data:
            image, mask = load_image_and_mask(data)
            if "label" in self.keys:
                result["label"] = torch.from_numpy(mask)[None]
                result["unprompted"] = bool(data.get("unprompted", True))
                result["normal"] = bool(data.get("normal", False))
        else:
            image = to_rgb_uint8(read_image(data["image"], max_pixels=pixel_limit(data)).pixels)
        result["image"] = torch.from_numpy(image).permute(2, 0, 1).float().contiguous()
        result["original_size"] = torch.tensor(image.shape[:2])
        if "name" not in result:
            result["name"] = str(data["image"]) if "image" in data else f"phantom_{data['phantom']}"
        return result


def load_image_and_mask(record: Mapping[Any, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Read or render the image and the mask of a record.

    Returns:
        The image (H, W, 3) uint8 and the mask (H, W) uint8: 0 outside, k in object k, or 1 in the one
        that the record's ``object`` names; all 0 of a record that is ``normal``.

    Raises:
        InputError: an unreadable file, a bad mask, sizes that differ, or more than 255 objects.
    """
    if "phantom" in record:
        from lmsfe_sam.data.phantoms.rendering import render_record

        image, mask = render_record(record)
        return to_rgb_uint8(image), np.ascontiguousarray(mask, dtype=np.uint8)
    image = to_rgb_uint8(read_image(record["image"], max_pixels=pixel_limit(record)).pixels)
    if record.get("normal"):
        return image, np.zeros(image.shape[:2], np.uint8)
    objects = record_objects(record, (image.shape[0], image.shape[1]))
    if "object" in record:
        objects = [objects[record["object"] - 1]]
    return image, object_map(objects, str(record["image"]))


class ResizeUltrasoundd(MapTransform):
    """Resize the image and the mask to the network's square, ignoring the aspect ratio.

    The image as `lmsfe_sam.predict.preprocessing.resize_image` does it (bilinear, antialiased), so that it
    is the tensor that `Predictor` makes; the mask by nearest neighbour at pixel centres.

    Args:
        image_size: the side of the square in pixels.
        keys: "image", or "image" and "label".
        allow_missing_keys: as for every MONAI `MapTransform`.
    """

    def __init__(
        self,
        image_size: int,
        keys: KeysCollection = ("image", "label"),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size = (int(image_size), int(image_size))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:  # noqa: D102
        result = dict(data)
        for key in self.key_iterator(result):
            tensor = result[key]
            if key == "label":
                rows, columns = (
                    torch.from_numpy(nearest_indices(source, target))
                    for source, target in zip(tensor.shape[-2:], self.size, strict=True)
                )
                result[key] = tensor[..., rows, :][..., columns]
            else:
                result[key] = resize_image(tensor, self.size)
        return result
