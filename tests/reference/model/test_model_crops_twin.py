"""Tiling and crops against a twin that resamples in numpy, without Pillow."""

from __future__ import annotations

import numpy as np
import pytest

from tests.reference.model.naive_crops import naive_crops, naive_tiling, resize
from trainer.model.config import VisionConfig
from trainer.model.crops import make_crops, tiling

PUBLISHED = VisionConfig(proj_out_dim=8)

VERIFIED = {  # model-facts.md 3.1: (rows, cols) of width x height
    (1, 1): ["378x378", "300x900", "900x300", "100x50", "60x44"],
    (3, 3): ["379x379", "512x512", "600x600", "1024x1024"],
    (2, 4): ["640x480", "800x600", "1280x720", "1920x1080", "4000x3000"],
    (4, 2): ["400x700", "1080x1920"],
    (1, 8): ["3000x400"],
    (2, 5): ["2000x700"],
    (5, 2): ["700x2000"],
    (2, 6): ["1000x380"],
    (4, 3): ["768x1024"],
}


def sizes(kind: str, count: int) -> list[tuple[int, int]]:
    """Seeded (height, width) of one kind of picture, in pixels."""
    rng = np.random.default_rng(sum(map(ord, kind)))
    low, high = {
        "tiny": ((1, 1), (40, 40)),
        "thin": ((100, 1), (1500, 60)),
        "wide": ((1, 200), (80, 1500)),
        "small": ((40, 40), (400, 400)),
        "tiled": ((379, 379), (700, 700)),
        "long": ((379, 800), (450, 1500)),
        "large": ((700, 700), (1500, 1500)),
    }[kind]
    return [tuple(size) for size in rng.integers(low, high, (count, 2), endpoint=True).tolist()]


def picture(height_px: int, width_px: int) -> np.ndarray:
    """Noise on the left, where every byte counts; hard edges on the right, which overshoot."""
    rng = np.random.default_rng([height_px, width_px])
    image = rng.integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)
    edges = image[:, width_px // 2 :]
    edges[...] = 255 * (edges > 127)
    return image


@pytest.mark.parametrize(
    ("size", "rows_cols"), [(size, key) for key, several in VERIFIED.items() for size in several]
)
def test_the_twin_tiles_as_verified(size, rows_cols):
    width, height = map(int, size.split("x"))
    assert naive_tiling(height, width) == tiling(height, width, PUBLISHED) == rows_cols


def test_tilings_equal_the_twin_at_every_edge():
    # sides around multiples of the window, where counts change
    sides = [112 + 266 * n + d for n in range(16) for d in (-1, 0, 1)] + [1, 112, 5000, 30000]
    for height in sides:
        for width in sides:
            assert tiling(height, width, PUBLISHED) == naive_tiling(height, width), (height, width)


@pytest.mark.parametrize(
    ("kind", "count"),
    [("tiny", 40), ("thin", 30), ("wide", 30), ("small", 50), ("tiled", 30), ("long", 10),
     ("large", 10)],
)  # fmt: skip
def test_crops_equal_the_twin_byte_for_byte(kind, count):
    for height, width in sizes(kind, count):
        image = picture(height, width)
        crops, rows_cols = make_crops(image, PUBLISHED)
        assert rows_cols == naive_tiling(height, width)
        wanted = naive_crops(image)
        assert crops.shape == wanted.shape
        assert np.array_equal(crops, wanted), (height, width)


@pytest.mark.parametrize(("height", "width"), [(900, 300), (1920, 1080), (898, 1251)])
def test_crops_are_resampled_along_the_width_first(height, width):
    image = picture(height, width)
    crops, _ = make_crops(image, PUBLISHED)
    assert np.array_equal(crops, naive_crops(image))


def test_the_twin_keeps_what_resampling_keeps():
    # a constant stays itself, and a picture of the right size is not touched
    assert (resize(np.full((5, 7, 3), 200, np.uint8), 378, 300) == 200).all()
    image = picture(9, 11)
    assert np.array_equal(resize(image, 9, 11), image)
