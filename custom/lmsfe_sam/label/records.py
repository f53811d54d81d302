"""Labels that annotators saved, as slices to learn from and as a data folder for training."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from lmsfe_sam.errors import InputError
from lmsfe_sam.files import atomic_write
from lmsfe_sam.inference.reading import read_image
from lmsfe_sam.predict.preprocessing import to_rgb_uint8

logger = logging.getLogger(__name__)


class LabelledSlice(NamedTuple):
    """A slice that something was labelled on.

    Attributes:
        number: of the slice, 0 in a picture.
        pixels: (H, W, 3) uint8, as inference sees it.
        mask: (H, W) bool, the union of all labels.
    """

    number: int
    pixels: np.ndarray
    mask: np.ndarray


def labelled_slices(image: str | Path, label: str | Path) -> Iterator[LabelledSlice]:
    """Yield the slices of an image on which its label map is not 0.

    Raises:
        InputError: a file that cannot be read, or a label of another size than its image.
    """
    for index in range(check_label(image, label)):
        mask = _foreground(read_image(label, index).pixels)
        if mask.any():
            yield LabelledSlice(index, to_rgb_uint8(read_image(image, index).pixels), mask)


def check_label(image: str | Path, label: str | Path) -> int:
    """Hold a label's size against its image's; return how many slices they have.

    Raises:
        InputError: a file that cannot be read, or sizes that differ.
    """
    sizes = []
    for file in (image, label):
        shape = read_image(file, 0).shape
        sizes.append((*shape[:2], int(np.prod(shape[2:], dtype=int))))
    if sizes[0] != sizes[1]:
        one, other = ("{} x {} pixels in {} slice(s)".format(*size) for size in sizes)
        raise InputError(f"the label has {other} and its image has {one}: save it in the image's geometry.")
    return sizes[0][2]


def check_raw_label(image: str | Path, label: str | Path) -> None:
    """Hold the size of a label without a header, one byte a pixel as OHIF sends it, against its image's.

    Raises:
        InputError: an image that cannot be read, or sizes that differ.
    """
    pixels = int(np.prod(read_image(image, 0).shape, dtype=int))
    size = Path(label).stat().st_size
    if size != pixels:
        raise InputError(f"the label has {size} bytes and its image {pixels} pixels: send one byte a pixel.")


def export_labels(pairs: Sequence[Mapping[str, Any]], folder: Path, validation_share: float) -> Path:
    """Write pictures, masks and a ``datalist.json`` of all labelled slices.

    The slices of one image stay on one side of the split. With one labelled image it is on both,
    which the log says.

    Args:
        pairs: of paths, ``image`` and ``label``.
        folder: written to.
        validation_share: of the images, 0 to below 1; at least one is kept for validation.

    Returns:
        The path of the data list.

    Raises:
        InputError: as `labelled_slices`, or nothing is labelled.
    """
    cases = {}
    for number, pair in enumerate(sorted(pairs, key=lambda pair: str(pair["image"]))):
        entries = [
            _export(one, f"{number:05d}_{one.number:04d}", str(pair["image"]), folder)
            for one in labelled_slices(pair["image"], pair["label"])
        ]
        if entries:
            cases[number] = entries
    if not cases:
        raise InputError("there is no label to learn from yet: save one with the tag 'final' first.")
    groups = list(cases.values())
    if len(groups) == 1:
        logger.warning("One labelled image alone: it is both trained and validated on.")
        parts = {"training": groups, "validation": groups}
    else:
        kept = min(len(groups) - 1, max(1, round(validation_share * len(groups))))
        order = np.random.default_rng(0).permutation(len(groups))
        parts = {
            "training": [groups[k] for k in sorted(order[kept:])],
            "validation": [groups[k] for k in sorted(order[:kept])],
        }
    content = {part: [entry for group in members for entry in group] for part, members in parts.items()}
    path = folder / "datalist.json"
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({"name": "labels", **content}, indent=1) + "\n", encoding="utf-8")
    return path


def _export(one: LabelledSlice, stem: str, image: str, folder: Path) -> dict[str, Any]:
    names = {"image": f"images/{stem}.png", "label": f"masks/{stem}.png"}
    for key, pixels in (("image", one.pixels), ("label", one.mask.astype(np.uint8) * np.uint8(255))):
        with atomic_write(folder / names[key]) as temporary:
            Image.fromarray(pixels).save(temporary)
    return {**names, "name": f"{Path(image).name}#{one.number}", "group": image}


def _foreground(pixels: np.ndarray) -> np.ndarray:
    """Whatever is not 0; of colours any of them, alpha left out."""
    if pixels.ndim == 3:
        colours = pixels[..., :3] if pixels.shape[-1] > 2 else pixels[..., :1]
        pixels = colours.max(axis=-1)
    return pixels != 0
