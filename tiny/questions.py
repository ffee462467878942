"""Questions about a scene, with their answers: one function a topic.

A topic takes the scene and returns a question, or None where the scene does not allow an
unambiguous one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from examples.shapes import TRAINED_COLORS, TRAINED_KINDS, Scene, Shape
from tiny.descriptions import Description, absent, position_of
from tiny.tasks import Chunk, QueryTask

REASONING_SHARE = 0.08
YES_SHARE = 0.5

# What the eye can tell apart; closer calls are not asked about.
MIN_OFFSET = 0.1  # between two centres, before one is called left of the other
MIN_SIDE_RATIO = 1.2  # before one shape is called larger than another
MIN_THIRD_MARGIN = 0.03  # between a centre and the border of a third of the picture


def make_query(scene: Scene, rng: random.Random) -> QueryTask:
    """Draw a topic that fits the scene; a question about the number of shapes always does."""
    with_reasoning = rng.random() < REASONING_SHARE
    topics = REASONING_TOPICS if with_reasoning else TOPICS
    while True:
        topic = rng.choices(list(topics), weights=list(topics.values()))[0]
        task = topic(scene, rng)
        if task is not None:
            break
    return QueryTask(
        question=_as_typed(task.question, rng),
        answer=task.answer,
        reasoning=task.reasoning if with_reasoning else None,
        spatial_refs=task.spatial_refs,
        topic=topic.__name__.removeprefix("_ask_"),
    )


def _as_typed(question: str, rng: random.Random) -> str:
    """As people type: some begin with a capital, some leave out the question mark."""
    if rng.random() < 0.4:
        question = question[0].upper() + question[1:]
    return question[:-1] if rng.random() < 0.15 else question


def _ask_color(scene: Scene, rng: random.Random) -> QueryTask | None:
    shape = _unique(scene, rng, lambda shape: shape.kind)
    if shape is None:
        return None
    forms = (
        "what color is the {}?",
        "what is the color of the {}?",
        "which color is the {}?",
        "the {} is what color?",
    )
    return QueryTask(question=rng.choice(forms).format(shape.kind), answer=shape.color)


def _ask_kind(scene: Scene, rng: random.Random) -> QueryTask | None:
    shape = _unique(scene, rng, lambda shape: shape.color)
    if shape is None:
        return None
    forms = (
        "what shape is {}?",
        "which shape is {}?",
        "what is the {} shape?",
        "what kind of shape is {}?",
    )
    return QueryTask(question=rng.choice(forms).format(shape.color), answer=shape.kind)


def _ask_count(scene: Scene, rng: random.Random) -> QueryTask:
    form = rng.choice(("any", "kind", "kind", "color", "color"))
    target = rng.choice(scene.shapes)
    is_absent = rng.random() < 0.25
    kind = rng.choice(TRAINED_KINDS) if is_absent else target.kind
    color = rng.choice(TRAINED_COLORS) if is_absent else target.color
    wanted = Description(
        kind=kind if form == "kind" else None, color=color if form == "color" else None
    )
    forms = (
        "how many {} are there?",
        "how many {} do you see?",
        "how many {} are in the picture?",
        "what is the number of {}?",
    )
    found = [shape for shape in scene.shapes if wanted.matches(shape)]
    return QueryTask(
        question=rng.choice(forms).format(wanted.phrase(plural=True)),
        answer=str(len(found)),
        reasoning=tuple(_chunk(shape) for shape in found) or (Chunk(text="none"),),
    )


def _ask_presence(scene: Scene, rng: random.Random) -> QueryTask:
    target = rng.choice(scene.shapes)
    form = rng.choices(("both", "kind", "color"), weights=(0.7, 0.15, 0.15))[0]
    wanted = Description(
        color=None if form == "kind" else target.color,
        kind=None if form == "color" else target.kind,
    )
    is_yes = rng.random() < YES_SHARE
    if not is_yes:
        wanted = absent(scene, rng, wanted)
    phrase = wanted.phrase()
    phrase = f"{'an' if phrase.startswith('o') else 'a'} {phrase}"
    forms = ("is there {}?", "is there {} in the picture?", "do you see {}?", "can you see {}?")
    found = tuple(_chunk(shape) for shape in scene.shapes if wanted.matches(shape))
    return QueryTask(
        question=rng.choice(forms).format(phrase),
        answer="yes" if is_yes else "no",
        reasoning=found or (Chunk(text="none"),),
    )


def _ask_left_of(scene: Scene, rng: random.Random) -> QueryTask | None:
    return _ask_relation(scene, rng, axis=0, words=("left of", "right of"))


def _ask_above(scene: Scene, rng: random.Random) -> QueryTask | None:
    return _ask_relation(scene, rng, axis=1, words=("above", "below"))


def _ask_relation(
    scene: Scene, rng: random.Random, *, axis: int, words: tuple[str, str]
) -> QueryTask | None:
    """Yes and no are equally likely, because the pair is in random order."""
    named = _named_once(scene)
    if len(named) < 2:
        return None
    a, b = rng.sample(named, 2)
    if abs(a.center[axis] - b.center[axis]) < MIN_OFFSET:
        return None
    word = rng.choices(words, weights=(0.7, 0.3))[0]
    is_before = a.center[axis] < b.center[axis]
    forms = ("is the {} {} the {}?", "is the {} {} the {}?", "the {} is {} the {}?")
    return QueryTask(
        question=rng.choice(forms).format(_call(scene, a, rng), word, _call(scene, b, rng)),
        answer="yes" if is_before == (word == words[0]) else "no",
        reasoning=(_chunk(a), _chunk(b)),
    )


def _ask_extreme(scene: Scene, rng: random.Random) -> QueryTask | None:
    """Which shape is the largest or smallest, where it clearly is."""
    if len(scene.shapes) < 2:
        return None
    by_side = sorted(scene.shapes, key=lambda shape: shape.side)
    if rng.random() < 0.5:
        shape, ratio = by_side[-1], by_side[-1].side / by_side[-2].side
        word = rng.choice(("largest", "biggest"))
    else:
        shape, ratio = by_side[0], by_side[1].side / by_side[0].side
        word = "smallest"
    if ratio < MIN_SIDE_RATIO:
        return None
    forms = ("which shape is the {}?", "what is the {} shape?", "which shape is {}?")
    return QueryTask(
        question=rng.choice(forms).format(word), answer=shape.name, reasoning=(_chunk(shape),)
    )


def _ask_where(scene: Scene, rng: random.Random) -> QueryTask | None:
    named = [shape for shape in _named_once(scene) if _is_clearly_placed(shape)]
    if not named:
        return None
    shape = rng.choice(named)
    forms = ("where is the {}?", "where is the {} in the picture?", "in which part is the {}?")
    return QueryTask(
        question=rng.choice(forms).format(_call(scene, shape, rng)),
        answer=position_of(shape),
        reasoning=(_chunk(shape),),
    )


def _ask_size(scene: Scene, rng: random.Random) -> QueryTask | None:
    named = _named_once(scene)
    if not named:
        return None
    shape = rng.choice(named)
    forms = ("how large is the {}?", "what size is the {}?", "how big is the {}?")
    return QueryTask(question=rng.choice(forms).format(_call(scene, shape, rng)), answer=shape.size)


def _ask_referred(scene: Scene, rng: random.Random) -> QueryTask:
    """About "this", which a point on the shape or its box shows."""
    shape = rng.choice(scene.shapes)
    x_min, y_min, x_max, y_max = shape.box
    x, y = shape.center
    if rng.random() < 0.5:
        reference: tuple[float, ...] = shape.box
    else:
        reference = (
            x + rng.uniform(-0.15, 0.15) * (x_max - x_min),
            y + rng.uniform(-0.15, 0.15) * (y_max - y_min),
        )
    questions = {
        "what color is this?": shape.color,
        "which color is this?": shape.color,
        "what shape is this?": shape.kind,
        "what kind of shape is this?": shape.kind,
        "what is this?": shape.name,
        "what is here?": shape.name,
    }
    question = rng.choice(list(questions))
    return QueryTask(question=question, answer=questions[question], spatial_refs=(reference,))


TOPICS: Mapping[Callable[[Scene, random.Random], QueryTask | None], float] = {
    _ask_color: 0.14,
    _ask_kind: 0.12,
    _ask_count: 0.17,
    _ask_presence: 0.16,
    _ask_left_of: 0.08,
    _ask_above: 0.08,
    _ask_extreme: 0.06,
    _ask_where: 0.09,
    _ask_size: 0.04,
    _ask_referred: 0.12,
}
REASONING_TOPICS: Mapping[Callable[[Scene, random.Random], QueryTask | None], float] = {
    _ask_count: 0.5,
    _ask_presence: 0.15,
    _ask_left_of: 0.1,
    _ask_above: 0.1,
    _ask_extreme: 0.1,
    _ask_where: 0.1,
}


def _chunk(shape: Shape) -> Chunk:
    return Chunk(text=shape.name, points=(shape.center,))


def _unique(scene: Scene, rng: random.Random, key: Callable[[Shape], str]) -> Shape | None:
    """A shape that shares its key with no other, or None."""
    keys = [key(shape) for shape in scene.shapes]
    alone = [shape for shape in scene.shapes if keys.count(key(shape)) == 1]
    return rng.choice(alone) if alone else None


def _named_once(scene: Scene) -> list[Shape]:
    """The shapes whose colour and kind together mean one shape only."""
    names = [shape.name for shape in scene.shapes]
    return [shape for shape in scene.shapes if names.count(shape.name) == 1]


def _call(scene: Scene, shape: Shape, rng: random.Random) -> str:
    """A phrase that means this shape only: "red circle", or just "circle" or "red shape"."""
    names = [shape.name, shape.name]
    if sum(other.kind == shape.kind for other in scene.shapes) == 1:
        names.append(shape.kind)
    if sum(other.color == shape.color for other in scene.shapes) == 1:
        names.append(f"{shape.color} shape")
    return rng.choice(names)


def _is_clearly_placed(shape: Shape) -> bool:
    return all(
        abs(value - border) >= MIN_THIRD_MARGIN
        for value in shape.center
        for border in (1 / 3, 2 / 3)
    )
