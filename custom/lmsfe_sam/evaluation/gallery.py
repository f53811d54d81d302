"""The report's pictures: the best, median and worst cases of a prompt mode."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lmsfe_sam.evaluation.protocol import MATCHED_CONTROLS
from lmsfe_sam.evaluation.results import ImageResult, Prompt
from lmsfe_sam.evaluation.tables import title

LONGEST_SIDE = 512
"""Pictures in the report are at most this large."""

OUTLINE_TOLERANCE = 0.3
"""Outlines may be drawn this many pixels off, which takes most of their points."""

ImageReader = Callable[[str], NDArray[np.uint8]]
"""Returns the picture (H,W,3) of an image's name, at any size."""


def pick_cases(results: Sequence[ImageResult], mode: str, count: int) -> dict[str, list[ImageResult]]:
    """Return the ``count`` best, median and worst images by Dice, none of them twice.

    Of few images each kind gets fewer. Ties are in the order of ``results``.
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


def gallery(results: Sequence[ImageResult], modes: Sequence[str], count: int, read: ImageReader) -> str:
    """Return the HTML of the gallery: one foldable part a mode, each picture embedded once.

    Args:
        results: one an image.
        modes: the network's modes to show.
        count: cases of each kind (best, median, worst).
        read: loads an image.
    """
    chosen = {mode: pick_cases(results, mode, count) for mode in modes}
    names = sorted({case.image for kinds in chosen.values() for cases in kinds.values() for case in cases})
    links = {name: f"picture-{i}" for i, name in enumerate(names)}
    shapes = {result.image: result.truth.shape for result in results if result.image in links}
    pictures = "".join(_embedded(read(name), shapes[name], links[name]) for name in names)
    parts = []
    for place, (mode, kinds) in enumerate(chosen.items()):
        cases = "".join(
            f'<h4>{kind}</h4><div class="cases">'
            + "".join(_case(case, mode, links[case.image]) for case in own)
            + "</div>"
            for kind, own in kinds.items()
            if own
        )
        parts.append(
            f"<details{' open' if place == 0 else ''}><summary>{title(mode)}</summary>{cases}</details>"
        )
    return f'<svg class="store" aria-hidden="true"><defs>{pictures}</defs></svg>{"".join(parts)}'


def _case(case: ImageResult, mode: str, link: str) -> str:
    height, width = case.truth.shape
    truth, prediction = case.truth.unpack(), case.masks[mode].unpack()
    true_outline, outline = _outline(truth), _outline(prediction)
    panels: Mapping[str, str] = {
        "image and prompt": _prompt(case.prompts[mode]),
        "truth": f'<path class="truth filled" d="{true_outline}"/>',
        "prediction": f'<path class="prediction filled" d="{outline}"/>',
        "both": f'<path class="truth" d="{true_outline}"/><path class="prediction" d="{outline}"/>',
    }
    drawn = "".join(
        f'<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="{name}">'
        f'<use href="#{link}"/>{overlay}</svg><figcaption>{name}</figcaption></figure>'
        for name, overlay in panels.items()
    )
    return (
        f'<div class="case"><p class="name">{escape(case.image)}</p>'
        f'<div class="panels">{drawn}</div>{_figures(case, mode)}</div>'
    )


def _figures(case: ImageResult, mode: str) -> str:
    scores = case.scores[mode]
    figures = {
        "Dice": f"{scores['dice']:.3f}",
        "IoU": f"{scores['iou']:.3f}",
        "HD": f"{scores['hd']:.1f} px",
        "ASSD": f"{scores['assd']:.1f} px",
        **({"predicted IoU": f"{case.predicted_iou[mode]:.3f}"} if mode in case.predicted_iou else {}),
    }
    rival = MATCHED_CONTROLS.get(mode)
    if rival in case.scores:
        figures["ellipse's Dice"] = f"{case.scores[rival]['dice']:.3f}"
    return (
        '<p class="figures">'
        + " ".join(f"<span>{name} <b>{value}</b></span>" for name, value in figures.items())
        + "</p>"
    )


def _prompt(prompt: Prompt) -> str:
    if prompt.box is not None:
        x0, y0, x1, y1 = prompt.box
        return (
            f'<rect class="prompt" x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}"/>'
        )
    return "".join(
        f'<circle class="{"positive" if click.label else "negative"}" '
        f'cx="{click.x + 0.5}" cy="{click.y + 0.5}" r="4">'
        f"<title>click {number}: {'lesion' if click.label else 'background'}</title></circle>"
        for number, click in enumerate(prompt.clicks, start=1)
    )


def _outline(mask: NDArray[np.bool_]) -> str:
    """Return the outlines of a mask (H,W) as an SVG path; pixel (0, 0) has its centre at (.5, .5)."""
    from skimage.measure import approximate_polygon, find_contours

    # Padded by one: a lesion at the image's edge has an outline there too.
    contours = find_contours(np.pad(mask, 1).astype(float), 0.5)
    contours = [approximate_polygon(contour, OUTLINE_TOLERANCE) for contour in contours]
    return "".join(
        "M" + "L".join(f"{x - 0.5:g} {y - 0.5:g}" for y, x in contour[:-1]) + "Z" for contour in contours
    )


def _embedded(picture: NDArray[np.uint8], shape: tuple[int, int], name: str) -> str:
    """Return a picture as an SVG image of ``shape``, under a name to use it by."""
    height, width = shape
    shrink = min(1.0, LONGEST_SIDE / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    file = io.BytesIO()
    image = Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)
    grey = np.ptp(np.asarray(image, dtype=int), axis=-1).max() == 0
    (image.convert("L") if grey else image).save(file, "JPEG", quality=85)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return (
        f'<image id="{name}" width="{width}" height="{height}" preserveAspectRatio="none" '
        f'href="data:image/jpeg;base64,{data}"/>'
    )
