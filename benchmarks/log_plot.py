"""A small line plot with logarithmic axes, drawn with Pillow, which the project has anyway."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 960, 620
LEFT, RIGHT, TOP, BOTTOM = 110, 30, 70, 80  # margins around the axes
SHARPNESS = 2  # drawn this much larger, then shrunk, so that lines are smooth
INK, GRID = "#222222", "#dddddd"
COLORS = ("#0b61a4", "#d1491b", "#2a7d3f", "#888888", "#888888")
NICE = (1, 2, 5)

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points in the order of x, all above 0; joined by a line, marked, or both."""

    label: str
    points: Sequence[Point]
    is_dashed: bool = False
    has_line: bool = True
    has_marks: bool = True


def draw_plot(
    curves: Sequence[Curve],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[float],
    is_rising: bool = False,
) -> Image.Image:
    """The curves with axes, labels and a legend; y ticks are 1, 2 and 5 times powers of ten.

    Args:
        is_rising: The curves leave the upper left free, or else the upper right.
    """
    plot = _Plot(curves, x_ticks)
    plot.axes(title, x_label, y_label)
    for curve, color in zip(curves, COLORS, strict=False):
        plot.curve(curve, color)
    plot.legend(curves, is_left=is_rising)
    return plot.image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


class _Plot:
    """The sheet, and where values stand on it."""

    def __init__(self, curves: Sequence[Curve], x_ticks: Sequence[float]):
        self.image = Image.new("RGB", (SHARPNESS * WIDTH, SHARPNESS * HEIGHT), "white")
        self._pen = ImageDraw.Draw(self.image)
        self._x_ticks = x_ticks
        values = [y for curve in curves for _, y in curve.points]
        self._y_ticks = nice_ticks(min(values), max(values))

    def axes(self, title: str, x_label: str, y_label: str) -> None:
        right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
        for x in self._x_ticks:
            at = self._place((x, self._y_ticks[0]))[0]
            self._line([(at, TOP), (at, bottom)], GRID, 1)
            self._text((at, bottom + 8), f"{x:g}", "ma")
        for y in self._y_ticks:
            at = self._place((self._x_ticks[0], y))[1]
            self._line([(LEFT, at), (right, at)], GRID, 1)
            self._text((LEFT - 10, at), f"{y:g}", "rm")
        self._line([(LEFT, TOP), (LEFT, bottom), (right, bottom)], INK, 1.5)
        self._text(((LEFT + right) / 2, TOP / 2), title, "mm", size=20)
        self._text(((LEFT + right) / 2, HEIGHT - 24), x_label, "mm")
        self._upwards((28, (TOP + bottom) / 2), y_label)

    def curve(self, curve: Curve, color: str) -> None:
        places = [self._place(point) for point in curve.points]
        for start, end in itertools.pairwise(places) if curve.has_line else ():
            for part in _dashes(start, end) if curve.is_dashed else [(start, end)]:
                self._line(part, color, 2.5)
        for place in places if curve.has_marks else ():
            self._mark(place, curve, color)

    def legend(self, curves: Sequence[Curve], *, is_left: bool) -> None:
        """In one of the upper corners."""
        widest = max(self._font(16).getlength(curve.label) / SHARPNESS for curve in curves)
        left = LEFT + 20 if is_left else WIDTH - RIGHT - 20 - widest - 60
        for row, (curve, color) in enumerate(zip(curves, COLORS, strict=False)):
            y = TOP + 24 + 28 * row
            start, end = (left, y), (left + 48, y)
            if curve.has_line:
                for part in _dashes(start, end) if curve.is_dashed else [(start, end)]:
                    self._line(part, color, 2.5)
            else:
                self._mark((left + 24, y), curve, color)
            self._text((left + 60, y), curve.label, "lm")

    def _mark(self, at: Point, curve: Curve, color: str) -> None:
        x, y = at
        box = [SHARPNESS * v for v in (x - 5, y - 5, x + 5, y + 5)]
        fill = "white" if curve.is_dashed else color
        self._pen.ellipse(box, fill=fill, outline=color, width=4)

    def _place(self, point: Point) -> Point:
        x = _share(point[0], self._x_ticks[0], self._x_ticks[-1])
        y = _share(point[1], self._y_ticks[0], self._y_ticks[-1])
        return LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM)

    def _line(self, points: Sequence[Point], color: str, width: float) -> None:
        scaled = [(SHARPNESS * x, SHARPNESS * y) for x, y in points]
        self._pen.line(scaled, fill=color, width=round(SHARPNESS * width))

    def _text(self, at: Point, text: str, anchor: str, size: int = 16) -> None:
        place = (SHARPNESS * at[0], SHARPNESS * at[1])
        self._pen.text(place, text, fill=INK, font=self._font(size), anchor=anchor)

    def _upwards(self, middle: Point, text: str) -> None:
        """Text that runs from below to above."""
        font = self._font(16)
        width, height = math.ceil(font.getlength(text)), SHARPNESS * 24
        strip = Image.new("RGB", (width, height), "white")
        ImageDraw.Draw(strip).text((width / 2, height / 2), text, fill=INK, font=font, anchor="mm")
        turned = strip.rotate(90, expand=True)
        corner = (SHARPNESS * middle[0] - height / 2, SHARPNESS * middle[1] - width / 2)
        self.image.paste(turned, (round(corner[0]), round(corner[1])))

    @staticmethod
    def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        return ImageFont.load_default(SHARPNESS * size)


def nice_ticks(lowest: float, highest: float) -> list[float]:
    """1, 2 and 5 times powers of ten: from the last one not above `lowest` to the first one not
    below `highest`."""
    powers = range(math.floor(math.log10(lowest)), math.ceil(math.log10(highest)) + 1)
    all_ticks = [float(f"{factor}e{power}") for power in powers for factor in NICE]
    first = max(tick for tick in all_ticks if tick <= lowest)
    last = min(tick for tick in all_ticks if tick >= highest)
    return [tick for tick in all_ticks if first <= tick <= last]


def _share(value: float, lowest: float, highest: float) -> float:
    """Where a value lies between two others, by logarithms; 0 to 1."""
    return math.log(value / lowest) / math.log(highest / lowest)


def _dashes(start: Point, end: Point, length: float = 8) -> list[list[Point]]:
    """Every other piece of a line."""
    num = max(1, round(math.dist(start, end) / length))
    at = [
        (start[0] + (end[0] - start[0]) * i / num, start[1] + (end[1] - start[1]) * i / num)
        for i in range(num + 1)
    ]
    return [[at[i], at[i + 1]] for i in range(0, num, 2)]
