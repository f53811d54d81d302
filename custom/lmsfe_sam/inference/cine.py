"""All frames of a file in one run: prompts of some frames are carried to the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer

from lmsfe_sam.errors import InputError, find_input_error
from lmsfe_sam.images.frames import open_frames
from lmsfe_sam.images.image import ImageFile
from lmsfe_sam.images.limits import MAX_PIXELS
from lmsfe_sam.inference.dataset import SkippingDataset
from lmsfe_sam.inference.inferers import PROBABILITIES, PROMPTS, ZoomInferer
from lmsfe_sam.inference.loops import STATES, FramesWriter, frame_alone, loop_writers
from lmsfe_sam.inference.results import Results
from lmsfe_sam.inference.saving import LabelMapWriter, OverlayWriter, Writer
from lmsfe_sam.inference.transforms import CATEGORY, OBJECTS, SLICE, measure_objects, scale_of, to_tensor
from lmsfe_sam.model.network import LMSFESAM
from lmsfe_sam.predict.postprocessing import paint_objects, probability_map
from lmsfe_sam.predict.preprocessing import to_rgb_uint8
from lmsfe_sam.predict.tracking import TrackedObject, Tracking, track
from lmsfe_sam.prompts.prompt import ObjectPrompt, Prompts
from lmsfe_sam.stopping import held_signals

logger = logging.getLogger(__name__)

FRAMES, FRAME_PROMPTS = "frames", "frame_prompts"
"""Keys of a cine's record: which frames, and the prompts of those that have some."""


class CineSegmenter:
    """Segments the cines among the inputs, one after the other, and writes their results.

    Args:
        dataset: of the inputs; what cannot be read is added to its failures.
        results: the folder of the run.
        writers: of the files of each frame, or of a whole cine where they have ``write_frames``.
        network: in evaluation mode.
        inferer: its zoom, and whether probabilities are kept.
        min_iou, min_overlap, min_contrast, batch_size: of `Tracking`.
        max_pixels: that reading a frame may take memory for.
    """

    def __init__(
        self,
        dataset: SkippingDataset,
        results: Results,
        writers: Sequence[Writer],
        network: LMSFESAM,
        inferer: Inferer,
        min_iou: float = Tracking.min_iou,
        min_overlap: float = Tracking.min_overlap,
        min_contrast: float = Tracking.min_contrast,
        batch_size: int = Tracking.batch_size,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.dataset = dataset
        self.results = results
        self.writers = writers
        self.network = network
        self.inferer = inferer
        self.max_pixels = max_pixels
        self.settings = Tracking(min_iou, min_overlap, min_contrast, batch_size=batch_size)

    def run(self) -> None:
        """Segment what is not finished.

        Raises:
            InputError: the inferer cannot follow objects.
        """
        records = [record for record in self.dataset.data if FRAMES in record]
        if not records:
            return
        if not isinstance(self.inferer, ZoomInferer):
            raise InputError(
                "frames of a cine are segmented with --mode auto, zoom or resize alone: give one."
            )
        self.network.eval()
        for record in records:
            if self.results.is_done(record):
                continue
            try:
                self.segment(record)
            except Exception as error:
                cause = find_input_error(error)
                if cause is None:
                    raise
                self.dataset.failures.append(str(cause))

    def segment(self, record: Mapping[str, Any]) -> None:
        """Segment a cine and write its results.

        Raises:
            InputError: it cannot be read, a prompt lies outside of it, or a file cannot be written.
        """
        path = Path(record["image"])
        file, frames, prompts = open_frames(path, self.max_pixels), record[FRAMES], record[FRAME_PROMPTS]
        for frame, objects in prompts.items():
            for number, prompt in enumerate(objects, 1):
                try:
                    prompt.check_inside(file.header.rows, file.header.columns)
                except InputError as error:
                    name = f"{record['name']}#{frame}"
                    raise InputError(f"object {number} of '{name}' in the prompts: {error}") from error
        assert isinstance(self.inferer, ZoomInferer)
        settings = replace(self.settings, zoom=self.inferer.zoom)
        logger.info("%s: %d frames, %d with prompts", record["name"], len(frames), len(prompts))
        tracked = track(self.network, lambda k: _picture(file, k, path), frames, prompts, settings)
        items = [self._item(record, file, frame, tracked[frame]) for frame in frames]
        with held_signals():
            self._save(record, file, items)

    def _item(
        self, record: Mapping[str, Any], file: ImageFile, frame: int, objects: Sequence[TrackedObject]
    ) -> dict[str, Any]:
        """Return what was found in a frame, as writers take it; without the picture, which takes memory."""
        path = Path(record["image"])
        picture = to_tensor(file.read(frame), path)
        size = (picture.shape[1], picture.shape[2])
        found = [(number, one) for number, one in enumerate(objects, 1) if one.prediction is not None]
        masks = [one.prediction.parts() for _, one in found if one.prediction is not None]
        compact = paint_objects(masks, [one.iou for _, one in found], size)
        lookup = np.array([0, *(number for number, _ in found)], dtype=np.min_scalar_type(len(objects)))
        labels = lookup[compact]
        rows = measure_objects(labels, [one.iou for one in objects], scale_of(picture.meta))
        given: Sequence[ObjectPrompt] = record[FRAME_PROMPTS].get(frame, [])
        item = {
            "name": record["name"],
            "stem": f"{record['stem']}_f{frame}",
            "pred": MetaTensor(torch.from_numpy(labels)[None], meta=picture.meta),
            OBJECTS: [{**row, "frame": frame} for row in rows],
            PROMPTS: Prompts.of(given).given(),
            CATEGORY: ",".join(_categories(record[FRAME_PROMPTS], len(objects))),
            STATES: [one.state for one in objects],
        }
        assert isinstance(self.inferer, ZoomInferer)
        if self.inferer.probabilities:
            item[PROBABILITIES] = torch.stack([_probability(one, size) for one in objects])
        return item

    def _save(self, record: Mapping[str, Any], file: ImageFile, items: Sequence[dict[str, Any]]) -> None:
        stacked = torch.stack([item["pred"].as_subclass(torch.Tensor) for item in items]).amax(0)
        whole = {**items[0], "stem": record["stem"], "pred": MetaTensor(stacked, meta=items[0]["pred"].meta)}
        jobs: list[tuple[str, Callable[[Path], None]]] = []
        for writer in self.writers:
            if isinstance(writer, FramesWriter):
                if (name := writer.name(whole)) is not None:
                    jobs.append((name, partial(_write_frames, writer, items)))
                continue
            for item in items:
                if (name := writer.name(item)) is not None:
                    jobs.append((name, partial(_write_frame, writer, item, file)))
        for own in loop_writers(file, self.writers):
            jobs.append((own.name(whole), partial(_write_frames, own, items)))
        files = [name for name, _ in jobs]
        self.results.begin(record["stem"], files)
        for name, write in jobs:
            write(self.results.folder / name)
        rows = [{"image": item["name"], **row} for item in items for row in item[OBJECTS]]
        self.results.finish(record["stem"], files, rows)
        logger.info("%s: %d frames in %s", record["name"], len(items), self.results.folder)


def _write_frames(writer: FramesWriter, items: Sequence[dict[str, Any]], path: Path) -> None:
    writer.write_frames(path, items)


def _write_frame(writer: Writer, item: dict[str, Any], file: ImageFile, path: Path) -> None:
    if isinstance(writer, OverlayWriter):
        pixels = file.read(int(item["pred"].meta[SLICE])).pixels
        item = {**item, writer.picture_key: torch.from_numpy(to_rgb_uint8(pixels)).permute(2, 0, 1)}
    if isinstance(writer, LabelMapWriter):
        item = {**item, "pred": frame_alone(item["pred"])}
    writer.write(path, item)


def _picture(file: ImageFile, frame: int, path: Path) -> torch.Tensor:
    return to_tensor(file.read(frame), path).as_subclass(torch.Tensor)


def _categories(prompts: Mapping[int, Sequence[ObjectPrompt]], count: int) -> list[str]:
    """Return the category of each object, from the first frame that names one."""
    names = [""] * count
    for frame in sorted(prompts, reverse=True):
        for number, prompt in enumerate(prompts[frame]):
            names[number] = prompt.category or names[number]
    return names


def _probability(one: TrackedObject, size: tuple[int, int]) -> torch.Tensor:
    if one.prediction is None:
        return torch.zeros(size, dtype=torch.uint8)
    return probability_map(one.prediction.logits, one.prediction.window, size)
