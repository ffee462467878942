"""The measures of the tiny model, against values worked out by hand and a naive search."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny.metrics import (
    best_matching,
    bootstrap_interval,
    detect_reward,
    exact_match,
    iou,
    matched_ious,
    mean,
    names_every_shape,
    names_exactly,
    point_f1,
    same_count,
)

LEFT = (0.0, 0.0, 0.2, 0.2)
RIGHT = (0.5, 0.5, 0.9, 0.9)
STRAY = (0.3, 0.0, 0.4, 0.1)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        pytest.param(LEFT, LEFT, 1.0, id="same"),
        pytest.param(LEFT, RIGHT, 0.0, id="apart"),
        # Overlap 0.1 x 0.2 = 0.02, union 0.04 + 0.04 - 0.02 = 0.06.
        pytest.param(LEFT, (0.1, 0.0, 0.3, 0.2), 1 / 3, id="half shifted"),
        pytest.param((0.1, 0.1, 0.1, 0.1), (0.1, 0.1, 0.1, 0.1), 0.0, id="no area"),
    ],
)
def test_iou(a, b, expected):
    assert iou(a, b) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("boxes", "expected", "reward"),
    [
        pytest.param([], [], 1.0, id="both empty"),
        pytest.param([LEFT], [], 0.0, id="nothing there"),
        pytest.param([], [LEFT], 0.0, id="nothing found"),
        pytest.param([RIGHT, LEFT], [LEFT, RIGHT], 1.0, id="order is free"),
        pytest.param([LEFT], [LEFT, RIGHT], 0.5, id="one of two"),
        pytest.param([LEFT, RIGHT, STRAY], [LEFT, RIGHT], 2 / 3, id="one stray"),
    ],
)
def test_detect_reward(boxes, expected, reward):
    assert detect_reward(boxes, expected) == pytest.approx(reward)


def test_objects_beyond_the_eighth_still_count_against_the_answer():
    assert detect_reward([LEFT] * 10, [LEFT]) == pytest.approx(0.1)


def test_point_f1_matches_one_to_one():
    # Two boxes, two points in one of them, one nowhere: TP 1, 2 * 1 / (3 + 2).
    assert point_f1([(0.1, 0.1), (0.15, 0.1), (0.4, 0.4)], [LEFT, RIGHT]) == pytest.approx(0.4)
    assert point_f1([], []) == 1.0
    assert point_f1([(0.1, 0.1)], []) == 0.0
    assert point_f1([(0.2, 0.2)], [LEFT]) == 1.0  # an edge is inside


def test_matched_ious_leave_out_what_has_no_partner():
    assert matched_ious([LEFT, STRAY], [LEFT, RIGHT]) == [1.0]
    assert matched_ious([], [LEFT]) == []


@given(
    st.integers(0, 4).flatmap(
        lambda m: st.lists(st.lists(st.floats(0, 1), min_size=m, max_size=m), max_size=4)
    )
)
def test_best_matching_is_one_to_one_and_as_good_as_trying_everything(scores):
    pairs = best_matching(scores)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    n, m = len(scores), len(scores[0]) if scores else 0
    # Pad to a square, so that leaving a row out is a permutation as well.
    padded = [
        [scores[i][j] if i < n and j < m else 0.0 for j in range(n + m)] for i in range(n + m)
    ]
    best = max(
        (
            sum(padded[i][j] for i, j in enumerate(chosen))
            for chosen in permutations(range(n + m), n)
        ),
        default=0.0,
    )
    assert sum(scores[i][j] for i, j in pairs) == pytest.approx(best)


def test_captions_are_read_word_by_word():
    names = ["red circle", "red circle", "blue square"]
    caption = "a red circle, a red circle and a blue square"
    assert names_every_shape(caption, names) == 1.0
    assert names_every_shape("a red circle and a blue square", names) == 0.0
    assert names_every_shape("two red circles", ["red circle"]) == 0.0
    kinds = ("circle", "square")
    assert names_exactly(caption, names, nouns=kinds) == 1.0
    assert names_exactly(caption, names[1:], nouns=kinds) == 0.0


def test_small_measures():
    assert exact_match(" red circle ", "red circle") == 1.0
    assert exact_match("Red", "red") == 0.0
    assert same_count([1, 2], "ab") == 1.0
    assert same_count([], "a") == 0.0
    assert mean([]) == 0.0


def test_bootstrap_interval_is_seeded_and_has_the_width_of_theory():
    values = [0.0, 1.0] * 200
    low, high = bootstrap_interval(values, seed=1)
    assert (low, high) == bootstrap_interval(values, seed=1)
    # The standard error of 400 coin flips is 0.5 / 20 = 0.025, so the interval is
    # about 0.5 +- 0.049.
    assert low == pytest.approx(0.451, abs=0.01)
    assert high == pytest.approx(0.549, abs=0.01)
    assert bootstrap_interval([1.0]) == (1.0, 1.0)
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_interval([])
