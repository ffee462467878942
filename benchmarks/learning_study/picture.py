"""The picture of the study, drawn with Pillow: panels of curves, and variants as dots on a line."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from benchmarks.learning_study.summary import Band

SHARPNESS = 2
"""Drawn this much larger, then shrunk, so that lines are smooth."""

INK, FAINT, GRID = "#222222", "#777777", "#e2e2e2"
COLORS = ("#0b61a4", "#d1491b", "#2a7d3f", "#7b3f9e")
TITLE_SIZE, TEXT_SIZE = 17, 13

LEFT, RIGHT, TOP, BOTTOM = 52, 18, 44, 44
"""Margins of the axes inside their panel."""

ROW_HEIGHT = 24
"""Of one variant."""

LOWEST = 0.7
"""Dots below are told in words, so that they do not squeeze the others."""

Box = tuple[float, float, float, float]
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class CurvePanel:
    title: str
    curves: Sequence[tuple[str, Band]]


@dataclass(frozen=True, kw_only=True)
class DotRow:
    """A variant: one value per seed; a row without values is a heading."""

    label: str
    values: Sequence[float] = ()
    is_reference: bool = False


@dataclass(frozen=True, kw_only=True)
class DotPanel:
    title: str
    rows: Sequence[DotRow]
    label_width: int = 0


def draw_study(
    curves: Sequence[CurvePanel], dots: Sequence[DotPanel], *, title: str, width: int = 1440
) -> Image.Image:
    """Curve panels three in a row, below them the dot panels side by side."""
    panel_width, panel_height = width // 3, 290
    num_rows = -(-len(curves) // 3)
    most = max((len(panel.rows) for panel in dots), default=0)
    dots_height = TOP + BOTTOM + ROW_HEIGHT * most + 10 if dots else 0
    head = 50
    sheet = _Sheet(width, head + num_rows * panel_height + dots_height)
    sheet.text((width / 2, head / 2 + 4), title, "mm", size=20)
    for index, panel in enumerate(curves):
        left, top = index % 3 * panel_width, head + index // 3 * panel_height
        sheet.curve_panel(panel, (left, top, left + panel_width, top + panel_height))
    for index, panel in enumerate(dots):
        top = head + num_rows * panel_height
        left = index * width // len(dots)
        sheet.dot_panel(panel, (left, top, left + width // len(dots), top + dots_height))
    return sheet.finished()


class _Sheet:
    """The paper; places are in pixels of the finished picture."""

    def __init__(self, width: int, height: int):
        self._size = (width, height)
        self._image = Image.new("RGB", (SHARPNESS * width, SHARPNESS * height), "white")
        self._pen = ImageDraw.Draw(self._image, "RGBA")

    def finished(self) -> Image.Image:
        return self._image.resize(self._size, Image.Resampling.LANCZOS)

    def curve_panel(self, panel: CurvePanel, box: Box) -> None:
        axes = _Axes(
            box=_inside(box, LEFT),
            x_range=(0, max(band.steps[-1] for _, band in panel.curves)),
            y_range=(0.0, 1.0),
        )
        self.text(
            ((box[0] + box[2] + LEFT - RIGHT) / 2, box[1] + 24), panel.title, "mm", TITLE_SIZE
        )
        for value in (0, 0.2, 0.4, 0.6, 0.8, 1.0):
            left, right = axes.place((0, value)), axes.place((axes.x_range[1], value))
            self._line([left, right], GRID, 1)
            self.text((left[0] - 8, left[1]), f"{value:g}", "rm")
        bottom = axes.box[3]
        longest = max((band for _, band in panel.curves), key=lambda band: band.steps[-1])
        for step in longest.steps:
            self.text((axes.place((step, 0))[0], bottom + 6), str(step), "ma")
        self.text(((axes.box[0] + axes.box[2]) / 2, bottom + 24), "train steps", "ma", color=FAINT)
        for (_, band), color in zip(panel.curves, COLORS, strict=False):
            self._band(band, axes, color)
        self._legend([label for label, _ in panel.curves], axes)

    def dot_panel(self, panel: DotPanel, box: Box) -> None:
        values = [value for row in panel.rows for value in row.values]
        low = max(LOWEST, math.floor(min(values) * 20) / 20)
        high = max(low + 0.1, math.ceil(max(values) * 20) / 20)
        axes = _Axes(
            box=_inside(box, LEFT + panel.label_width),
            x_range=(low, high),
            y_range=(0, len(panel.rows)),
        )
        self.text(((box[0] + box[2]) / 2, box[1] + 24), panel.title, "mm", TITLE_SIZE)
        ticks = [low + 0.05 * i for i in range(round((high - low) / 0.05) + 1)]
        base = axes.box[1] + ROW_HEIGHT * len(panel.rows)
        for tick in ticks[:: 1 if len(ticks) < 9 else 2]:
            x = axes.place((tick, 0))[0]
            self._line([(x, axes.box[1]), (x, base)], GRID, 1)
            self.text((x, base + 6), f"{tick:.2f}", "ma")
        for number, row in enumerate(panel.rows):
            y = axes.box[1] + ROW_HEIGHT * (number + 0.5)
            if not row.values:
                self.text((box[0] + 20, y), row.label, "lm", color=FAINT)
                continue
            self.text((axes.box[0] - 14, y), row.label, "rm")
            color = COLORS[1] if row.is_reference else COLORS[0]
            if min(row.values) < low:
                collapsed = f"left of this: {sum(row.values) / len(row.values):.2f}"
                self.text((axes.box[0] + 8, y), collapsed, "lm", color=color)
                continue
            places = [axes.place((value, 0))[0] for value in row.values]
            middle = sum(places) / len(places)
            self._line([(min(places), y), (max(places), y)], color, 1.5)
            for x in places:
                self._disc((x, y), 3.5, color)
            self._line([(middle, y - 8), (middle, y + 8)], color, 2.5)
        where = ((axes.box[0] + axes.box[2]) / 2, base + 24)
        self.text(where, "mean held-out reward over the run; dots: seeds", "ma", color=FAINT)

    def text(
        self, at: Point, text: str, anchor: str, size: int = TEXT_SIZE, color: str = INK
    ) -> None:
        place = (SHARPNESS * at[0], SHARPNESS * at[1])
        self._pen.text(place, text, fill=color, font=_font(size), anchor=anchor)

    def _band(self, band: Band, axes: _Axes, color: str) -> None:
        """The spread over seeds as an area, the mean as a line with dots."""
        above = [axes.place(point) for point in zip(band.steps, band.highs, strict=True)]
        below = [axes.place(point) for point in zip(band.steps, band.lows, strict=True)]
        outline = [(SHARPNESS * x, SHARPNESS * y) for x, y in [*above, *reversed(below)]]
        self._pen.polygon(outline, fill=color + "2e")
        middle = [axes.place(point) for point in zip(band.steps, band.means, strict=True)]
        for piece in itertools.pairwise(middle):
            self._line(piece, color, 2.5)
        for place in middle:
            self._disc(place, 3.5, color)

    def _legend(self, labels: Sequence[str], axes: _Axes) -> None:
        """In the lower right, where rising curves are not."""
        if len(labels) < 2:
            return
        widest = max(_font(TEXT_SIZE).getlength(label) / SHARPNESS for label in labels)
        left = axes.box[2] - widest - 42
        for row, (label, color) in enumerate(zip(labels, COLORS, strict=False)):
            y = axes.box[3] - 18 * (len(labels) - row)
            self._line([(left, y), (left + 24, y)], color, 2.5)
            self.text((left + 32, y), label, "lm")

    def _disc(self, at: Point, radius: float, color: str) -> None:
        x, y = at
        box = [SHARPNESS * v for v in (x - radius, y - radius, x + radius, y + radius)]
        self._pen.ellipse(box, fill=color)

    def _line(self, points: Sequence[Point], color: str, width: float) -> None:
        scaled = [(SHARPNESS * x, SHARPNESS * y) for x, y in points]
        self._pen.line(scaled, fill=color, width=round(SHARPNESS * width))


@dataclass(frozen=True, kw_only=True)
class _Axes:
    """Where values stand; both axes are linear."""

    box: Box
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def place(self, point: Point) -> Point:
        left, top, right, bottom = self.box
        x = (point[0] - self.x_range[0]) / (self.x_range[1] - self.x_range[0])
        y = (point[1] - self.y_range[0]) / (self.y_range[1] - self.y_range[0])
        return left + x * (right - left), bottom - y * (bottom - top)


def _inside(box: Box, left: float) -> Box:
    return box[0] + left, box[1] + TOP, box[2] - RIGHT, box[3] - BOTTOM


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(SHARPNESS * size)
