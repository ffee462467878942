"""The plot of the benchmarks."""

from __future__ import annotations

import math

import pytest

from benchmarks.log_plot import (
    BOTTOM,
    COLORS,
    HEIGHT,
    LEFT,
    TOP,
    WIDTH,
    Curve,
    draw_plot,
    nice_ticks,
)


@pytest.mark.parametrize(
    ("lowest", "highest", "ticks"),
    [
        (23, 496, [20, 50, 100, 200, 500]),
        (20, 500, [20, 50, 100, 200, 500]),
        (0.03, 0.4, [0.02, 0.05, 0.1, 0.2, 0.5]),
    ],
)
def test_ticks_enclose_the_values(lowest, highest, ticks):
    assert nice_ticks(lowest, highest) == ticks


def test_a_point_stands_where_its_values_say():
    curve = Curve(label="falling", points=[(1, 100), (16, 10)])
    image = draw_plot([curve], title="t", x_label="x", y_label="y", x_ticks=(1, 4, 16))
    assert image.size == (WIDTH, HEIGHT)
    wanted = tuple(bytes.fromhex(COLORS[0][1:]))
    assert image.getpixel((LEFT, TOP)) == wanted
    assert image.getpixel((LEFT + 200, TOP + 4)) == (255, 255, 255)


def test_marks_alone_have_no_line_between_them():
    marks = Curve(label="marks", points=[(1, 10), (16, 100)], has_line=False)
    image = draw_plot([marks], title="t", x_label="x", y_label="y", x_ticks=(1, 4, 16))
    wanted = tuple(bytes.fromhex(COLORS[0][1:]))
    assert image.getpixel((LEFT, HEIGHT - BOTTOM)) == wanted
    x = LEFT + 300  # below the legend, which is on the right
    assert wanted not in {image.getpixel((x, y)) for y in range(TOP, HEIGHT - BOTTOM)}


def test_a_line_alone_has_no_marks():
    def red_left_of_its_start(has_marks: bool) -> int:
        line = Curve(label="line", points=[(1, 50), (16, 50)], has_marks=has_marks)
        other = Curve(label="other", points=[(1, 10), (16, 100)])
        image = draw_plot([line, other], title="t", x_label="x", y_label="y", x_ticks=(1, 4, 16))
        y = TOP + round((HEIGHT - BOTTOM - TOP) * math.log10(100 / 50))
        return image.getpixel((LEFT - 3, y))[0]

    assert red_left_of_its_start(True) < 50  # of the first color, which is blue
    assert red_left_of_its_start(False) > 200  # of white
