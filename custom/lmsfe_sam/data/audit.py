"""Audit a data folder: what would leak, mislead or stop a training.

    python -m lmsfe_sam.data.audit DIR --datalist datalist.json

writes runs/audit.html (or --output), one page with pictures that needs no other file, prints its
figures, and on request writes the split. The exit code is 0 whatever is found, 1 where the folder
cannot be audited at all. The page holds thumbnails of the images: publish it only where the images
may be published.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import starmap
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image, ImageDraw

from lmsfe_sam.data.datalist import SPLIT_RULES, DataList, build_datalist
from lmsfe_sam.data.duplicates import Pair, find_pairs
from lmsfe_sam.data.layouts import LAYOUTS, NEAR_DUPLICATES, Record
from lmsfe_sam.data.markings import Marking, find_markings
from lmsfe_sam.data.masks import EmptyMaskError, SizeMismatchError, record_mask
from lmsfe_sam.data.pictures import read_picture
from lmsfe_sam.data.splits import PARTS
from lmsfe_sam.errors import InputError, plain_errors
from lmsfe_sam.files import atomic_write
from lmsfe_sam.predict.preprocessing import to_rgb_uint8

THUMBNAIL = 150
"""Height of the page's pictures in pixels."""


@dataclass(frozen=True)
class Problem:
    """A file that would stop a training."""

    kind: str
    sentence: str


@dataclass
class Audit:
    """What was found in a data set."""

    datalist: DataList
    records: list[Record]
    parts: list[str]
    """The part that each record is in; two parts joined by "+" where it is in both."""
    pairs: list[Pair]
    problems: list[Problem] = field(default_factory=list)
    markings: dict[int, list[Marking]] = field(default_factory=dict)
    """By the record's place."""

    def crossing(self) -> list[Pair]:
        """Near-duplicates in two parts of the split."""
        return [pair for pair in self.pairs if self.parts[pair.first] != self.parts[pair.second]]

    def within(self) -> list[Pair]:
        """Near-duplicates in one part of the split."""
        return [pair for pair in self.pairs if self.parts[pair.first] == self.parts[pair.second]]

    def disagreeing(self) -> list[Pair]:
        """Near-duplicates whose classes, or patients, differ."""
        return [pair for pair in self.pairs if self._label(pair.first) != self._label(pair.second)]

    def _label(self, place: int) -> tuple[str, str]:
        record = self.records[place]
        known = self.datalist.grouping != NEAR_DUPLICATES and self.datalist.split_rule != "own"
        return record["subgroup"].get("class", ""), record["group"] if known else ""

    def figures(self) -> list[tuple[str, int, bool]]:
        """The audit in numbers: what, how many, and whether it is a fault."""
        kinds = Counter(problem.kind for problem in self.problems)
        figures = [("images", len(self.records), False)]
        figures += [(f"images for {part}", len(self.datalist.records[part]), False) for part in PARTS]
        figures += [(what, number, False) for what, number in self.datalist.skipped.items()]
        figures += [
            (f"images in both {part.replace('+', ' and ')}", number, True)
            for part, number in sorted(Counter(self.parts).items())
            if "+" in part
        ]
        for kind in ("empty masks", "size mismatches", "unreadable files or bad masks"):
            figures.append((kind, kinds[kind], kinds[kind] > 0))
        crossing, disagreeing = len(self.crossing()), len(self.disagreeing())
        return [
            *figures,
            ("near-duplicate pairs", len(self.pairs), False),
            ("near-duplicate pairs in two parts of the split", crossing, crossing > 0),
            ("near-duplicate pairs of two classes or patients", disagreeing, disagreeing > 0),
            ("images with markings near a lesion", len(self.markings), False),
        ]


def audit(datalist: DataList) -> Audit:
    """Look at every image and mask of a data list."""
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
        for place, seen in enumerate(pool.map(_look, records)):
            if isinstance(seen, Problem):
                result.problems.append(seen)
            elif seen:
                result.markings[place] = seen
    return result


def _look(record: Record) -> Problem | list[Marking]:
    try:
        image, mask = _read(record)
    except EmptyMaskError as error:
        return Problem("empty masks", str(error))
    except SizeMismatchError as error:
        return Problem("size mismatches", str(error))
    except InputError as error:
        return Problem("unreadable files or bad masks", str(error))
    return find_markings(image, mask)


def _read(record: Record) -> tuple[np.ndarray, np.ndarray]:
    image = to_rgb_uint8(read_picture(record["image"]))
    return image, record_mask(record, (image.shape[0], image.shape[1]))


# --- the page -------------------------------------------------------------------------------------


def write_page(found: Audit, path: Path, most: int) -> None:
    """Write the audit as one HTML file, with at most ``most`` figures a section.

    Raises:
        InputError: the file cannot be written.
    """
    rows = [
        f"<tr class={'fault' if fault else 'fact'}><td>{html.escape(what)}</td><td>{number}</td></tr>"
        for what, number, fault in found.figures()
    ]
    problems = [
        f"<li>{html.escape(problem.kind)}: {html.escape(problem.sentence)}</li>" for problem in found.problems
    ]
    marked = [_marked(found.records[place], marks) for place, marks in list(found.markings.items())[:most]]
    page = Template((Path(__file__).parent / "audit.html").read_text(encoding="utf-8")).substitute(
        name=html.escape(found.datalist.name),
        summary=html.escape(found.datalist.summary()),
        table="\n".join(rows),
        problems=f"<ul>{''.join(problems)}</ul>" if problems else _NONE,
        crossing=_pair_gallery(found, found.crossing(), most),
        disagreeing=_pair_gallery(found, found.disagreeing(), most),
        within=_pair_gallery(found, found.within(), most),
        markings=_gallery(marked, len(found.markings)),
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


_NONE = '<p class="none">None.</p>'


def _gallery(figures: Sequence[str], number: int) -> str:
    if not figures:
        return _NONE
    more = f"<p>{len(figures)} of {number} are shown.</p>" if number > len(figures) else ""
    return f'{more}<div class="gallery">{"".join(figures)}</div>'


def _pair_gallery(found: Audit, pairs: Sequence[Pair], most: int) -> str:
    return _gallery([_pair_figure(found, pair) for pair in pairs[:most]], len(pairs))


def _pair_figure(found: Audit, pair: Pair) -> str:
    places = (pair.first, pair.second)
    pictures = "".join(_picture(_thumbnail(found.records[place]["image"])) for place in places)
    names = " and ".join(f"{found.records[place]['name']} ({found.parts[place]})" for place in places)
    crossing = ' class="crossing"' if len({found.parts[place] for place in places}) > 1 else ""
    caption = html.escape(f"{names}: {pair.likeness:.2f}")
    return f"<figure{crossing}>{pictures}<figcaption>{caption}</figcaption></figure>"


def _marked(record: Record, markings: Sequence[Marking]) -> str:
    image, mask = _read(record)
    inner = mask.copy()
    inner[1:-1, 1:-1] &= mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    image = np.where((mask & ~inner)[..., None], np.array((0, 200, 0), np.uint8), image)
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    for box in markings:
        draw.rectangle((box.x0 - 3, box.y0 - 3, box.x1 + 2, box.y1 + 2), outline=(230, 0, 0), width=2)
    caption = f"<figcaption>{html.escape(record['name'])}: {len(markings)}</figcaption>"
    return f"<figure>{_picture(picture)}{caption}</figure>"


def _thumbnail(path: str) -> Image.Image:
    return Image.fromarray(to_rgb_uint8(read_picture(path)))


def _picture(picture: Image.Image) -> str:
    width = max(1, round(picture.width * THUMBNAIL / picture.height))
    buffer = io.BytesIO()
    picture.resize((width, THUMBNAIL), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=80)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


# --- the command line -----------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the audit from the command line."""
    plain_errors()
    parser = argparse.ArgumentParser(
        prog="python -m lmsfe_sam.data.audit", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("folder", help="the data set's folder or its parent, or a datalist.json")
    parser.add_argument(
        "--output", default="runs/audit.html", type=Path, help="the page (default: %(default)s)"
    )
    parser.add_argument("--datalist", type=Path, help="also write the split to this datalist.json")
    parser.add_argument("--layout", default="auto", help=f"auto, datalist, {', '.join(LAYOUTS)}")
    parser.add_argument("--split_rule", default="group", help=" or ".join(SPLIT_RULES))
    parser.add_argument("--seed", default=0, type=int, help="of the split (default: %(default)s)")
    parser.add_argument("--most", default=200, type=int, help="pictures a section (default: %(default)s)")
    options = parser.parse_args(arguments)
    datalist = build_datalist(options.folder, options.layout, options.split_rule, options.seed)
    found = audit(datalist)
    write_page(found, options.output, options.most)
    print(datalist.summary())
    print("\n".join(starmap("{1:6d}  {0}".format, found.figures())))
    print(f"The page is {options.output}.")
    if options.datalist:
        print(f"The split is {datalist.write(options.datalist)}.")


if __name__ == "__main__":
    main()
