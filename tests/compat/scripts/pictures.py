"""Generated pictures in place of public data sets; every one follows from its number."""

from __future__ import annotations

import random

from PIL import Image, ImageDraw

from examples.shapes import draw_scene

Box = dict[str, float]

CORNERS = ("x_min", "y_min", "x_max", "y_max")
SHAPES = ("circle", "square", "triangle")
COUNTRIES = {
    "france": ("blue", "white", "red"),
    "italy": ("green", "white", "red"),
    "belgium": ("black", "yellow", "red"),
    "romania": ("blue", "yellow", "red"),
    "ireland": ("green", "white", "orange"),
    "mali": ("green", "yellow", "red"),
}
ACTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


def photo(number: int) -> tuple[Image.Image, str]:
    """One shape, and which of three it is."""
    scene = draw_scene(number, num_shapes=(1, 1), kinds=SHAPES)
    return scene.image, scene.shapes[0].kind


def scan(number: int, side: int = 56) -> tuple[Image.Image, str]:
    """A grey disc with or without a bright spot, and "yes" or "no"."""
    chance = random.Random(number)
    image = Image.new("RGB", (side, side), "black")
    pen = ImageDraw.Draw(image)
    grey = chance.randint(70, 110)
    pen.ellipse((4, 4, side - 5, side - 5), fill=(grey, grey, grey))
    if has_spot := number % 2 == 0:
        x, y = (chance.randint(side // 4, side // 2) for _ in range(2))
        pen.ellipse((x, y, x + side // 6, y + side // 6), fill=(240, 240, 240))
    return image, "yes" if has_spot else "no"


def flag(number: int) -> tuple[Image.Image, str]:
    """Three upright bands, and the country."""
    country = sorted(COUNTRIES)[number % len(COUNTRIES)]
    image = Image.new("RGB", (60, 40))
    pen = ImageDraw.Draw(image)
    for band, color in enumerate(COUNTRIES[country]):
        pen.rectangle((20 * band, 0, 20 * band + 19, 39), fill=color)
    image.putpixel((number % 60, number // 60 % 40), (1, 2, 3))  # no two alike
    return image, country


def frame_grid(number: int, side: int = 84, noise: bool = False) -> tuple[Image.Image, str]:
    """Nine frames, three by three, of a dot that moves, and which way; `noise` compresses badly."""
    action = sorted(ACTIONS)[number % len(ACTIONS)]
    dx, dy = ACTIONS[action]
    if noise:
        data = random.Random(number).randbytes(side * side * 3)
        image = Image.frombytes("RGB", (side, side), data)
    else:
        image = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(image)
    frame = side // 3
    shift = random.Random(number).randint(-1, 1)
    for index in range(9):
        left, top = frame * (index % 3), frame * (index // 3)
        pen.rectangle((left, top, left + frame - 1, top + frame - 1), outline="black")
        x = left + frame // 2 + dx * (index - 4) * frame // 12 + shift
        y = top + frame // 2 + dy * (index - 4) * frame // 12 + shift
        pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill="red")
    return image, action


def boxed(
    number: int, num_shapes: tuple[int, int] = (1, 3), empty_every: int = 0
) -> tuple[Image.Image, list[Box]]:
    """Shapes and their boxes; with `empty_every` = n each n-th picture has none."""
    if empty_every and number % empty_every == 0:
        return Image.new("RGB", (84, 84), (90, 120, number % 256)), []
    scene = draw_scene(number, num_shapes=num_shapes)
    return scene.image, [dict(zip(CORNERS, s.box, strict=True)) for s in scene.shapes]


def speck(number: int) -> tuple[Image.Image, str]:
    """A tiny picture in one of 512 colours, and the name of its strongest channel."""
    color = tuple(random.Random(number).choices(range(10, 250, 30), k=3))
    channel = max(range(3), key=color.__getitem__)
    return Image.new("RGB", (16, 16), color), ("red", "green", "blue")[channel]
