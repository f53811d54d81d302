"""Write each image's label map and pictures, and then its rows in the table of objects."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ignite.engine import Engine, Events
from PIL.Image import Image

from lmsfe_sam.files import atomic_write
from lmsfe_sam.images.formats import is_dicom
from lmsfe_sam.inference.inferers import PROBABILITIES, PROMPTS
from lmsfe_sam.inference.results import MASKS, OVERLAYS, TABLE, UNCERTAINTY, Results
from lmsfe_sam.inference.transforms import OBJECTS
from lmsfe_sam.inference.writers.deidentifying import blacken_outside
from lmsfe_sam.inference.writers.label_maps import DICOM_SUFFIX, write_label_map
from lmsfe_sam.inference.writers.overlay import draw_overlay, draw_uncertainty
from lmsfe_sam.prompts.prompt import Prompts
from lmsfe_sam.stopping import Stopped, held_signals

logger = logging.getLogger(__name__)

Item = Mapping[str, Any]
"""One image: what was loaded of it, and its predictions."""


class Writer(Protocol):
    """Writes one file of an image."""

    def name(self, item: Item) -> str | None:
        """Return the file's name, relative to the run's folder, before it is written; None for no file."""

    def write(self, path: Path, item: Item) -> None:
        """Write it in one step."""


class LabelMapWriter:
    """``masks/<stem><output_ext>``.

    Args:
        output_ext: one of `OUTPUT_SUFFIXES` of `writers.label_maps`; or ``.dcm``, for nothing of DICOM files,
            which have another writer then, and PNG for other files.
    """

    def __init__(self, output_ext: str = ".png") -> None:
        self.output_ext = output_ext

    def name(self, item: Item) -> str | None:  # noqa: D102
        suffix = self.output_ext
        if suffix == DICOM_SUFFIX:
            if is_dicom(Path(item["pred"].meta["filename_or_obj"])):
                return None
            suffix = ".png"
        return f"{MASKS}/{item['stem']}{suffix}"

    def write(self, path: Path, item: Item) -> None:  # noqa: D102
        write_label_map(path, item["pred"][0].cpu().numpy(), item["pred"].meta)


class PictureWriter(ABC):
    """A PNG drawn on each image, ``FOLDER/<stem>.png``.

    Args:
        picture_key: of the image as it was read, (3, H, W) uint8.
        deidentify: blacken what lies outside of the ultrasound regions that the file states.
    """

    folder: str

    def __init__(self, picture_key: str = "picture", deidentify: bool = False) -> None:
        self.picture_key = picture_key
        self.deidentify = deidentify

    def name(self, item: Item) -> str:  # noqa: D102
        return f"{self.folder}/{item['stem']}.png"

    def write(self, path: Path, item: Item) -> None:  # noqa: D102
        picture = item[self.picture_key].cpu().numpy().transpose(1, 2, 0)
        if self.deidentify:
            picture = blacken_outside(picture, item["pred"].meta["filename_or_obj"])
        drawn = self.draw(picture, item["pred"][0].cpu().numpy(), item)
        with atomic_write(path) as temporary:
            drawn.save(temporary)

    @abstractmethod
    def draw(self, picture: np.ndarray, labels: np.ndarray, item: Item) -> Image:
        """Draw the label map (H, W), and what else the item holds, on a copy of the picture (H, W, 3)."""


class OverlayWriter(PictureWriter):
    """``overlays/<stem>.png``: objects and prompts."""

    folder = OVERLAYS

    def draw(self, picture: np.ndarray, labels: np.ndarray, item: Item) -> Image:  # noqa: D102
        return draw_overlay(picture, labels, Prompts(**item[PROMPTS]))


class UncertaintyWriter(PictureWriter):
    """``uncertainty/<stem>.png``: outlines, and the pixels that may or may not belong to the objects."""

    folder = UNCERTAINTY

    def draw(self, picture: np.ndarray, labels: np.ndarray, item: Item) -> Image:  # noqa: D102
        return draw_uncertainty(picture, labels, item[PROBABILITIES].cpu().numpy())


class SaveResults:
    """Writes the files of each image and then its rows, as soon as it is segmented.

    A signal that asks the run to end waits until both are written.

    Args:
        results: the folder of the run.
        writers: of the files.
    """

    def __init__(self, results: Results, writers: Sequence[Writer]) -> None:
        self.results = results
        self.writers = writers

    def attach(self, engine: Engine) -> None:
        """Write from now on, after each iteration of ``engine``."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the results of this iteration."""
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        for loaded, found in zip(batch, output, strict=True):
            with held_signals():
                self.save({**loaded, **found})

    def save(self, item: Item) -> None:
        """Write the files and the rows of one image.

        Raises:
            InputError: one of them cannot be written.
        """
        named = [(writer, writer.name(item)) for writer in self.writers]
        wanted = [(writer, file) for writer, file in named if file is not None]
        files = [file for _, file in wanted]
        self.results.begin(item["stem"], files)
        for writer, file in wanted:
            writer.write(self.results.folder / file, item)
        rows = [{"image": item["name"], **row} for row in item[OBJECTS]]
        self.results.finish(item["stem"], files, rows)
        target = self.results.folder / (files[-1] if files else TABLE)
        logger.info("%s: %d object(s) in %s", item["name"], len(rows), target)


def run(evaluator: Engine, results: Results, cines: Callable[[], None] | None = None) -> None:
    """Run the evaluator and then the cines, and write the table in order, however the run ends.

    Raises:
        Stopped: a signal asked the run to end; the message says what is finished.
    """
    try:
        evaluator.run()
        if cines is not None:
            cines()
        results.write_table()
    except Stopped as stopped:
        results.write_table()
        raise Stopped(stopped.number, results.summary()) from None
    finally:
        results.close()
