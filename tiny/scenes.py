"""Pretraining examples for the tiny Moondream: a drawn scene and tasks about it, all from one seed.

A task holds the text and the coordinates of one prompt and its answer, not their token ids. Answers
are lower case, without a leading space or a full stop, exactly as the model should write them.
Boxes and points are in the order of the scene: left to right by centre, downwards for ties.

Training seeds lie in 0 .. 2**40 - 1; the held-out set uses 2**41 + index, so that no evaluation
scene was ever trained on. The held-out kinds and colours of `examples.shapes` never occur here,
neither drawn nor as words.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from examples.shapes import TRAINED_COLORS, TRAINED_KINDS, Box, Scene, Shape, draw_scene

NUM_TRAINING_SEEDS = 2**40
FIRST_HELD_OUT_SEED = 2**41

DEFAULT_WEIGHTS: Mapping[str, float] = {
    "detect": 0.27,
    "point": 0.15,
    "query": 0.48,
    "caption": 0.10,
}
CAPTION_LENGTHS = ("short", "normal", "long")
REASONING_SHARE = 0.08  # of the queries
EMPTY_SHARE = 0.2  # of the point and detect tasks: nothing in the picture matches
YES_SHARE = 0.5

PLAIN_SIZE = (84, 84)
# With crops of 84 px, patches of 7, a margin of 2 patches and at most 4 tiles, these are cut into
# 1 x 1 (another aspect), 2 x 2, 1 x 2 and 2 x 1 rows and columns of tiles.
OTHER_SIZES = ((112, 84), (120, 120), (168, 112), (112, 168))
OTHER_SIZE_SHARE = 0.2

# What the eye can tell apart; closer calls are not asked about.
MIN_OFFSET = 0.1  # between two centres, before one is called left of the other
MIN_SIDE_RATIO = 1.2  # before one shape is called larger than another
MIN_THIRD_MARGIN = 0.03  # between a centre and the border of a third of the picture

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A phrase of a reasoning and its points, for example "red circle" and its centre."""

    text: str
    points: tuple[Point, ...] = ()


@dataclass(frozen=True, kw_only=True)
class QueryTask:
    """A question and its answer; `reasoning` is None where the model is asked to answer at once.

    Spatial references are points (x, y) or boxes (x_min, y_min, x_max, y_max).
    """

    question: str
    answer: str
    reasoning: tuple[Chunk, ...] | None = None
    spatial_refs: tuple[tuple[float, ...], ...] = ()
    topic: str = ""  # which question it is, for breakdowns in an evaluation
    skill = "query"


@dataclass(frozen=True, kw_only=True)
class CaptionTask:
    length: str
    caption: str
    skill = "caption"


@dataclass(frozen=True, kw_only=True)
class PointTask:
    object: str
    points: tuple[Point, ...]
    skill = "point"


@dataclass(frozen=True, kw_only=True)
class DetectTask:
    object: str
    boxes: tuple[Box, ...]
    skill = "detect"


Task = QueryTask | CaptionTask | PointTask | DetectTask


@dataclass(frozen=True, kw_only=True)
class Example:
    """One picture with its tasks."""

    seed: int
    scene: Scene
    tasks: list[Task]


def training_example(
    seed: int,
    *,
    num_tasks: int = 6,
    num_shapes: tuple[int, int] = (1, 3),
    weights: Mapping[str, float] = DEFAULT_WEIGHTS,
    other_size_share: float = OTHER_SIZE_SHARE,
) -> Example:
    """Make the example of a training seed.

    Args:
        seed: 0 .. NUM_TRAINING_SEEDS - 1.
        num_shapes: Least and greatest number of shapes; 1-3 is the plain curriculum, up to 8 fit.
        weights: How often each skill is drawn, in any scale; a skill left out is never drawn.
        other_size_share: Share of pictures that are not PLAIN_SIZE.

    Raises:
        ValueError: The seed is not a training seed.
    """
    if not 0 <= seed < NUM_TRAINING_SEEDS:
        raise ValueError(f"training seeds are 0 .. 2**40 - 1, got {seed}")
    return _example(seed, num_tasks, num_shapes, weights, other_size_share)


def heldout_example(
    index: int,
    *,
    num_tasks: int = 6,
    num_shapes: tuple[int, int] = (1, 3),
    weights: Mapping[str, float] = DEFAULT_WEIGHTS,
    other_size_share: float = OTHER_SIZE_SHARE,
) -> Example:
    """Make number `index` of the evaluation set: alike in distribution, but never trained on."""
    if not 0 <= index < NUM_TRAINING_SEEDS:
        raise ValueError(f"held-out indexes are 0 .. 2**40 - 1, got {index}")
    return _example(FIRST_HELD_OUT_SEED + index, num_tasks, num_shapes, weights, other_size_share)


def heldout_scene(
    index: int, *, num_shapes: tuple[int, int] = (1, 3), other_size_share: float = OTHER_SIZE_SHARE
) -> Scene:
    """The picture of `heldout_example(index)` without its tasks."""
    return heldout_example(
        index, num_tasks=0, num_shapes=num_shapes, other_size_share=other_size_share
    ).scene


def _example(
    seed: int,
    num_tasks: int,
    num_shapes: tuple[int, int],
    weights: Mapping[str, float],
    other_size_share: float,
) -> Example:
    rng = random.Random(seed)
    size = rng.choice(OTHER_SIZES) if rng.random() < other_size_share else PLAIN_SIZE
    scene = draw_scene(rng, size=size, num_shapes=num_shapes)
    return Example(seed=seed, scene=scene, tasks=make_tasks(scene, rng, num_tasks, weights=weights))


def make_tasks(
    scene: Scene,
    rng: random.Random,
    num_tasks: int = 6,
    *,
    weights: Mapping[str, float] = DEFAULT_WEIGHTS,
) -> list[Task]:
    """Draw tasks about a scene, without repeats as far as there is enough to ask about."""
    makers: dict[str, Callable[[Scene, random.Random], Task]] = {
        "detect": make_detect,
        "point": make_point,
        "query": make_query,
        "caption": make_caption,
    }
    tasks: list[Task] = []
    for _ in range(num_tasks):
        skill = rng.choices(list(weights), weights=list(weights.values()))[0]
        task = makers[skill](scene, rng)
        for _ in range(3):
            if task not in tasks:
                break
            task = makers[skill](scene, rng)
        tasks.append(task)
    return tasks


# --- captions ---


def make_caption(scene: Scene, rng: random.Random) -> CaptionTask:
    length = rng.choice(CAPTION_LENGTHS)
    return CaptionTask(length=length, caption=caption_of(scene, length))


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


# --- point and detect ---


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


def make_detect(scene: Scene, rng: random.Random) -> DetectTask:
    phrase, found = _object(scene, rng)
    return DetectTask(object=phrase, boxes=tuple(shape.box for shape in found))


def make_point(scene: Scene, rng: random.Random) -> PointTask:
    phrase, found = _object(scene, rng)
    return PointTask(object=phrase, points=tuple(shape.center for shape in found))


def _object(scene: Scene, rng: random.Random) -> tuple[str, list[Shape]]:
    """A phrase, and the shapes of the scene that it means."""
    form = rng.choices(
        ("color kind", "kind", "color", "any", "size", "size kind"),
        weights=(0.45, 0.2, 0.13, 0.1, 0.06, 0.06),
    )[0]
    is_empty = rng.random() < EMPTY_SHARE
    if is_empty and form == "any":
        form = "color kind"
    target = rng.choice(scene.shapes)
    wanted = Description(
        color=target.color if "color" in form else None,
        kind=target.kind if "kind" in form else None,
        size=target.size if "size" in form else None,
    )
    if is_empty:
        wanted = _absent(scene, rng, wanted)
    found = [shape for shape in scene.shapes if wanted.matches(shape)]
    return wanted.phrase(plural=rng.random() < 0.35), found


def _absent(scene: Scene, rng: random.Random, near: Description) -> Description:
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


# --- queries ---
# A topic takes the scene and returns a question, or None where the scene does not allow an
# unambiguous one.


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
        wanted = _absent(scene, rng, wanted)
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


def texts_of(task: Task) -> Sequence[str]:
    """Every text of a task as the tokenizer gets it, which is what its corpus is made of."""
    match task:
        case QueryTask():
            return [task.question, task.answer, *(chunk.text for chunk in task.reasoning or ())]
        case CaptionTask():
            return [task.caption]
        case PointTask() | DetectTask():
            return [" " + task.object]
