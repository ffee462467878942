"""Words for shapes: phrases that mean some of a scene's shapes, places, and captions."""

from __future__ import annotations

import random
from dataclasses import dataclass

from examples.shapes import TRAINED_COLORS, TRAINED_KINDS, Scene, Shape


@dataclass(frozen=True, kw_only=True)
class Description:
    """Which shapes a phrase means: all that agree with every word given."""

    color: str | None = None
    kind: str | None = None
    size: str | None = None

    def matches(self, shape: Shape) -> bool:
        return (
            self.color in (None, shape.color)
            and self.kind in (None, shape.kind)
            and self.size in (None, shape.size)
        )

    def phrase(self, *, plural: bool = False) -> str:
        noun = self.kind or "shape"
        if plural:
            noun += "es" if noun.endswith("s") else "s"
        return " ".join(word for word in (self.size, self.color, noun) if word)


def absent(scene: Scene, rng: random.Random, near: Description) -> Description:
    """Change words until nothing matches: mostly one word, so that only a close look tells.

    A description that cannot be made absent this way (three sizes, all present) becomes colour and
    kind.
    """
    for attempt in range(24):
        is_near = attempt < 12 and rng.random() < 0.7
        words = {"color": near.color, "kind": near.kind, "size": near.size}
        given = [name for name, word in words.items() if word]
        for name in [rng.choice(given)] if is_near else given:
            words[name] = rng.choice(
                {
                    "color": TRAINED_COLORS,
                    "kind": TRAINED_KINDS,
                    "size": ("small", "medium", "large"),
                }[name]
            )
        changed = Description(**words)
        if not any(changed.matches(shape) for shape in scene.shapes):
            return changed
    present = {(shape.color, shape.kind) for shape in scene.shapes}
    pairs = [(c, k) for c in TRAINED_COLORS for k in TRAINED_KINDS if (c, k) not in present]
    color, kind = rng.choice(pairs)
    return Description(color=color, kind=kind)


def caption_of(scene: Scene, length: str) -> str:
    """Names every shape; "normal" adds the sizes, "long" the sizes and the positions."""
    phrases = []
    for shape in scene.shapes:
        phrase = shape.name if length == "short" else f"{shape.size} {shape.name}"
        article = "an" if phrase.startswith("o") else "a"
        where = f" at the {position_of(shape)}" if length == "long" else ""
        phrases.append(f"{article} {phrase}{where}")
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def position_of(shape: Shape) -> str:
    """By thirds, one of nine: "top left", "top", "top right", "left", "center", ..."""
    x, y = shape.center
    words = [("top", "", "bottom")[_third(y)], ("left", "", "right")[_third(x)]]
    return " ".join(word for word in words if word) or "center"


def _third(value: float) -> int:
    return min(int(value * 3), 2)
