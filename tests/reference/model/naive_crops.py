"""Tiling, Lanczos and crops by their written rules (model-facts.md 3.1), in numpy alone.

Nothing of `trainer` and no Pillow: the resampler is written after Pillow's published method for
8 bits a channel. Weights are made in float64 and kept as integers of 22 fractional bits; the first
pass goes along the width and is rounded to bytes, the second along the height. Published crop,
window, margins and tile count.

H, W height and width, O outputs, K taps of an output, C channels, N crops.
"""

from __future__ import annotations

import math

import numpy as np

CROP, WINDOW, BOTH_MARGINS, MOST_TILES = 378, 266, 112, 12  # px, px, px, tiles
LOBES = 3
FRACTION_BITS = 22


def naive_tiling(height_px: int, width_px: int) -> tuple[int, int]:
    """(rows, columns)."""
    h, w = max(1, height_px - BOTH_MARGINS), max(1, width_px - BOTH_MARGINS)
    if h <= WINDOW or w <= WINDOW:
        return 1, 1
    mh, mw = math.ceil(h / WINDOW), math.ceil(w / WINDOW)
    if mh * mw > MOST_TILES:
        q = math.sqrt(MOST_TILES / (mh * mw))
        return max(1, math.floor(mh * q)), max(1, math.floor(mw * q))
    a = max(math.floor(math.sqrt(MOST_TILES * h / w)), mh)
    b = max(math.floor(math.sqrt(MOST_TILES * w / h)), mw)
    if a * b > MOST_TILES:
        if b > a:
            b = math.floor(MOST_TILES / a)
        else:
            a = math.floor(MOST_TILES / b)
    return max(1, a), max(1, b)


def lanczos(x: np.ndarray) -> np.ndarray:
    """sinc(x) sinc(x / 3) between -3 and 3."""
    inside = (x >= -LOBES) & (x < LOBES)
    return np.where(inside, np.sinc(x) * np.sinc(x / LOBES), 0.0)


def taps(num_in: int, num_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Which inputs every output reads, and with what weight.

    Returns:
        [O, K] positions (those without weight are clamped into the input), [O, K] int64 weights
        that sum to about 2^22.
    """
    scale = num_in / num_out
    stretch = max(scale, 1.0)  # downwards the kernel grows with the step
    centre_O = (np.arange(num_out) + 0.5) * scale
    first_O = np.maximum(np.trunc(centre_O - LOBES * stretch + 0.5), 0).astype(int)
    end_O = np.minimum(np.trunc(centre_O + LOBES * stretch + 0.5), num_in).astype(int)
    position_OK = first_O[:, None] + np.arange((end_O - first_O).max())
    weight_OK = lanczos((position_OK - centre_O[:, None] + 0.5) / stretch)
    weight_OK[position_OK >= end_O[:, None]] = 0.0
    weight_OK /= weight_OK.cumsum(axis=1)[:, -1:]  # one after another, as a loop would add
    fixed_OK = np.trunc(weight_OK * 2**FRACTION_BITS + np.copysign(0.5, weight_OK))
    return np.minimum(position_OK, num_in - 1), fixed_OK.astype(np.int64)


def resample_columns(image_HWC: np.ndarray, num_out: int) -> np.ndarray:
    """[H, W, C] to [H, O, C] uint8; unchanged where the width is right already."""
    if image_HWC.shape[1] == num_out:
        return image_HWC
    position_OK, weight_OK = taps(image_HWC.shape[1], num_out)
    assert 255 * np.abs(weight_OK).sum(axis=1).max() < 2**31 - 2**FRACTION_BITS, (
        "32 bits hold a sum"
    )
    image_HWC = np.ascontiguousarray(image_HWC, np.int32)
    shape_HOC = (image_HWC.shape[0], num_out, image_HWC.shape[2])
    total_HOC = np.full(shape_HOC, 1 << (FRACTION_BITS - 1), np.int32)
    part_HOC = np.empty_like(total_HOC)
    for position_O, weight_O in zip(position_OK.T, weight_OK.astype(np.int32).T, strict=True):
        image_HWC.take(position_O, axis=1, out=part_HOC, mode="clip")
        part_HOC *= weight_O[:, None]
        total_HOC += part_HOC
    return np.clip(total_HOC >> FRACTION_BITS, 0, 255).astype(np.uint8)


def resize(image_HWC: np.ndarray, height_px: int, width_px: int) -> np.ndarray:
    """Along the width first, then along the height."""
    wide_HWC = resample_columns(image_HWC, width_px)
    return resample_columns(wide_HWC.transpose(1, 0, 2), height_px).transpose(1, 0, 2)


def naive_crops(image_HWC: np.ndarray) -> np.ndarray:
    """[N, 378, 378, C]: the whole picture, then the windows row by row."""
    rows, cols = naive_tiling(*image_HWC.shape[:2])
    sides = (WINDOW * rows + BOTH_MARGINS, WINDOW * cols + BOTH_MARGINS)
    crops = [resize(image_HWC, CROP, CROP)]
    sheet = resize(image_HWC, *sides)
    for top in range(0, WINDOW * rows, WINDOW):
        for left in range(0, WINDOW * cols, WINDOW):
            crops.append(sheet[top : top + CROP, left : left + CROP])
    return np.stack(crops)
