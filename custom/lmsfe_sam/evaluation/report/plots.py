"""Plots of the report as inline SVG.

Colours and line styles are classes of the report's style sheet, so that a plot follows its light and dark
themes. `Axes` maps data to pixels of the view box; the template ``plots.html`` draws the marks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jinja2 import Template
from markupsafe import Markup
from numpy.typing import ArrayLike

from lmsfe_sam.evaluation.statistics import Estimate
from lmsfe_sam.pages import environment

WIDTH, HEIGHT = 460, 320
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 44
FIFTHS = (0, 0.2, 0.4, 0.6, 0.8, 1)


@dataclass(frozen=True)
class Line:
    """One line of a plot, with its 95 % interval as a band.

    Attributes:
        label: for the legend.
        style: class of the style sheet: ``series-1`` ... ``series-6``, or ``control`` (dashed).
        x: of the points.
        y: of the points.
    """

    label: str
    style: str
    x: Sequence[float]
    y: Sequence[Estimate]


@dataclass(frozen=True)
class Mark:
    """One shape in a plot.

    Attributes:
        style: classes of the style sheet.
        points: in pixels; one point for a circle.
        tag: the SVG element if it is not a circle: ``polyline`` or ``polygon``.
        radius: of a circle in pixels, or 0.
        note: shown when the pointer is over a circle.
    """

    style: str
    points: Sequence[tuple[float, float]]
    tag: str = "polyline"
    radius: float = 0
    note: str = ""


class Axes:
    """The frame of a plot: ranges of the data, their place in the drawing, ticks and labels.

    Args:
        x_values: the ticks of the horizontal axis. The first and the last one end it.
        y_values: those of the vertical axis, from the bottom to the top.
        x_label: below the horizontal axis.
        y_label: beside the vertical axis.
        width: of the drawing in pixels.
        height: of the drawing in pixels.
        left: space for the tick labels of the vertical axis in pixels.
        y_range: ends of the vertical axis if they are not the first and the last tick.
        y_names: tick labels of the vertical axis if they are not numbers.
    """

    def __init__(
        self,
        x_values: Sequence[float],
        y_values: Sequence[float],
        x_label: str,
        y_label: str,
        width: int = WIDTH,
        height: int = HEIGHT,
        left: int = LEFT,
        y_range: tuple[float, float] | None = None,
        y_names: Sequence[str] | None = None,
    ) -> None:
        self.x_label, self.y_label = x_label, y_label
        self.width, self.height = width, height
        self.left, self.right, self.top, self.bottom = left, width - RIGHT, TOP, height - BOTTOM
        self._x_range = (x_values[0], x_values[-1])
        self._y_range = y_range or (y_values[0], y_values[-1])
        self.x_ticks = [(self.x(value), f"{value:g}") for value in x_values]
        names = y_names or [f"{value:g}" for value in y_values]
        self.y_ticks = [(self.y(value), name) for value, name in zip(y_values, names, strict=True)]

    def x(self, value: float) -> float:
        """Return the horizontal pixel of a value."""
        low, high = self._x_range
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Return the vertical pixel of a value."""
        low, high = self._y_range
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)

    def line(self, style: str, x: ArrayLike, y: ArrayLike) -> Mark:
        """Return a line through points of the data."""
        return Mark(f"line {style}", self._points(x, y))

    def band(self, style: str, x: ArrayLike, y: ArrayLike) -> Mark:
        """Return an area between points of the data."""
        return Mark(f"band {style}", self._points(x, y), tag="polygon")

    def dot(self, style: str, x: float, y: float, radius: float, note: str = "") -> Mark:
        """Return a circle at a point of the data."""
        return Mark(style, [(self.x(x), self.y(y))], radius=round(radius, 1), note=note)

    def _points(self, x: ArrayLike, y: ArrayLike) -> list[tuple[float, float]]:
        pairs = np.broadcast_arrays(np.asarray(x, dtype=float), np.asarray(y, dtype=float))
        return [(self.x(a), self.y(b)) for a, b in zip(*pairs, strict=True)]


def line_plot(title: str, x_label: str, y_label: str, lines: Sequence[Line]) -> Markup:
    """Draw lines with markers and their intervals as bands. The first line's x values are the ticks."""
    lows = [point.low for line in lines for point in line.y]
    highs = [point.high for line in lines for point in line.y]
    axes = Axes(lines[0].x, _ticks(min(lows), max(highs)), x_label, y_label)
    marks = [
        axes.band(
            line.style,
            [*line.x, *reversed(line.x)],
            [*(point.low for point in line.y), *(point.high for point in reversed(line.y))],
        )
        for line in lines
    ]
    for line in lines:
        means = [point.mean for point in line.y]
        marks.append(axes.line(line.style, line.x, means))
        marks += [
            axes.dot(f"dot {line.style}", x, y, 3, f"{line.label}, {x:g}: {y:.3f}")
            for x, y in zip(line.x, means, strict=True)
        ]
    return _drawing(title, axes, marks, [(line.label, line.style) for line in lines])


def interval_plot(title: str, x_label: str, rows: Sequence[tuple[str, str, Estimate]]) -> Markup:
    """Draw one mean with its interval for each row ``(label, style, estimate)``, the first on top."""
    axes = Axes(
        _ticks(min(row[2].low for row in rows), max(row[2].high for row in rows)),
        range(len(rows)),
        x_label,
        "",
        height=70 + 26 * len(rows),
        left=178,
        y_range=(len(rows) - 0.5, -0.5),
        y_names=[label for label, _, _ in rows],
    )
    marks = []
    for row, (label, style, value) in enumerate(rows):
        note = f"{label}: {value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"
        marks.append(axes.line(style, [value.low, value.high], row))
        marks.append(axes.dot(f"dot {style}", value.mean, row, 5, note))
    return _drawing(title, axes, marks)


def distribution_plot(
    title: str, x_label: str, columns: Sequence[tuple[str, str, Sequence[float]]]
) -> Markup:
    """Draw, for each ``(label, style, values)``, the share of images that score at least x, in 0..1."""
    axes = Axes(FIFTHS, range(0, 101, 20), x_label, "% of images with at least that")
    marks = []
    for _, style, values in columns:
        ordered = np.sort(np.asarray(values, dtype=float))
        # A step down after each value: all images score at least 0, few score at least the highest.
        x = np.repeat(np.concatenate(([0.0], ordered)), 2)[1:]
        y = np.repeat(100 * np.arange(len(ordered), -1, -1) / len(ordered), 2)[:-1]
        marks.append(axes.line(style, x, y))
    return _drawing(title, axes, marks, [column[:2] for column in columns])


def calibration_plot(
    title: str,
    predicted: Sequence[float],
    actual: Sequence[float],
    bins: Sequence[tuple[float, float, int]],
    style: str,
) -> Markup:
    """Draw the actual against the predicted IoU of each image, and the mean of each bin."""
    axes = Axes(FIFTHS, FIFTHS, "predicted IoU", "actual IoU", width=340)
    marks = [axes.line("ideal", [0, 1], [0, 1])]
    marks += [
        axes.dot(f"cloud {style}", a, b, 2) for a, b in zip(np.clip(predicted, 0, 1), actual, strict=True)
    ]
    means = [(min(max(mean, 0.0), 1.0), value, count) for mean, value, count in bins]
    marks.append(axes.line(style, [x for x, _, _ in means], [y for _, y, _ in means]))
    marks += [
        axes.dot(
            f"dot {style}",
            x,
            y,
            2 + 5 * (count / len(actual)) ** 0.5,
            f"{count} images: predicted {x:.3f}, actual {y:.3f}",
        )
        for x, y, count in means
    ]
    return _drawing(title, axes, marks)


def _drawing(title: str, axes: Axes, marks: Iterable[Mark], legend: Sequence[tuple[str, str]] = ()) -> Markup:
    """Return a plot; ``title`` describes it to screen readers, ``legend`` has labels and styles."""
    return Markup(_template().render(title=title, axes=axes, marks=marks, legend=legend))


@cache
def _template() -> Template:
    templates = environment(Path(__file__).parent)
    templates.filters["px"] = "{:.1f}".format
    return templates.get_template("plots.html")


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers that span ``low`` to ``high``."""
    span = max(high - low, 1e-3)
    step = 10 ** np.floor(np.log10(span / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if span / (step * factor) <= 5)
    first, last = np.floor(low / step), np.ceil(high / step)
    last = max(last, first + 1)
    return [round(float(i * step), 10) for i in np.arange(first, last + 1)]
