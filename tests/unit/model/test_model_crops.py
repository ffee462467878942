"""Which tiles a picture gets, and what is in them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainer.model.config import VisionConfig
from trainer.model.crops import make_crops, tiling

PUBLISHED = VisionConfig(proj_out_dim=8)
TINY = VisionConfig(proj_out_dim=8, crop_size=84, enc_patch_size=7, overlap_margin=2, max_crops=4)

TABLE = {  # width x height -> (rows, cols)
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


def exact_tiling(height_px: int, width_px: int, config: VisionConfig) -> tuple[int, int]:
    """The same rule in integers only: floor(sqrt(n / d)) is isqrt(n // d)."""
    most, window = config.max_crops, config.window_px
    height, width = (max(1, side - config.both_margins_px) for side in (height_px, width_px))
    if height <= window or width <= window:
        return 1, 1
    rows, cols = -(-height // window), -(-width // window)
    if rows * cols > most:
        return max(1, math.isqrt(most * rows // cols)), max(1, math.isqrt(most * cols // rows))
    rows = max(math.isqrt(most * height // width), rows)
    cols = max(math.isqrt(most * width // height), cols)
    if rows * cols > most:
        rows, cols = (rows, most // rows) if cols > rows else (most // cols, cols)
    return max(1, rows), max(1, cols)


@pytest.mark.parametrize(
    ("size", "wanted"), [(size, rows_cols) for rows_cols, sizes in TABLE.items() for size in sizes]
)
def test_published_sizes_get_their_tiling(size, wanted):
    width, height = map(int, size.split("x"))
    assert tiling(height, width, PUBLISHED) == wanted


@pytest.mark.parametrize(
    ("config", "largest"), [(PUBLISHED, 5000), (TINY, 500)], ids=["published", "tiny"]
)
def test_tiling_equals_integer_arithmetic(config, largest):
    rng = np.random.default_rng(0)
    for height, width in rng.integers(1, largest, (200, 2)).tolist():
        assert tiling(height, width, config) == exact_tiling(height, width, config), (height, width)


def test_a_very_long_picture_gets_more_tiles_than_the_most():
    # h = 388 is 2 windows, w = 29888 is 113; q = sqrt(12 / 226) = 0.23, so (max(1, 0.46), 26.04)
    assert tiling(500, 30000, PUBLISHED) == (1, 26)


def test_tiles_are_overlapping_windows_of_one_sheet():
    # 140 x 252 pixels are window 56 * (2, 4) + margins 28: the sheet is the picture, unresampled
    config = VisionConfig(
        proj_out_dim=8, crop_size=84, enc_patch_size=7, overlap_margin=2, max_crops=8
    )
    image = np.random.default_rng(2).integers(0, 256, (140, 252, 3), dtype=np.uint8)
    crops, (rows, cols) = make_crops(image, config)
    assert (rows, cols) == (2, 4)
    assert crops.shape == (9, 84, 84, 3)
    for row in range(2):
        for col in range(4):
            window = image[56 * row : 56 * row + 84, 56 * col : 56 * col + 84]
            assert np.array_equal(crops[1 + row * 4 + col], window)


def test_a_small_picture_gets_the_same_crop_twice():
    image = np.random.default_rng(3).integers(0, 256, (20, 300, 3), dtype=np.uint8)
    crops, rows_cols = make_crops(image, TINY)
    assert rows_cols == (1, 1)
    assert np.array_equal(crops[0], crops[1])


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8)],
)
def test_anything_but_rgb_bytes_is_refused(image):
    with pytest.raises(ValueError, match="uint8"):
        make_crops(image, TINY)


def test_an_empty_picture_is_refused():
    with pytest.raises(ValueError, match="0 x 5"):
        make_crops(np.zeros((0, 5, 3), np.uint8), TINY)
