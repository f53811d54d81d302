"""Resize, zoom and sliding windows against one another, at the images' own size.

All modes get the same prompts, made from the true masks at native size, and are scored there. Differences to
the plain resize are paired by lesion; their intervals are resampled by patient or near-duplicate group. With
``--tiles 4`` sixteen images are put together as one large image, so that each lesion is a small part of it.

Run from the root of the repository:
``python benchmarks/windows.py --dataset_dir DIR --split val --checkpoint bundle/models/model.pt``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmsfe_sam import LMSFESAM
from lmsfe_sam.data.datalist import build_datalist
from lmsfe_sam.data.transforms.loading import load_image_and_mask
from lmsfe_sam.errors import plain_errors
from lmsfe_sam.evaluation.metrics import border_distances, dice
from lmsfe_sam.evaluation.protocol import inscribed_ellipse, mode_box
from lmsfe_sam.evaluation.statistics import Estimate, Resampling
from lmsfe_sam.files import atomic_write
from lmsfe_sam.inference.sliding import PromptedWindowInferer
from lmsfe_sam.model.checkpoints import network_from_checkpoint
from lmsfe_sam.model.network import ImageEmbedding
from lmsfe_sam.predict.zoom import AUTO, ObjectMask, WindowEncoder, Zoom
from lmsfe_sam.prompts.coordinates import Size, Window
from lmsfe_sam.prompts.prompt import ObjectPrompt, Prompts
from lmsfe_sam.prompts.simulate import first_click

PROMPTS = ("box", "box_jitter_10", "box_jitter_20", "point")
CONTROL = "ellipse in the box"
BASE = "resize"
SIZES = {"small": 0.05, "middle": 0.15, "large": 1.0}
"""Kinds of lesions, and the share of their image up to which they reach."""

Segment = Callable[[LMSFESAM, "CachedWindows", np.ndarray, Size], Sequence[ObjectMask]]


@dataclass(frozen=True)
class Lesion:
    """One object of a picture: the record it is of, and its mask (H,W) in its own part of the picture."""

    record: dict[str, Any]
    mask: np.ndarray
    part: tuple[slice, slice]

    def in_picture(self, size: Size) -> np.ndarray:
        truth = np.zeros(size, dtype=bool)
        truth[self.part] = self.mask
        return truth


class CachedWindows:
    """Encodes windows of one image, each of them once for all modes."""

    def __init__(self, encode: WindowEncoder) -> None:
        self.encode = encode
        self.cache: dict[Window, ImageEmbedding] = {}

    def __call__(self, windows: Sequence[Window]) -> ImageEmbedding:
        new = [window for window in dict.fromkeys(windows) if window not in self.cache]
        if new:
            encoded = self.encode(new)
            for i, window in enumerate(new):
                part = slice(i, i + 1)
                self.cache[window] = ImageEmbedding(
                    encoded.features[part], [skip[part] for skip in encoded.skips]
                )
        parts = [self.cache[window] for window in windows]
        skips = zip(*(part.skips for part in parts), strict=True)
        return ImageEmbedding(torch.cat([part.features for part in parts]), [torch.cat(own) for own in skips])


@dataclass
class Column:
    """The scores of one mode with one kind of prompt, one per lesion."""

    dice: list[float] = field(default_factory=list)
    hd: list[float] = field(default_factory=list)


@dataclass
class Measured:
    """All scores of all lesions."""

    groups: list[str] = field(default_factory=list)
    kinds: dict[str, list[str]] = field(default_factory=lambda: {"set": [], "lesion": []})
    columns: dict[tuple[str, str], Column] = field(default_factory=dict)

    def add(self, prompt: str, mode: str, prediction: np.ndarray, truth: np.ndarray) -> None:
        column = self.columns.setdefault((prompt, mode), Column())
        column.dice.append(dice(prediction, truth))
        column.hd.append(border_distances(prediction, truth)[0])


def modes_of(
    below: Iterable[float], shares: Iterable[float], sizes: Iterable[int | None]
) -> dict[str, Segment]:
    """The modes by name, the base first: a zoom that never zooms in is a resize."""
    modes: dict[str, Segment] = {BASE: Zoom(below=0, large=10**6).segment}
    modes |= {f"auto {share:g}": Zoom(below=share).segment for share in below}
    modes |= {f"zoom {share:g}": Zoom(share).segment for share in shares}
    modes |= {f"window {size or ''}".strip(): PromptedWindowInferer(size).segment for size in sizes}
    return modes


def prompts_of(lesion: Lesion, seed: int) -> list[ObjectPrompt]:
    """Every mode's prompt for a lesion, as the evaluation makes them, moved to its place in the picture."""
    rows, columns = lesion.part
    corner = np.array([columns.start, rows.start])
    prompts = []
    for mode in PROMPTS:
        box = mode_box(mode, lesion.mask, seed, lesion.record["name"])
        if box is None:
            prompts.append(ObjectPrompt(points=[first_click(lesion.mask) + corner]))
        else:
            prompts.append(ObjectPrompt(box=box + np.tile(corner, 2)))
    return prompts


def pictures(records: Sequence[dict[str, Any]], tiles: int) -> Iterator[tuple[np.ndarray, list[Lesion]]]:
    """Yield images (H,W,3) and their lesions; with ``tiles`` above 1 as many images a side make one."""
    for start in range(0, len(records), tiles**2):
        own = records[start : start + tiles**2]
        loaded = [load_image_and_mask(record) for record in own]
        height, width = (max(image.shape[axis] for image, _ in loaded) for axis in (0, 1))
        picture = np.zeros((tiles * height, tiles * width, 3), np.uint8)
        lesions = []
        for number, (record, (image, labels)) in enumerate(zip(own, loaded, strict=True)):
            top, left = number // tiles * height, number % tiles * width
            part = slice(top, top + image.shape[0]), slice(left, left + image.shape[1])
            picture[part] = image
            lesions.append(Lesion(record, labels > 0, part))
        yield picture, lesions


def measure(
    network: LMSFESAM, records: Sequence[dict[str, Any]], modes: dict[str, Segment], seed: int, tiles: int = 1
) -> Measured:
    measured = Measured()
    began = time.monotonic()
    for picture, lesions in pictures(records, tiles):
        size = (picture.shape[0], picture.shape[1])
        prompts = [prompt for lesion in lesions for prompt in prompts_of(lesion, seed)]
        batch = Prompts.of(prompts)
        encode = CachedWindows(WindowEncoder(network, torch.from_numpy(picture).permute(2, 0, 1)))
        truths = [lesion.in_picture(size) for lesion in lesions]
        for mode, segment in modes.items():
            for number, mask in enumerate(segment(network, encode, batch, size)):
                lesion, kind = divmod(number, len(PROMPTS))
                measured.add(PROMPTS[kind], mode, painted(mask, size), truths[lesion])
        for number, prompt in enumerate(prompts):
            lesion, kind = divmod(number, len(PROMPTS))
            if prompt.box is not None:
                measured.add(PROMPTS[kind], CONTROL, inscribed_ellipse(prompt.box, size), truths[lesion])
        for lesion in lesions:
            measured.groups.append(lesion.record["group"])
            measured.kinds["set"].append(lesion.record["subgroup"].get("set", "images"))
            share = lesion.mask.mean()
            measured.kinds["lesion"].append(next(kind for kind, most in SIZES.items() if share <= most))
        if len(measured.groups) % 10 < len(lesions):
            print(
                f"{len(measured.groups)}/{len(records)} images, {time.monotonic() - began:.0f} s", flush=True
            )
    return measured


def painted(mask: ObjectMask, size: Size) -> np.ndarray:
    canvas = np.zeros(size, dtype=bool)
    for window, inside in mask.parts():
        canvas[window] |= inside
    return canvas


def table(measured: Measured, modes: Iterable[str], seed: int) -> str:
    """All lesions: a row for each prompt and mode, with the difference to the base."""
    resampling = Resampling(measured.groups, seed)
    lines = [
        "| prompt | mode | Dice | difference to resize | HD [px] | difference to resize |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for prompt in PROMPTS:
        base = measured.columns[prompt, BASE]
        for mode in (CONTROL, *modes):
            column = measured.columns.get((prompt, mode))
            if column is None:
                continue
            cells = [prompt, mode]
            for metric, places in (("dice", 3), ("hd", 1)):
                values = np.array(getattr(column, metric))
                cells.append(f"{values.mean():.{places}f}")
                own = resampling.estimate(values - np.array(getattr(base, metric)))
                cells.append("" if mode == BASE else _difference(own, places))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def table_by(measured: Measured, kind: str, modes: Sequence[str]) -> str:
    """Means for each kind of lesion: a row for each kind and prompt, Dice / HD of each mode."""
    names = np.array(measured.kinds[kind])
    lines = [
        f"| {kind} | lesions | prompt | {CONTROL} | {' | '.join(modes)} |",
        "| --- " * (len(modes) + 4) + "|",
    ]
    for name in dict.fromkeys(measured.kinds[kind]):
        rows = names == name
        for prompt in PROMPTS:
            cells = [name, str(rows.sum()), prompt]
            for mode in (CONTROL, *modes):
                column = measured.columns.get((prompt, mode))
                cells.append(
                    f"{np.array(column.dice)[rows].mean():.3f} / {np.array(column.hd)[rows].mean():.1f}"
                    if column
                    else ""
                )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _difference(own: Estimate, places: int) -> str:
    sign = f"+.{places}f"
    text = f"{own.mean:{sign}} ({own.low:{sign}} to {own.high:{sign}})"
    return f"**{text}**" if own.low > 0 or own.high < 0 else text


def report(measured: Measured, modes: Sequence[str], seed: int) -> str:
    return "\n\n".join(
        [
            f"All {len(measured.groups)} lesions; in brackets the 95 % interval of the paired difference, "
            "bold where it excludes 0.",
            table(measured, modes, seed),
            "By data set, Dice / HD [px]:",
            table_by(measured, "set", modes),
            "By the lesion's share of its image (small: up to 5 %, middle: up to 15 %), Dice / HD [px]:",
            table_by(measured, "lesion", modes),
        ]
    )


def write(path: Path, mark: str, text: str) -> None:
    """Write the tables to a file, in the place of those between its marks where it has them."""
    page = path.read_text(encoding="utf-8") if path.is_file() else ""
    first, last = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    if first in page and last in page:
        before, after = page.split(first)[0], page.split(last)[1]
        text = f"{before}{first}\n\n{text}\n\n{last}{after}"
    else:
        text += "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Resize, zoom and sliding windows at native size.")
    parser.add_argument("--dataset_dir", required=True, help="a data folder or a datalist.json")
    parser.add_argument("--layout", default="auto")
    parser.add_argument("--split", default="val", choices=["train", "val", "test", "all"])
    parser.add_argument("--checkpoint", default="bundle/models/model.pt")
    parser.add_argument("--below", type=float, nargs="*", default=[AUTO.below], help="shares of auto")
    parser.add_argument("--shares", type=float, nargs="*", default=[0.2, 0.3, 0.4, 0.5, 0.7])
    parser.add_argument("--window_sizes", type=int, nargs="*", default=[0], help="0 is the network's own")
    parser.add_argument("--images", type=int, help="measure on this many images only, evenly spread")
    parser.add_argument("--tiles", type=int, default=1, help="images a side that are put together as one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (default 1)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", help="a markdown file; see docs/windows.md for its marks")
    options = parser.parse_args(arguments)
    plain_errors()
    torch.set_num_threads(options.threads)
    network = network_from_checkpoint(options.checkpoint).to(options.device)
    records = build_datalist(options.dataset_dir, options.layout, seed=options.seed).select(options.split)
    if options.images and options.images < len(records):
        records = [records[int(i)] for i in np.linspace(0, len(records) - 1, options.images)]
    modes = modes_of(options.below, options.shares, [size or None for size in options.window_sizes])
    measured = measure(network, records, modes, options.seed, options.tiles)
    text = report(measured, list(modes), options.seed)
    print(f"\n{text}")
    if options.output:
        write(Path(options.output), f"tiles {options.tiles}", text)


if __name__ == "__main__":
    main()
