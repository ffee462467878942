"""The assignment and the rewards against scipy and exhaustive search."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from trainer.geometry import (
    best_assignment,
    detect_reward,
    pairwise_iou,
    points_in_boxes_reward,
    points_reward,
)

SHAPES = [(1, 1), (1, 6), (6, 1), (3, 3), (4, 7), (7, 4), (12, 12), (30, 50)]


def total(score_NM: np.ndarray, pairs: list[tuple[int, int]]) -> float:
    return float(sum(score_NM[pair] for pair in pairs))


def assert_one_to_one(pairs: list[tuple[int, int]], shape: tuple[int, int]) -> None:
    assert len(pairs) == min(shape)
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == min(shape)
    assert pairs == sorted(pairs)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("seed", range(6))
def test_a_random_assignment_is_as_good_as_that_of_scipy(shape, seed):
    score_NM = np.random.default_rng(seed).normal(size=shape)
    pairs = best_assignment(score_NM)
    assert_one_to_one(pairs, shape)
    best = score_NM[linear_sum_assignment(score_NM, maximize=True)].sum()
    assert total(score_NM, pairs) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("num_values", [1, 2, 3])
def test_ties_do_not_cost_anything(shape, num_values):
    score_NM = np.random.default_rng(5).integers(0, num_values, shape).astype(np.float64)
    pairs = best_assignment(score_NM)
    assert_one_to_one(pairs, shape)
    assert total(score_NM, pairs) == score_NM[linear_sum_assignment(score_NM, maximize=True)].sum()


def test_a_greedy_choice_is_not_good_enough():
    # greedy takes 10 and then 0; the best is 9 + 9
    assert best_assignment(np.array([[10.0, 9.0], [9.0, 0.0]])) == [(0, 1), (1, 0)]


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corners = np.sort(rng.random((count, 2, 2)), axis=1)
    return corners.reshape(count, 4)


def naive_iou(a: np.ndarray, b: np.ndarray) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


def exhaustive(score_NM: np.ndarray) -> float:
    """The best total over all one-to-one matchings, each looked at."""
    wide = score_NM if score_NM.shape[0] <= score_NM.shape[1] else score_NM.T
    columns = range(wide.shape[1])
    return max(
        sum(wide[row, column] for row, column in enumerate(chosen))
        for chosen in permutations(columns, wide.shape[0])
    )


@pytest.mark.parametrize("seed", range(8))
def test_rewards_equal_an_exhaustive_search(seed):
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 5)), int(rng.integers(1, 6))
    predicted, truth = random_boxes(rng, n), random_boxes(rng, m)
    iou_NM = np.array([[naive_iou(a, b) for b in truth] for a in predicted])
    assert pairwise_iou(predicted, truth) == pytest.approx(iou_NM, abs=1e-14)
    assert detect_reward(predicted.tolist(), truth.tolist()) == pytest.approx(
        exhaustive(iou_NM) / max(n, m), abs=1e-12
    )

    points, targets = rng.random((n, 2)), rng.random((m, 2))
    near_NM = np.array([[max(0.0, 1 - 4 * np.linalg.norm(p - t)) for t in targets] for p in points])
    assert points_reward(points.tolist(), targets.tolist()) == pytest.approx(
        exhaustive(near_NM) / max(n, m), abs=1e-12
    )

    inside_NM = np.array(
        [[float(b[0] <= p[0] <= b[2] and b[1] <= p[1] <= b[3]) for b in truth] for p in points]
    )
    assert points_in_boxes_reward(points.tolist(), truth.tolist()) == pytest.approx(
        2 * exhaustive(inside_NM) / (n + m), abs=1e-12
    )
