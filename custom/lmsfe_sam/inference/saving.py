"""Handlers of the evaluator that write what it finds: label maps, overlays and the table of objects."""

from __future__ import annotations

import csv
import logging
import os
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from PIL import Image

from lmsfe_sam.files import atomic_write
from lmsfe_sam.inference.merging import OBJECTS
from lmsfe_sam.inference.overlay import draw_overlay
from lmsfe_sam.inference.prompting import PROMPTS
from lmsfe_sam.inference.writing import write_label_map
from lmsfe_sam.prompts.prompt import Prompts

logger = logging.getLogger(__name__)

COLUMNS = ("image", "object", "area_px", "area_mm2", "x0", "y0", "x1", "y1", "predicted_iou")
"""The columns of ``objects.csv``."""


class LabelMapSaver:
    """Writes ``masks/<stem><output_ext>`` after each image.

    Args:
        output_dir: of the run.
        output_ext: one of `lmsfe_sam.inference.writing.OUTPUT_SUFFIXES`.
    """

    def __init__(self, output_dir: str | os.PathLike[str], output_ext: str = ".png") -> None:
        self.folder = Path(output_dir) / "masks"
        self.output_ext = output_ext

    def attach(self, engine: Engine) -> None:
        """Write from now on, after each iteration of ``engine``."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the label maps of this iteration."""
        for item in _items(engine):
            path = self.folder / f"{item['stem']}{self.output_ext}"
            write_label_map(path, item["pred"][0].cpu().numpy(), item["pred"].meta)
            logger.info("%s: %d object(s) in %s", item["name"], len(item[OBJECTS]), path)


class OverlaySaver:
    """Writes ``overlays/<stem>.png`` after each image.

    Args:
        output_dir: of the run.
        picture_key: of the image as it was read, (3, H, W) uint8.
    """

    def __init__(self, output_dir: str | os.PathLike[str], picture_key: str = "picture") -> None:
        self.folder = Path(output_dir) / "overlays"
        self.picture_key = picture_key

    def attach(self, engine: Engine) -> None:
        """Write from now on, after each iteration of ``engine``."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the overlays of this iteration."""
        for item in _items(engine):
            picture = item[self.picture_key].cpu().numpy().transpose(1, 2, 0)
            labels = item["pred"][0].cpu().numpy()
            overlay: Image.Image = draw_overlay(picture, labels, Prompts(**item[PROMPTS]))
            with atomic_write(self.folder / f"{item['stem']}.png") as temporary:
                overlay.save(temporary)


class ObjectsTable:
    """Writes ``objects.csv``, a row an object; also when the run ends early.

    Args:
        output_dir: of the run.
    """

    def __init__(self, output_dir: str | os.PathLike[str]) -> None:
        self.path = Path(output_dir) / "objects.csv"
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Collect after each iteration of ``engine`` from now on, and write when it ends."""
        engine.add_event_handler(Events.STARTED, self.rows.clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.write)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._write_and_raise)

    def __call__(self, engine: Engine) -> None:
        """Collect the objects of this iteration."""
        for item in _items(engine):
            self.rows += [{"image": item["name"], **row} for row in item[OBJECTS]]

    def write(self) -> None:
        """Write what was collected.

        Raises:
            InputError: the file cannot be written.
        """
        with atomic_write(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            table.writeheader()
            table.writerows({name: _cell(value) for name, value in row.items()} for row in self.rows)

    def _write_and_raise(self, error: BaseException) -> None:
        self.write()
        raise error


def _items(engine: Engine) -> list[dict[str, Any]]:
    """Return one dictionary an image of this iteration: what was loaded and what was found."""
    batch: Any = engine.state.batch
    output: Any = engine.state.output
    return [{**loaded, **found} for loaded, found in zip(batch, output, strict=True)]


def _cell(value: Any) -> str:
    if value is None or value != value:  # NaN: unknown
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
