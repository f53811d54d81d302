"""Files written for a whole cine: a table over time, a plot, and the overlays as an animation."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from monai.data import MetaTensor
from monai.utils import MetaKeys
from PIL import Image
from torch import Tensor

from lmsfe_sam.files import atomic_write
from lmsfe_sam.images.image import ImageFile
from lmsfe_sam.inference.inferers import PROMPTS
from lmsfe_sam.inference.results import MASKS
from lmsfe_sam.inference.saving import LabelMapWriter, OverlayWriter, Writer
from lmsfe_sam.inference.transforms import OBJECTS, SLICE, scale_of
from lmsfe_sam.inference.writers.deidentifying import blacken_outside
from lmsfe_sam.inference.writers.label_maps import DICOM_SUFFIX, write_volume
from lmsfe_sam.inference.writers.overlay import COLOURS, draw_overlay
from lmsfe_sam.inference.writers.shapes import measure_shape
from lmsfe_sam.predict.preprocessing import to_rgb_uint8
from lmsfe_sam.prompts.prompt import Prompts

COLUMNS = (
    *("frame", "object", "state", "area_px", "area_mm2", "long_axis", "short_axis", "unit"),
    *("circularity", "predicted_iou"),
)
"""Of the table over time; long and short axis in mm or, where the scale is unknown, in pixels."""

FOLDER = "cine"
STATES = "states"
"""The key of how each object came into a frame."""

DURATION = 100
"""Milliseconds that a frame of the animation is shown."""

_WIDTH, _HEIGHT, _LEFT, _TOP = 640, 240, 60, 20
_PLOTTED = ("area_px", "long_axis", "circularity")


@runtime_checkable
class FramesWriter(Protocol):
    """Writes one file of a whole cine."""

    def name(self, item: Mapping[str, Any]) -> str | None:
        """Return the file's name, relative to the run's folder; None for no file."""

    def write_frames(self, path: Path, items: Sequence[Mapping[str, Any]]) -> None:
        """Write it in one step."""


def loop_writers(file: ImageFile, writers: Sequence[Writer]) -> list[TimeTableWriter | VolumeWriter]:
    """Return the writers that a cine has beside those of its frames.

    Args:
        file: its frames.
        writers: of the frames; with overlays there is an animation, with label maps of volumes one of all.
    """
    own: list[TimeTableWriter | VolumeWriter] = [TimeTableWriter(), TimePlotWriter()]
    for writer in writers:
        if isinstance(writer, OverlayWriter):
            own.append(AnimationWriter(file, writer.deidentify))
        if isinstance(writer, LabelMapWriter) and writer.output_ext not in (".png", DICOM_SUFFIX):
            own.append(VolumeWriter(writer.output_ext))
    return own


def frame_alone(labels: MetaTensor) -> MetaTensor:
    """Return a frame's label map (1, H, W) with the geometry of that frame alone, for files of volumes."""
    meta = dict(labels.meta)
    affine = np.array(meta[MetaKeys.ORIGINAL_AFFINE], dtype=float)
    affine[:3, 3] += affine[:3, 2] * int(meta[SLICE])
    shape = np.array([*np.asarray(meta[MetaKeys.SPATIAL_SHAPE])[:2], 1])
    meta |= {MetaKeys.ORIGINAL_AFFINE: affine, MetaKeys.SPATIAL_SHAPE: shape, SLICE: 0}
    return MetaTensor(labels.as_subclass(Tensor), meta=meta)


class VolumeWriter:
    """``masks/<stem><output_ext>``: the label maps of all frames as one volume, in the file's geometry.

    Args:
        output_ext: one of `lmsfe_sam.inference.writers.label_maps.OUTPUT_SUFFIXES`.
    """

    def __init__(self, output_ext: str) -> None:
        self.output_ext = output_ext

    def name(self, item: Mapping[str, Any]) -> str:  # noqa: D102
        return f"{MASKS}/{item['stem']}{self.output_ext}"

    def write_frames(self, path: Path, items: Sequence[Mapping[str, Any]]) -> None:  # noqa: D102
        frames = {int(item["pred"].meta[SLICE]): item["pred"][0].cpu().numpy() for item in items}
        write_volume(path, frames, items[0]["pred"].meta)


class TimeTableWriter:
    """``cine/<stem>.csv``: a row for each frame and object."""

    def name(self, item: Mapping[str, Any]) -> str:  # noqa: D102
        return f"{FOLDER}/{item['stem']}.csv"

    def write_frames(self, path: Path, items: Sequence[Mapping[str, Any]]) -> None:
        """Write the table."""
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        table.writeheader()
        for row in time_rows(items):
            table.writerow({key: _cell(value) for key, value in row.items()})
        with atomic_write(path) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")


class TimePlotWriter(TimeTableWriter):
    """``cine/<stem>.svg``: area, long axis and circularity over the frames, a line an object."""

    def name(self, item: Mapping[str, Any]) -> str:  # noqa: D102
        return f"{FOLDER}/{item['stem']}.svg"

    def write_frames(self, path: Path, items: Sequence[Mapping[str, Any]]) -> None:  # noqa: D102
        with atomic_write(path) as temporary:
            temporary.write_text(plot(time_rows(items)), encoding="utf-8")


class AnimationWriter(TimeTableWriter):
    """``cine/<stem>.webp``: the overlays one after the other.

    Args:
        file: the frames.
        deidentify: blacken what lies outside of the ultrasound regions.
    """

    def __init__(self, file: ImageFile, deidentify: bool = False) -> None:
        self.file = file
        self.deidentify = deidentify

    def name(self, item: Mapping[str, Any]) -> str:  # noqa: D102
        return f"{FOLDER}/{item['stem']}.webp"

    def write_frames(self, path: Path, items: Sequence[Mapping[str, Any]]) -> None:  # noqa: D102
        pictures = self._pictures(items)
        first = next(pictures)
        with atomic_write(path) as temporary:
            first.save(
                temporary, save_all=True, append_images=pictures, duration=DURATION, loop=0, quality=80
            )

    def _pictures(self, items: Sequence[Mapping[str, Any]]) -> Iterator[Image.Image]:
        for item in items:
            picture = to_rgb_uint8(self.file.read(int(item[OBJECTS][0]["frame"])).pixels)
            if self.deidentify:
                picture = blacken_outside(picture, item["pred"].meta["filename_or_obj"])
            yield draw_overlay(picture, item["pred"][0].cpu().numpy(), Prompts(**item[PROMPTS]))


def time_rows(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the table over time."""
    rows = []
    for item in items:
        labels, scale = item["pred"][0].cpu().numpy(), scale_of(item["pred"].meta)
        for row, state in zip(item[OBJECTS], item[STATES], strict=True):
            mask = labels == row["object"]
            spacing, source = scale.of_object(*np.nonzero(mask))
            shape = measure_shape(mask, spacing if source else (1.0, 1.0))
            measured = (
                (None,) * 3 if shape is None else (shape.long_axis, shape.short_axis, shape.circularity)
            )
            rows.append(
                {
                    "frame": row["frame"],
                    "object": row["object"],
                    "state": state,
                    "area_px": row["area_px"],
                    "area_mm2": row["area_mm2"] if shape is not None else None,
                    "long_axis": measured[0],
                    "short_axis": measured[1],
                    "unit": "mm" if source else "px",
                    "circularity": measured[2],
                    "predicted_iou": row["predicted_iou"],
                }
            )
    return rows


def plot(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return an SVG with a panel for each of area, long axis and circularity."""
    frames = [row["frame"] for row in rows]
    first, last = min(frames), max(frames)
    height = _HEIGHT * len(_PLOTTED)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
        f'height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
    ]
    for panel, key in enumerate(_PLOTTED):
        top, bottom = panel * _HEIGHT + _TOP, (panel + 1) * _HEIGHT - 30
        values = [row[key] for row in rows if row[key] is not None]
        maximum = max(values, default=0) or 1
        unit = f" ({rows[0]['unit']})" if key == "long_axis" else ""
        lines.append(f'<text x="{_LEFT}" y="{top - 6}">{key.replace("_", " ")}{unit}</text>')
        lines.append(f'<path d="M{_LEFT},{top}V{bottom}H{_WIDTH - 10}" fill="none" stroke="black"/>')
        for value, y in ((0, bottom), (maximum, top)):
            lines.append(f'<text x="{_LEFT - 4}" y="{y + 4}" text-anchor="end">{value:.4g}</text>')
        for value, x in ((first, _LEFT), (last, _WIDTH - 10)):
            lines.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{value}</text>')
        for number in sorted({row["object"] for row in rows}):
            own = [(row["frame"], row[key]) for row in rows if row["object"] == number]
            colour = "#" + "".join(f"{part:02x}" for part in COLOURS[(number - 1) % len(COLOURS)].tolist())
            pen, path = "M", ""
            for frame, value in own:
                if value is None:
                    pen = "M"
                    continue
                x = _LEFT + (frame - first) / max(1, last - first) * (_WIDTH - 10 - _LEFT)
                path += f"{pen}{x:.1f},{bottom - value / maximum * (bottom - top):.1f}"
                pen = "L"
            lines.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
    return "\n".join([*lines, "</svg>", ""])


def _cell(value: Any) -> str:
    if value is None or value != value:  # NaN: unknown
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
