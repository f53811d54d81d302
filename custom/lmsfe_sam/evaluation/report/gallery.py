"""Pictures of the report: the best, median and worst cases of each prompt mode."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lmsfe_sam.evaluation.report.formatting import control_of
from lmsfe_sam.evaluation.results import ImageResult

MAX_SIDE = 512
"""Largest side of an embedded picture in pixels."""

OUTLINE_TOLERANCE = 0.3
"""Largest error of a drawn outline in pixels; it removes most of the outline's points."""

ImageReader = Callable[[str], NDArray[np.uint8]]
"""Returns the picture (H,W,3) of an image's name, at any size."""


@dataclass(frozen=True)
class Picture:
    """An image that is embedded in the page.

    Attributes:
        id: by which the page uses it.
        width: of the masks that belong to it, in pixels.
        height: of the masks that belong to it, in pixels.
        jpeg: the file in base 64.
    """

    id: str
    width: int
    height: int
    jpeg: str


@dataclass(frozen=True)
class Case:
    """One image in one prompt mode.

    Attributes:
        name: of the image.
        picture: the image.
        box: the prompt, x0, y0, x1, y1 in pixels of the masks, or None.
        clicks: the prompt, x, y and label of each click.
        truth: outline of the true mask as an SVG path.
        prediction: outline of the prediction as an SVG path.
        scores: names and formatted values.
    """

    name: str
    picture: Picture
    box: tuple[float, float, float, float] | None
    clicks: list[tuple[float, float, int]]
    truth: str
    prediction: str
    scores: dict[str, str]


@dataclass(frozen=True)
class Gallery:
    """Content of the template ``gallery.html``.

    Attributes:
        pictures: each image once.
        modes: the cases of each mode by kind (best, median, worst).
    """

    pictures: list[Picture]
    modes: dict[str, dict[str, list[Case]]]


def pick_cases(results: Sequence[ImageResult], mode: str, count: int) -> dict[str, list[ImageResult]]:
    """Return the ``count`` best, median and worst images by Dice, each image once.

    With few images each kind has fewer than ``count``. Ties are in the order of ``results``.
    """
    ordered = sorted(results, key=lambda result: -result.scores[mode]["dice"])
    count = min(count, max(1, len(ordered) // 3))
    middle = (len(ordered) - count) // 2
    chosen: dict[str, list[ImageResult]] = {}
    taken: set[str] = set()
    for kind, candidates in (
        ("best", ordered[:count]),
        ("worst", ordered[::-1][:count]),
        ("median", ordered[middle : middle + count]),
    ):
        chosen[kind] = [result for result in candidates if result.image not in taken]
        taken |= {result.image for result in candidates}
    return {kind: chosen[kind] for kind in ("best", "median", "worst")}


def make_gallery(
    results: Sequence[ImageResult], modes: Sequence[str], count: int, read: ImageReader
) -> Gallery:
    """Return the content of the gallery.

    Args:
        results: one for each image.
        modes: the network's modes to show.
        count: cases of each kind (best, median, worst).
        read: loads an image.
    """
    chosen = {mode: pick_cases(results, mode, count) for mode in modes}
    names = sorted({case.image for kinds in chosen.values() for cases in kinds.values() for case in cases})
    shapes = {result.image: result.truth.shape for result in results}
    pictures = {
        name: Picture(f"picture-{i}", shapes[name][1], shapes[name][0], _jpeg(read(name), shapes[name]))
        for i, name in enumerate(names)
    }
    shown = {
        mode: {kind: [_case(case, mode, pictures[case.image]) for case in own] for kind, own in kinds.items()}
        for mode, kinds in chosen.items()
    }
    return Gallery(list(pictures.values()), shown)


def _case(case: ImageResult, mode: str, picture: Picture) -> Case:
    prompt, scores = case.prompts[mode], case.scores[mode]
    shown = {
        "Dice": f"{scores['dice']:.3f}",
        "IoU": f"{scores['iou']:.3f}",
        "HD": f"{scores['hd']:.1f} px",
        "ASSD": f"{scores['assd']:.1f} px",
        **({"predicted IoU": f"{case.predicted_iou[mode]:.3f}"} if mode in case.predicted_iou else {}),
    }
    control = control_of(mode)
    if control in case.scores:
        shown["ellipse's Dice"] = f"{case.scores[control]['dice']:.3f}"
    return Case(
        case.image,
        picture,
        prompt.box,
        [(x, y, label) for (x, y), label in zip(prompt.points, prompt.labels, strict=True)],
        _outline(case.truth.unpack()),
        _outline(case.masks[mode].unpack()),
        shown,
    )


def _outline(mask: NDArray[np.bool_]) -> str:
    """Return the outlines of a mask (H,W) as an SVG path. The centre of pixel (0, 0) is (.5, .5)."""
    from skimage.measure import approximate_polygon, find_contours

    # Padded by one: a lesion at the image's edge has an outline there too.
    contours = find_contours(np.pad(mask, 1).astype(float), 0.5)
    contours = [approximate_polygon(contour, OUTLINE_TOLERANCE) for contour in contours]
    return "".join(
        "M" + "L".join(f"{x - 0.5:g} {y - 0.5:g}" for y, x in contour[:-1]) + "Z" for contour in contours
    )


def _jpeg(picture: NDArray[np.uint8], shape: tuple[int, int]) -> str:
    """Return a picture (H,W,3) as JPEG in base 64, with the aspect ratio of ``shape``."""
    height, width = shape
    shrink = min(1.0, MAX_SIDE / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    file = io.BytesIO()
    image = Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)
    grey = np.ptp(np.asarray(image, dtype=int), axis=-1).max() == 0
    (image.convert("L") if grey else image).save(file, "JPEG", quality=85)
    return base64.b64encode(file.getvalue()).decode("ascii")
