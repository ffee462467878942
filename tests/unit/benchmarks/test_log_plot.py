"""The plot of the benchmarks."""

from __future__ import annotations

import pytest

from benchmarks.log_plot import COLORS, HEIGHT, LEFT, TOP, WIDTH, Curve, draw_plot, nice_ticks


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
