"""Rewards: the values of http-api.md section 9, empties, edges, boxes without area."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.geometry import (
    best_assignment,
    detect_reward,
    pairwise_iou,
    points_in_boxes_reward,
    points_reward,
)

LEFT, RIGHT, STRAY = (0.1, 0.1, 0.3, 0.4), (0.6, 0.5, 0.9, 0.9), (0.4, 0.0, 0.5, 0.05)


def test_one_of_two_boxes_found_exactly_is_half():
    assert detect_reward([LEFT], [LEFT, RIGHT]) == 0.5


def test_two_boxes_found_and_one_stray_is_two_thirds():
    assert detect_reward([RIGHT, STRAY, LEFT], [LEFT, RIGHT]) == 2 / 3


def test_a_box_shifted_by_half_has_an_iou_of_a_third():
    # intersection 0.1 x 0.2, union 0.3 x 0.2
    assert detect_reward([(0.1, 0.1, 0.3, 0.3)], [(0.2, 0.1, 0.4, 0.3)]) == pytest.approx(1 / 3)


def test_two_points_in_one_box_and_one_nowhere_are_two_fifths():
    # TP = 1 of 3 points and 2 boxes: 2 * 1 / 5
    points = [(0.2, 0.2), (0.2, 0.3), (0.5, 0.5)]
    assert points_in_boxes_reward(points, [LEFT, RIGHT]) == 0.4


def test_a_point_may_serve_whichever_box_needs_it():
    # the first point lies in both boxes, the second in the large one only
    boxes = [(0.0, 0.0, 1.0, 1.0), (0.4, 0.4, 0.6, 0.6)]
    assert points_in_boxes_reward([(0.5, 0.5), (0.1, 0.1)], boxes) == 1.0


def test_a_point_a_tenth_away_earns_three_fifths():
    assert points_reward([(0.6, 0.5)], [(0.5, 0.5)]) == pytest.approx(0.6, abs=1e-12)


def test_a_second_far_point_halves_it():
    assert points_reward([(0.6, 0.5), (0.0, 0.0)], [(0.5, 0.5)]) == pytest.approx(0.3, abs=1e-12)


def test_a_point_beyond_the_radius_earns_nothing():
    assert points_reward([(0.5, 0.76)], [(0.5, 0.5)]) == 0.0


@pytest.mark.parametrize(
    ("reward", "thing"),
    [
        (detect_reward, LEFT),
        (points_in_boxes_reward, LEFT),
        (points_reward, (0.5, 0.5)),
    ],
    ids=["detect", "point-boxes", "point-points"],
)
def test_nothing_found_where_nothing_is_is_right_and_else_wrong(reward, thing):
    answer = thing[:2] if reward is not detect_reward else thing
    assert reward([], []) == 1.0
    assert reward([answer], []) == 0.0
    assert reward([], [thing]) == 0.0


@pytest.mark.parametrize("corner", [(0.1, 0.1), (0.3, 0.4), (0.1, 0.4), (0.2, 0.1)], ids=str)
def test_a_point_on_the_edge_is_inside(corner):
    assert points_in_boxes_reward([corner], [LEFT]) == 1.0


def test_a_point_just_outside_is_outside():
    assert points_in_boxes_reward([(0.3 + 1e-12, 0.2)], [LEFT]) == 0.0


def test_boxes_without_area_overlap_nothing_not_even_themselves():
    dot, line = (0.5, 0.5, 0.5, 0.5), (0.1, 0.2, 0.1, 0.4)
    assert pairwise_iou(np.array([dot, line]), np.array([dot, line, LEFT])).tolist() == [
        [0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0],
    ]
    assert detect_reward([dot], [dot]) == 0.0


def test_a_point_on_a_box_without_area_is_inside():
    assert points_in_boxes_reward([(0.5, 0.5)], [(0.5, 0.5, 0.5, 0.5)]) == 1.0


def test_duplicates_cost_precision():
    assert detect_reward([LEFT, LEFT], [LEFT]) == 0.5
    assert points_in_boxes_reward([(0.2, 0.2), (0.2, 0.2)], [LEFT]) == pytest.approx(2 / 3)


def test_touching_boxes_do_not_overlap():
    assert detect_reward([(0.0, 0.0, 0.5, 1.0)], [(0.5, 0.0, 1.0, 1.0)]) == 0.0


def test_an_assignment_of_nothing_is_empty():
    assert best_assignment(np.zeros((0, 3))) == []
    assert best_assignment(np.zeros((3, 0))) == []
