"""Audit a data folder: near-duplicates across the split, markings near lesions, unusable files.

    python -m lmsfe_sam.data.audit DIR --datalist datalist.json

writes the page runs/audit.html (or --output), which needs no other file, prints the counts, and with
--datalist writes the split. The exit code is 1 only if the folder cannot be audited. The page contains
thumbnails of the images: publish it only if the images may be published.
"""

from __future__ import annotations

import argparse
import base64
import io
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import starmap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from lmsfe_sam.data.checking import several_slices
from lmsfe_sam.data.datalist import SPLIT_RULES, DataList, build_datalist
from lmsfe_sam.data.duplicates import Pair, find_pairs
from lmsfe_sam.data.layouts.folders import NEAR_DUPLICATES, Record
from lmsfe_sam.data.layouts.registry import LAYOUTS
from lmsfe_sam.data.masks.files import EmptyMaskError, is_inverted, is_outline
from lmsfe_sam.data.masks.reading import SizeMismatchError, record_mask
from lmsfe_sam.data.splits import PARTS
from lmsfe_sam.data.transforms.markings import Marking, find_markings
from lmsfe_sam.errors import InputError, plain_errors
from lmsfe_sam.files import atomic_write, named_path, remove_leftovers_of
from lmsfe_sam.images.image import SeveralFramesError
from lmsfe_sam.images.reading import read_image
from lmsfe_sam.pages import environment
from lmsfe_sam.predict.preprocessing import to_rgb_uint8

PROBLEMS = ("empty masks", "size mismatches", "unreadable files or bad masks")
"""Kinds of what stops a training."""

OUTLINES, INVERTED = "masks that are outlines alone", "masks that cover most of the picture and its borders"
SHAPES = (OUTLINES, INVERTED)
"""Kinds of masks that are probably drawn otherwise than they are read."""

THUMBNAIL = 150
"""Height of the pictures in pixels."""


@dataclass(frozen=True)
class Problem:
    """A file that training cannot use."""

    kind: str
    sentence: str


@dataclass
class Audit:
    """Findings in a data set.

    Attributes:
        datalist: the data set and its split.
        records: one for each image, sorted by name.
        parts: the part of each record; two parts are joined by "+" if it is in both.
        pairs: near-duplicates, as indices of ``records``.
        problems: files that training cannot use.
        markings: markings near a lesion, by the index of the record.
    """

    datalist: DataList
    records: list[Record]
    parts: list[str]
    pairs: list[Pair]
    problems: list[Problem] = field(default_factory=list)
    markings: dict[int, list[Marking]] = field(default_factory=dict)

    def crossing(self) -> list[Pair]:
        """Return the near-duplicates in two parts of the split."""
        return [pair for pair in self.pairs if self.parts[pair.first] != self.parts[pair.second]]

    def within(self) -> list[Pair]:
        """Return the near-duplicates in one part of the split."""
        return [pair for pair in self.pairs if self.parts[pair.first] == self.parts[pair.second]]

    def disagreeing(self) -> list[Pair]:
        """Return the near-duplicates whose classes or patients differ."""
        return [pair for pair in self.pairs if self._label(pair.first) != self._label(pair.second)]

    def _label(self, index: int) -> tuple[str, str]:
        record = self.records[index]
        known = self.datalist.grouping != NEAR_DUPLICATES and self.datalist.split_rule != "own"
        return record["subgroup"].get("class", ""), record["group"] if known else ""

    def counts(self) -> list[tuple[str, int, bool]]:
        """Return a name and a number for each finding, and whether it is a fault."""
        kinds = Counter(problem.kind for problem in self.problems)
        counts = [("images", len(self.records), False)]
        counts += [(f"images for {part}", len(self.datalist.records[part]), False) for part in PARTS]
        counts += [(what, number, False) for what, number in self.datalist.skipped.items()]
        counts += [
            (f"images in both {part.replace('+', ' and ')}", number, True)
            for part, number in sorted(Counter(self.parts).items())
            if "+" in part
        ]
        for kind in (*PROBLEMS, *SHAPES):
            if kind in PROBLEMS or kinds[kind]:
                counts.append((kind, kinds[kind], kinds[kind] > 0))
        crossing, disagreeing = len(self.crossing()), len(self.disagreeing())
        return [
            *counts,
            ("near-duplicate pairs", len(self.pairs), False),
            ("near-duplicate pairs in two parts of the split", crossing, crossing > 0),
            ("near-duplicate pairs of two classes or patients", disagreeing, disagreeing > 0),
            ("images with markings near a lesion", len(self.markings), False),
        ]


def audit(datalist: DataList) -> Audit:
    """Examine every image and mask of a data list."""
    in_parts: dict[str, list[str]] = {}
    by_name: dict[str, Record] = {}
    for part in PARTS:
        for record in datalist.records[part]:
            in_parts.setdefault(record["name"], []).append(part)
            by_name[record["name"]] = record
    names = sorted(by_name)
    records = [by_name[name] for name in names]
    result = Audit(
        datalist,
        records,
        ["+".join(in_parts[name]) for name in names],
        find_pairs([record["image"] for record in records]),
    )
    with ThreadPoolExecutor() as pool:
        for index, finding in enumerate(pool.map(_examine, records)):
            if isinstance(finding, Problem):
                result.problems.append(finding)
            elif finding:
                result.markings[index] = finding
    return result


def _examine(record: Record) -> Problem | list[Marking]:
    try:
        image, mask = _read(record)
    except EmptyMaskError as error:
        return Problem("empty masks", str(error))
    except SizeMismatchError as error:
        return Problem("size mismatches", str(error))
    except SeveralFramesError as error:
        return Problem("unreadable files or bad masks", several_slices(error))
    except InputError as error:
        return Problem("unreadable files or bad masks", str(error))
    if not record.get("masks") and record["label"]:
        name = f"'{record['label'][0]}'"
        if is_outline(mask):
            return Problem(OUTLINES, f"{name} is an outline: train with --masks filled.")
        if is_inverted(mask):
            return Problem(INVERTED, f"{name} is perhaps inverted: train with --masks inverted if so.")
    return find_markings(image, mask)


def _read(record: Record) -> tuple[np.ndarray, np.ndarray]:
    image = to_rgb_uint8(read_image(record["image"]).pixels)
    return image, record_mask(record, (image.shape[0], image.shape[1]))


# --- the page -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Thumbnail:
    """One entry of the page: a marked image, or a pair of images.

    Attributes:
        pictures: JPEG files in base 64.
        caption: below the pictures.
        crossing: whether a pair is in two parts of the split.
    """

    pictures: list[str]
    caption: str
    crossing: bool = False


def write_page(found: Audit, path: Path, max_entries: int) -> None:
    """Write the audit as one HTML file, with at most ``max_entries`` entries in a section.

    Raises:
        InputError: the file cannot be written.
    """
    pairs = {"crossing": found.crossing(), "disagreeing": found.disagreeing(), "within": found.within()}
    marked = list(found.markings.items())
    page = (
        environment(Path(__file__).parent)
        .get_template("audit.html")
        .render(
            name=found.datalist.name,
            summary=found.datalist.summary(),
            counts=found.counts(),
            problems=found.problems,
            totals={name: len(own) for name, own in pairs.items()} | {"marked": len(marked)},
            shown={name: [_pair(found, pair) for pair in own[:max_entries]] for name, own in pairs.items()}
            | {"marked": [_marked(found.records[index], marks) for index, marks in marked[:max_entries]]},
        )
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _pair(found: Audit, pair: Pair) -> Thumbnail:
    records = [found.records[index] for index in (pair.first, pair.second)]
    parts = [found.parts[index] for index in (pair.first, pair.second)]
    images = [to_rgb_uint8(read_image(record["image"]).pixels) for record in records]
    pictures = [_jpeg(Image.fromarray(image)) for image in images]
    names = " and ".join(f"{record['name']} ({part})" for record, part in zip(records, parts, strict=True))
    return Thumbnail(pictures, f"{names}: {pair.similarity:.2f}", crossing=parts[0] != parts[1])


def _marked(record: Record, markings: Sequence[Marking]) -> Thumbnail:
    image, mask = _read(record)
    inner = mask.copy()
    inner[1:-1, 1:-1] &= mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    image = np.where((mask & ~inner)[..., None], np.array((0, 200, 0), np.uint8), image)
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    for box in markings:
        draw.rectangle((box.x0 - 3, box.y0 - 3, box.x1 + 2, box.y1 + 2), outline=(230, 0, 0), width=2)
    return Thumbnail([_jpeg(picture)], f"{record['name']}: {len(markings)}")


def _jpeg(picture: Image.Image) -> str:
    width = max(1, round(picture.width * THUMBNAIL / picture.height))
    buffer = io.BytesIO()
    picture.resize((width, THUMBNAIL), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()


# --- the command line -----------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the audit from the command line."""
    plain_errors()
    parser = argparse.ArgumentParser(
        prog="python -m lmsfe_sam.data.audit", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument(
        "folder", type=named_path, help="the data set's folder or its parent, or a datalist.json"
    )
    parser.add_argument(
        "--output", default="runs/audit.html", type=named_path, help="the page (default: %(default)s)"
    )
    parser.add_argument("--datalist", type=named_path, help="also write the split to this datalist.json")
    parser.add_argument("--layout", default="auto", help=f"auto, datalist, {', '.join(LAYOUTS)}")
    parser.add_argument("--split_rule", default="group", help=" or ".join(SPLIT_RULES))
    parser.add_argument("--seed", default=0, type=int, help="of the split (default: %(default)s)")
    parser.add_argument("--most", default=200, type=int, help="pictures a section (default: %(default)s)")
    options = parser.parse_args(arguments)
    remove_leftovers_of(options.output, *([options.datalist] if options.datalist else []))
    datalist = build_datalist(options.folder, options.layout, options.split_rule, options.seed)
    found = audit(datalist)
    write_page(found, options.output, options.most)
    print(datalist.summary())
    print("\n".join(starmap("{1:6d}  {0}".format, found.counts())))
    print(f"The page is {options.output}.")
    if options.datalist:
        print(f"The split is {datalist.write(options.datalist)}.")


if __name__ == "__main__":
    main()
