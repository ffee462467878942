"""Draws small pictures of coloured shapes and says exactly what is in them.

A stand-in for a data set: every picture follows from its seed, and the kind, colour and box of
every shape are known, so that answers can be checked and rewards computed without a human. Needs
Pillow and nothing else.

    scene = draw_scene(7, num_shapes=(2, 3))
    scene.image.save("scene.png")
    for shape in scene.shapes:
        print(shape.name, shape.box)

Look at a few with `python examples/shapes.py OUT.png`.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageChops, ImageDraw

# What the tiny Moondream has seen in pretraining, and what it has not: the second half is there to
# be learnt by a finetune.
TRAINED_KINDS = ("circle", "square", "triangle", "diamond", "cross")
TRAINED_COLORS = ("red", "green", "blue", "yellow", "purple", "orange")
HELD_OUT_KINDS = ("star", "ring", "hexagon")
HELD_OUT_COLORS = ("pink", "teal", "brown")

RGB = {
    "red": (218, 34, 40),
    "green": (44, 160, 54),
    "blue": (36, 82, 220),
    "yellow": (246, 222, 40),
    "purple": (136, 44, 176),
    "orange": (246, 132, 24),
    "pink": (250, 136, 196),
    "teal": (16, 158, 158),
    "brown": (128, 76, 38),
}

# The longer side of a shape as a share of the picture's smaller side, with gaps between the words.
SIZE_RANGES = {"small": (0.18, 0.24), "medium": (0.28, 0.34), "large": (0.38, 0.45)}

SUPERSAMPLING = 4  # masks are drawn this many times larger and averaged down, for smooth edges
MIN_GAP_PX = 1  # free pixels between the boxes of two shapes
COLOR_JITTER = 12  # of 255, per channel

Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One shape, for example a small red circle.

    Attributes:
        box: (x_min, y_min, x_max, y_max) as shares of the picture's width and height, tight to the
            drawn pixels.
        side: The longer side of the box in pixels, divided by the smaller side of the picture.
        size: "small", "medium" or "large".
    """

    kind: str
    color: str
    size: str
    side: float
    box: Box

    @property
    def center(self) -> tuple[float, float]:
        """The middle of the box, as shares of the picture's width and height."""
        x_min, y_min, x_max, y_max = self.box
        return (x_min + x_max) / 2, (y_min + y_max) / 2

    @property
    def name(self) -> str:
        """Colour and kind, such as "red circle"."""
        return f"{self.color} {self.kind}"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture and what is in it, sorted by centre: left to right, downwards for ties."""

    image: Image.Image
    shapes: list[Shape]


def draw_scene(
    seed_or_rng: int | random.Random,
    *,
    size: tuple[int, int] = (84, 84),
    num_shapes: tuple[int, int] = (1, 3),
    kinds: Sequence[str] = TRAINED_KINDS,
    colors: Sequence[str] = TRAINED_COLORS,
    sizes: Sequence[str] = ("small", "medium", "large"),
    repeat: float = 0.3,
) -> Scene:
    """Draw one scene; the same seed and arguments give the same pixels.

    Args:
        seed_or_rng: A seed, or a generator to draw from (which is advanced).
        size: Width and height in pixels.
        num_shapes: Least and greatest number of shapes, both included. More than about 8 seldom
            fit.
        kinds: Kinds to choose from; all names are in TRAINED_KINDS and HELD_OUT_KINDS.
        colors: Colours to choose from; the keys of RGB.
        sizes: Sizes to choose from; the keys of SIZE_RANGES.
        repeat: Chance that a shape takes the kind of an earlier one, and likewise its colour, so
            that "both circles" and "the other red one" turn up often enough.

    Raises:
        ValueError: The shapes do not fit into the picture.
    """
    rng = random.Random(seed_or_rng) if isinstance(seed_or_rng, int) else seed_or_rng
    width, height = size
    boxes_px, size_names = _place(rng, size, rng.randint(*num_shapes), sizes)
    image = _background(rng, size)
    shapes: list[Shape] = []
    for box_px, size_name in zip(boxes_px, size_names, strict=True):
        kind = rng.choice(shapes).kind if shapes and rng.random() < repeat else rng.choice(kinds)
        color = rng.choice(shapes).color if shapes and rng.random() < repeat else rng.choice(colors)
        left, top, side_px = box_px
        mask = shape_mask(kind, side_px)
        top += rng.randint(
            0, side_px - mask.height
        )  # a hexagon is lower than the square kept free for it
        fill = tuple(
            _clamp(value + rng.randint(-COLOR_JITTER, COLOR_JITTER)) for value in RGB[color]
        )
        image.paste(fill, (left, top), mask)
        box = (
            left / width,
            top / height,
            (left + mask.width) / width,
            (top + mask.height) / height,
        )
        side = side_px / min(size)
        shapes.append(Shape(kind=kind, color=color, size=size_name, side=side, box=box))
    shapes.sort(key=lambda shape: shape.center)
    return Scene(image=_add_noise(rng, image), shapes=shapes)


@lru_cache(maxsize=1024)
def shape_mask(kind: str, side_px: int) -> Image.Image:
    """The coverage (0-255) of a shape with longer side `side_px`, cut tight to the shape."""
    scale = SUPERSAMPLING
    height_px = round(side_px * 0.88) if kind == "hexagon" else side_px
    w, h = side_px * scale, height_px * scale
    mask = Image.new("L", (w, h), 0)
    draw = ImageDraw.Draw(mask)
    full = (0, 0, w - 1, h - 1)
    if kind == "circle":
        draw.ellipse(full, fill=255)
    elif kind == "square":
        draw.rectangle(full, fill=255)
    elif kind == "ring":
        draw.ellipse(full, fill=255)
        rim = round(0.24 * w)
        draw.ellipse((rim, rim, w - 1 - rim, h - 1 - rim), fill=0)
    elif kind == "cross":
        arm = round(0.33 * w)
        draw.rectangle((arm, 0, w - 1 - arm, h - 1), fill=255)
        draw.rectangle((0, arm, w - 1, h - 1 - arm), fill=255)
    else:
        draw.polygon([(x * (w - 1), y * (h - 1)) for x, y in _outline(kind)], fill=255)
    return mask.reduce(scale)


def _outline(kind: str) -> list[tuple[float, float]]:
    """Corners of a polygon that fills the unit square."""
    if kind == "triangle":
        return [(0.5, 0), (1, 1), (0, 1)]
    if kind == "diamond":
        return [(0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)]
    if kind == "hexagon":
        return [(0.25, 0), (0.75, 0), (1, 0.5), (0.75, 1), (0.25, 1), (0, 0.5)]
    if kind == "star":
        corners = []
        for corner in range(10):
            angle = math.pi * corner / 5
            radius = 1.0 if corner % 2 == 0 else 0.42
            corners.append((radius * math.sin(angle), -radius * math.cos(angle)))
        xs, ys = zip(*corners, strict=True)
        return [
            ((x - min(xs)) / (max(xs) - min(xs)), (y - min(ys)) / (max(ys) - min(ys)))
            for x, y in corners
        ]
    raise ValueError(
        f"unknown kind {kind!r}; known are {', '.join(TRAINED_KINDS + HELD_OUT_KINDS)}"
    )


def _place(
    rng: random.Random, size: tuple[int, int], count: int, sizes: Sequence[str]
) -> tuple[list[tuple[int, int, int]], list[str]]:
    """Squares (left, top, side) in pixels, MIN_GAP_PX or more apart, and their size names."""
    width, height = size
    for attempt in range(60):
        # When a scene is too full for its sizes, later attempts draw every shape in the smallest
        # one allowed.
        allowed = sizes if attempt < 30 else [min(sizes, key=lambda name: SIZE_RANGES[name])]
        placed: list[tuple[int, int, int]] = []
        names: list[str] = []
        for _ in range(count):
            name = rng.choice(allowed)
            low, high = SIZE_RANGES[name]
            side = round(rng.uniform(low, high) * min(size))
            for _ in range(20):
                spot = (rng.randint(0, width - side), rng.randint(0, height - side), side)
                if not any(_too_close(spot, other) for other in placed):
                    placed.append(spot)
                    names.append(name)
                    break
            else:
                break
        if len(placed) == count:
            return placed, names
    raise ValueError(f"{count} shapes do not fit into {width} x {height} pixels; ask for fewer")


def _too_close(a: tuple[int, int, int], b: tuple[int, int, int]) -> bool:
    return all(
        a[axis] < b[axis] + b[2] + MIN_GAP_PX and b[axis] < a[axis] + a[2] + MIN_GAP_PX
        for axis in (0, 1)
    )


def _background(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """Light, grey or dark, with little colour; half of them with soft patches of a second tone.

    The ranges keep every colour in RGB at least 40 of 255 away in one channel: brown all but
    vanishes on a darker grey.
    """
    low, high = rng.choice(((205, 250), (205, 250), (125, 160), (8, 50)))
    level = rng.randint(low, high)
    tone = tuple(_clamp(level + rng.randint(-6, 6)) for _ in range(3))
    image = Image.new("RGB", size, tone)
    if rng.random() < 0.5:
        change = rng.choice((-1, 1)) * rng.randint(6, 16)
        columns, rows = rng.randint(2, 6), rng.randint(2, 6)
        patches = Image.frombytes("L", (columns, rows), rng.randbytes(columns * rows))
        second = tuple(_clamp(value + change) for value in tone)
        image.paste(second, (0, 0), patches.resize(size, Image.Resampling.BILINEAR))
    return image


def _add_noise(rng: random.Random, image: Image.Image) -> Image.Image:
    """Change every byte a little at random; how much differs from picture to picture."""
    strength = rng.randint(0, 6)
    table = bytes(value % (2 * strength + 1) for value in range(256))
    noise = rng.randbytes(3 * image.width * image.height).translate(table)
    return ImageChops.add(image, Image.frombytes("RGB", image.size, noise), 1, -strength)


def _clamp(value: int) -> int:
    return max(0, min(255, value))


def contact_sheet(
    scenes: Sequence[Scene], *, columns: int = 6, zoom: int = 2, boxes: bool = True
) -> Image.Image:
    """The pictures in a grid, enlarged, with their boxes outlined."""
    cell_w = max(scene.image.width for scene in scenes) * zoom + 6
    cell_h = max(scene.image.height for scene in scenes) * zoom + 6
    rows = -(-len(scenes) // columns)
    sheet = Image.new("RGB", (columns * cell_w, rows * cell_h), "white")
    for index, scene in enumerate(scenes):
        width, height = scene.image.width * zoom, scene.image.height * zoom
        picture = scene.image.resize((width, height), Image.Resampling.NEAREST)
        draw = ImageDraw.Draw(picture)
        for shape in scene.shapes if boxes else ():
            x_min, y_min, x_max, y_max = shape.box
            corners = (x_min * width, y_min * height, x_max * width - 1, y_max * height - 1)
            draw.rectangle(corners, outline=(128, 128, 128))
        sheet.paste(picture, (index % columns * cell_w + 3, index // columns * cell_h + 3))
    return sheet


def main() -> None:
    """Save a sheet of 24 scenes: half as the tiny model was trained on, half held out."""
    trained = [draw_scene(seed) for seed in range(12)]
    held_out = [
        draw_scene(seed, kinds=HELD_OUT_KINDS, colors=HELD_OUT_COLORS) for seed in range(12)
    ]
    contact_sheet(trained + held_out).save(sys.argv[1] if len(sys.argv) > 1 else "shapes.png")


if __name__ == "__main__":
    main()
