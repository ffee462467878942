"""From a picture to square crops: one view of the whole, and a tiling of overlapping closer views.

The tiles overlap by a margin on every side, so that a patch at a tile's edge has been seen with its
neighbourhood; the vision model drops the margins again when it stitches the tiles.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from trainer.model.config import VisionConfig

Tiling = tuple[int, int]  # rows, columns


def tiling(height_px: int, width_px: int, config: VisionConfig) -> Tiling:
    """Choose how many rows and columns of tiles a picture gets.

    A picture no larger than one window in either direction gets (1, 1), however long the other side
    is. A very long one above that may get more than `max_crops` tiles, because neither count falls
    below 1; the published models were trained with this rule, floating point included, so it stays.

    Raises:
        ValueError: A side is below one pixel.
    """
    if height_px < 1 or width_px < 1:
        raise ValueError(f"image is {height_px} x {width_px} pixels, wanted at least 1 x 1")
    height = max(1, height_px - config.both_margins_px)
    width = max(1, width_px - config.both_margins_px)
    if height <= config.window_px or width <= config.window_px:
        return 1, 1
    least_rows = math.ceil(height / config.window_px)
    least_cols = math.ceil(width / config.window_px)
    if least_rows * least_cols > config.max_crops:
        shrink = math.sqrt(config.max_crops / (least_rows * least_cols))
        return max(1, math.floor(least_rows * shrink)), max(1, math.floor(least_cols * shrink))
    rows = max(math.floor(math.sqrt(config.max_crops * height / width)), least_rows)
    cols = max(math.floor(math.sqrt(config.max_crops * width / height)), least_cols)
    if rows * cols > config.max_crops:
        if cols > rows:
            cols = config.max_crops // rows
        else:
            rows = config.max_crops // cols
    return max(1, rows), max(1, cols)


def make_crops(image_HWC: np.ndarray, config: VisionConfig) -> tuple[np.ndarray, Tiling]:
    """Cut a picture into crops.

    Args:
        image_HWC: [height, width, 3] uint8 RGB.

    Returns:
        crops_NHWC: [1 + rows * cols, crop_size, crop_size, 3] uint8. Crop 0 shows the whole
            picture, the others the tiles row by row. Aspect is not kept.
        tiling: (rows, cols).

    Raises:
        ValueError: The array is not an RGB picture in uint8.
    """
    if image_HWC.dtype != np.uint8 or image_HWC.ndim != 3 or image_HWC.shape[2] != 3:
        raise ValueError(
            f"image is {image_HWC.dtype} {list(image_HWC.shape)}, wanted uint8 [height, width, 3]"
        )
    height, width = image_HWC.shape[:2]
    rows, cols = tiling(height, width, config)
    image = Image.fromarray(image_HWC)
    side = config.crop_size
    whole = _resize(image, side, side)
    if (rows, cols) == (1, 1):
        return np.stack([whole, whole]), (1, 1)
    sheet = _resize(
        image,
        config.window_px * rows + config.both_margins_px,
        config.window_px * cols + config.both_margins_px,
    )
    crops = [whole]
    for row in range(rows):
        for col in range(cols):
            top, left = row * config.window_px, col * config.window_px
            crops.append(sheet[top : top + side, left : left + side])
    return np.stack(crops), (rows, cols)


def _resize(image: Image.Image, height_px: int, width_px: int) -> np.ndarray:
    """Along the width first, as the models were trained.

    Between the passes values are rounded to bytes, so the order shows: by up to 40 of 255 levels
    in noise. One call leaves it to Pillow, which since 13.0 begins with the height where that is
    faster.
    """
    wide = image.resize((width_px, image.height), Image.Resampling.LANCZOS)
    return np.asarray(wide.resize((width_px, height_px), Image.Resampling.LANCZOS))
