"""The report's plots, drawn as inline SVG.

Colours and line styles are classes of the report's style sheet, so that a plot follows its light and dark
themes. Coordinates of a drawing are pixels of its view box; `Axes` turns data into them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import ArrayLike

from lmsfe_sam.evaluation.statistics import Estimate

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
class Axes:
    """A rectangle of data: what it spans, and how it maps to the drawing."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x_label: str
    y_label: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT

    def x(self, value: float) -> float:
        """Return the horizontal pixel of a value."""
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.width - self.left - RIGHT)

    def y(self, value: float) -> float:
        """Return the vertical pixel of a value."""
        low, high = self.y_range
        return self.height - BOTTOM - (value - low) / (high - low) * (self.height - TOP - BOTTOM)

    def points(self, x: ArrayLike, y: ArrayLike) -> str:
        """Return the points as SVG writes them."""
        pairs = np.broadcast_arrays(np.asarray(x, dtype=float), np.asarray(y, dtype=float))
        return " ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in zip(*pairs, strict=True))

    def grid(self, x_ticks: Sequence[float], y_ticks: Sequence[float], y_names: Sequence[str] = ()) -> str:
        """Return grid lines, tick labels and axis titles."""
        x0, x1 = self.x(self.x_range[0]), self.x(self.x_range[1])
        y0, y1 = self.y(self.y_range[0]), self.y(self.y_range[1])
        parts = []
        for tick in x_ticks:
            x = self.x(tick)
            parts.append(f'<line class="grid" x1="{x:.1f}" y1="{y0:.1f}" x2="{x:.1f}" y2="{y1:.1f}"/>')
            parts.append(
                f'<text class="tick" x="{x:.1f}" y="{y0 + 16:.1f}" text-anchor="middle">{tick:g}</text>'
            )
        for tick, name in zip(y_ticks, y_names or [f"{tick:g}" for tick in y_ticks], strict=True):
            y = self.y(tick)
            parts.append(f'<line class="grid" x1="{x0:.1f}" y1="{y:.1f}" x2="{x1:.1f}" y2="{y:.1f}"/>')
            parts.append(
                f'<text class="tick" x="{x0 - 7:.1f}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>'
            )
        middle = (TOP + self.height - BOTTOM) / 2
        parts.append(
            f'<text class="axis" x="{(x0 + x1) / 2:.1f}" y="{self.height - 8}" text-anchor="middle">'
            f"{escape(self.x_label)}</text>"
        )
        parts.append(
            f'<text class="axis" transform="translate(14 {middle:.1f}) rotate(-90)" text-anchor="middle">'
            f"{escape(self.y_label)}</text>"
        )
        return "".join(parts)

    def drawing(self, title: str, content: str) -> str:
        """Return the whole SVG element; ``title`` is for those who cannot see it."""
        return (
            f'<svg class="plot" viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{escape(title, quote=True)}">{content}</svg>'
        )


def line_plot(title: str, x_label: str, y_label: str, lines: Sequence[Line]) -> str:
    """Draw lines with markers and their intervals as bands."""
    lows = [point.low for line in lines for point in line.y]
    highs = [point.high for line in lines for point in line.y]
    xs = [value for line in lines for value in line.x]
    y_ticks = _ticks(min(lows), max(highs))
    axes = Axes((min(xs), max(xs)), (y_ticks[0], y_ticks[-1]), x_label, y_label)
    parts = [axes.grid(lines[0].x, y_ticks)]
    for line in lines:
        band = axes.points(
            [*line.x, *reversed(line.x)],
            [*(point.low for point in line.y), *(point.high for point in reversed(line.y))],
        )
        parts.append(f'<polygon class="band {line.style}" points="{band}"/>')
    for line in lines:
        means = [point.mean for point in line.y]
        parts.append(f'<polyline class="line {line.style}" points="{axes.points(line.x, means)}"/>')
        parts += [
            f'<circle class="dot {line.style}" cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="3">'
            f"<title>{escape(line.label)}, {x:g}: {y:.3f}</title></circle>"
            for x, y in zip(line.x, means, strict=True)
        ]
    return axes.drawing(title, "".join(parts)) + _legend([(line.label, line.style) for line in lines])


def interval_plot(title: str, x_label: str, rows: Sequence[tuple[str, str, Estimate]]) -> str:
    """Draw one mean with its interval for each row ``(label, style, estimate)``, the first on top."""
    ticks = _ticks(min(row[2].low for row in rows), max(row[2].high for row in rows))
    axes = Axes(
        (ticks[0], ticks[-1]), (len(rows) - 0.5, -0.5), x_label, "", height=70 + 26 * len(rows), left=178
    )
    parts = [axes.grid(ticks, range(len(rows)), [label for label, _, _ in rows])]
    for place, (label, style, value) in enumerate(rows):
        y = axes.y(place)
        parts.append(
            f'<line class="line {style}" x1="{axes.x(value.low):.1f}" y1="{y:.1f}" '
            f'x2="{axes.x(value.high):.1f}" y2="{y:.1f}"/>'
            f'<circle class="dot {style}" cx="{axes.x(value.mean):.1f}" cy="{y:.1f}" r="5">'
            f"<title>{escape(label)}: {value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]</title></circle>"
        )
    return axes.drawing(title, "".join(parts))


def distribution_plot(title: str, x_label: str, columns: Sequence[tuple[str, str, Sequence[float]]]) -> str:
    """Draw, for each ``(label, style, values)``, the share of images that score at least x, in 0..1."""
    axes = Axes((0, 1), (0, 100), x_label, "% of images with at least that")
    parts = [axes.grid(FIFTHS, range(0, 101, 20))]
    for _, style, values in columns:
        ordered = np.sort(np.asarray(values, dtype=float))
        # A step down after each value: all images score at least 0, few score at least the highest.
        x = np.repeat(np.concatenate(([0.0], ordered)), 2)[1:]
        y = np.repeat(100 * np.arange(len(ordered), -1, -1) / len(ordered), 2)[:-1]
        parts.append(f'<polyline class="line {style}" points="{axes.points(x, y)}"/>')
    return axes.drawing(title, "".join(parts)) + _legend([column[:2] for column in columns])


def calibration_plot(
    title: str,
    predicted: Sequence[float],
    actual: Sequence[float],
    bins: Sequence[tuple[float, float, int]],
    style: str,
) -> str:
    """Draw the actual against the predicted figure of each image, and the mean of each bin."""
    axes = Axes((0, 1), (0, 1), "predicted IoU", "actual IoU", width=340)
    parts = [
        axes.grid(FIFTHS, FIFTHS),
        f'<polyline class="line ideal" points="{axes.points([0, 1], [0, 1])}"/>',
    ]
    parts += [
        f'<circle class="cloud {style}" cx="{axes.x(a):.1f}" cy="{axes.y(b):.1f}" r="2"/>'
        for a, b in zip(np.clip(predicted, 0, 1), actual, strict=True)
    ]
    means = [(min(max(own[0], 0.0), 1.0), own[1]) for own in bins]
    parts.append(
        f'<polyline class="line {style}" '
        f'points="{axes.points([own[0] for own in means], [own[1] for own in means])}"/>'
    )
    parts += [
        f'<circle class="dot {style}" cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" '
        f'r="{2 + 5 * (count / len(actual)) ** 0.5:.1f}">'
        f"<title>{count} images: predicted {x:.3f}, actual {y:.3f}</title></circle>"
        for (x, y), (_, _, count) in zip(means, bins, strict=True)
    ]
    return axes.drawing(title, "".join(parts))


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers from at most ``low`` to at least ``high``, some five of them."""
    span = max(high - low, 1e-3)
    step = 10 ** np.floor(np.log10(span / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if span / (step * factor) <= 5)
    first, last = np.floor(low / step), np.ceil(high / step)
    last = max(last, first + 1)
    return [round(float(i * step), 10) for i in np.arange(first, last + 1)]


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    items = "".join(
        f'<li><svg viewBox="0 0 26 10" aria-hidden="true">'
        f'<line class="line {style}" x1="1" y1="5" x2="25" y2="5"/></svg>{escape(label)}</li>'
        for label, style in entries
    )
    return f'<ul class="legend">{items}</ul>'
