"""The training examples: every answer is true, worked out again here from the words alone."""

import re
from collections import Counter

import pytest

from examples.shapes import HELD_OUT_COLORS, HELD_OUT_KINDS, TRAINED_COLORS, TRAINED_KINDS
from tiny.scenes import (
    FIRST_HELD_OUT_SEED,
    NUM_TRAINING_SEEDS,
    heldout_example,
    heldout_scene,
    training_example,
)
from tiny.tasks import CaptionTask, DetectTask, PointTask, QueryTask, texts_of

NUM_EXAMPLES = 3000
SIZES = ("small", "medium", "large")
HELD_OUT_WORDS = re.compile("|".join(HELD_OUT_KINDS + HELD_OUT_COLORS))


@pytest.fixture(scope="module")
def examples():
    return [training_example(seed, num_shapes=(1, 5)) for seed in range(NUM_EXAMPLES)]


def queries(examples):
    return [(e.scene, task) for e in examples for task in e.tasks if isinstance(task, QueryTask)]


def singular(word):
    for kind in (*TRAINED_KINDS, "shape"):
        if word in (kind, kind + "s", kind + "es"):
            return kind
    return word


def meant(scene, phrase):
    """The shapes a phrase such as "large red circles" means."""
    shapes = list(scene.shapes)
    for word in map(singular, phrase.split()):
        if word in TRAINED_COLORS:
            shapes = [s for s in shapes if s.color == word]
        elif word in TRAINED_KINDS:
            shapes = [s for s in shapes if s.kind == word]
        elif word in SIZES:
            shapes = [s for s in shapes if s.size == word]
        else:
            assert word == "shape", phrase
    return shapes


def expected_answer(scene, task):
    """Answer a question by reading it; independent of how it was made."""
    q = task.question.lower().removesuffix("?")
    if task.spatial_refs:
        ((*ref,),) = task.spatial_refs
        x, y = ref if len(ref) == 2 else ((ref[0] + ref[2]) / 2, (ref[1] + ref[3]) / 2)
        (shape,) = [s for s in scene.shapes if s.box[0] < x < s.box[2] and s.box[1] < y < s.box[3]]
        return (
            shape.color
            if "color" in q
            else shape.kind
            if "shape" in q
            else f"{shape.color} {shape.kind}"
        )
    if match := re.fullmatch(
        r"(?:is the|the) (.+?)(?: is)? (left of|right of|above|below) the (.+)", q
    ):
        first, word, second = match.groups()
        ((a,), (b,)) = meant(scene, first), meant(scene, second)
        middle = [((s.box[0] + s.box[2]) / 2, (s.box[1] + s.box[3]) / 2) for s in (a, b)]
        (ax, ay), (bx, by) = middle
        holds = {"left of": ax < bx, "right of": ax > bx, "above": ay < by, "below": ay > by}[word]
        return "yes" if holds else "no"
    if match := re.search(
        r"(?:how many|number of) (.+?)(?: are there| do you see| are in the picture)?$", q
    ):
        return str(len(meant(scene, match[1])))
    if match := re.fullmatch(
        r"(?:is there|do you see|can you see) an? (.+?)(?: in the picture)?", q
    ):
        return "yes" if meant(scene, match[1]) else "no"
    if match := re.search(r"(largest|biggest|smallest)", q):
        area = {id(s): (s.box[2] - s.box[0]) * (s.box[3] - s.box[1]) for s in scene.shapes}
        pick = min if match[1] == "smallest" else max
        shape = pick(scene.shapes, key=lambda s: area[id(s)])
        return f"{shape.color} {shape.kind}"
    if match := re.fullmatch(r"(?:where is the|in which part is the) (.+?)(?: in the picture)?", q):
        (shape,) = meant(scene, match[1])
        x, y = (shape.box[0] + shape.box[2]) / 2, (shape.box[1] + shape.box[3]) / 2
        row = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else ""
        column = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
        return f"{row} {column}".strip() or "center"
    if match := re.fullmatch(r"(?:how large|what size|how big) is the (.+)", q):
        (shape,) = meant(scene, match[1])
        return shape.size
    if "color" in q:
        (word,) = [w for w in q.split() if w in TRAINED_KINDS]
        (shape,) = meant(scene, word)
        return shape.color
    (word,) = [w for w in q.split() if w in TRAINED_COLORS]
    (shape,) = meant(scene, word)
    return shape.kind


def test_the_same_seed_gives_the_same_example():
    first, again = training_example(11), training_example(11)
    assert first.tasks == again.tasks
    assert first.scene.image.tobytes() == again.scene.image.tobytes()


def test_answers_to_questions_are_true(examples):
    asked = queries(examples)
    assert len(asked) > 2000
    for scene, task in asked:
        assert task.answer == expected_answer(scene, task), task


def test_points_and_boxes_are_those_of_the_shapes_meant(examples):
    for example in examples:
        for task in example.tasks:
            if isinstance(task, DetectTask):
                assert task.boxes == tuple(s.box for s in meant(example.scene, task.object))
            elif isinstance(task, PointTask):
                centers = [
                    ((s.box[0] + s.box[2]) / 2, (s.box[1] + s.box[3]) / 2)
                    for s in meant(example.scene, task.object)
                ]
                assert list(task.points) == centers
                assert centers == sorted(centers)


def test_captions_name_the_shapes_in_order(examples):
    noun = re.compile(f"({'|'.join(TRAINED_COLORS)}) ({'|'.join(TRAINED_KINDS)})")
    lengths = Counter()
    for example in examples:
        for task in example.tasks:
            if isinstance(task, CaptionTask):
                lengths[task.length] += 1
                assert noun.findall(task.caption) == [
                    (s.color, s.kind) for s in example.scene.shapes
                ]
                num_sizes = sum(word in SIZES for word in task.caption.split())
                assert num_sizes == (0 if task.length == "short" else len(example.scene.shapes))
                assert (" at the " in task.caption) == (task.length == "long")
                assert not re.search(r"\ba o|\ban [^o]", task.caption)
    assert set(lengths) == {"short", "normal", "long"}


def test_reasoning_points_at_the_shapes_it_names(examples):
    reasoned = [(scene, task) for scene, task in queries(examples) if task.reasoning is not None]
    for scene, task in reasoned:
        for chunk in task.reasoning:
            centers = (
                {s.center for s in meant(scene, chunk.text)} if chunk.text != "none" else set()
            )
            assert set(chunk.points) <= centers
            assert bool(chunk.points) == bool(centers)
        if task.topic == "count":
            assert task.answer == str(sum(len(chunk.points) for chunk in task.reasoning))
    # 8 % of some 8,600 queries: a standard deviation is 0.3 %.
    assert 0.065 < len(reasoned) / len(queries(examples)) < 0.095


def test_no_held_out_word_or_shape_is_ever_trained_on(examples):
    for example in examples:
        for shape in example.scene.shapes:
            assert shape.kind in TRAINED_KINDS
            assert shape.color in TRAINED_COLORS
        for task in example.tasks:
            for text in texts_of(task):
                assert not HELD_OUT_WORDS.search(text), text


def test_answers_are_lower_case_without_surrounding_space(examples):
    for example in examples:
        for task in example.tasks:
            text = getattr(task, "answer", None) or getattr(task, "caption", None) or task.object
            assert text == text.strip().lower()


def test_the_mixture_is_as_weighted_and_balanced(examples):
    tasks = [task for example in examples for task in example.tasks]
    shares = Counter(task.skill for task in tasks)
    # 18,000 draws: a standard deviation is below 0.4 %.
    for skill, share in {"detect": 0.27, "point": 0.15, "query": 0.48, "caption": 0.10}.items():
        assert abs(shares[skill] / len(tasks) - share) < 0.02
    for topic in ("presence", "left_of", "above"):
        answers = [t.answer for t in tasks if isinstance(t, QueryTask) and t.topic == topic]
        assert 0.43 < answers.count("yes") / len(answers) < 0.57
    found = [
        t.boxes if isinstance(t, DetectTask) else t.points
        for t in tasks
        if t.skill in ("detect", "point")
    ]
    assert 0.15 < sum(not f for f in found) / len(found) < 0.25
    assert "0" in {t.answer for t in tasks if isinstance(t, QueryTask)}


def test_weights_and_numbers_of_shapes_are_obeyed():
    example = training_example(
        3, num_tasks=9, num_shapes=(4, 4), weights={"detect": 1.0}, other_size_share=0
    )
    assert [task.skill for task in example.tasks] == ["detect"] * 9
    assert len(example.scene.shapes) == 4
    assert example.scene.image.size == (84, 84)


def test_held_out_seeds_are_disjoint_from_training_seeds():
    assert FIRST_HELD_OUT_SEED >= NUM_TRAINING_SEEDS
    assert heldout_example(4).seed == FIRST_HELD_OUT_SEED + 4
    assert heldout_scene(4).image.tobytes() == heldout_example(4).scene.image.tobytes()
    for wrong in (-1, NUM_TRAINING_SEEDS):
        with pytest.raises(ValueError, match="training seeds"):
            training_example(wrong)
        with pytest.raises(ValueError, match="held-out indexes"):
            heldout_example(wrong)
