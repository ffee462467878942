"""Boxes, points, overlap, one-to-one matching and the rewards made of them.

Numpy in double precision; coordinates are 0-1. Formulas and edge cases: http-api.md section 9.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

POINT_REWARD_RADIUS = 0.25
"""Distance (normalised) at which a point earns nothing; http-api.md section 9."""

Floats = np.ndarray


def pairwise_iou(boxes_N4: Floats, boxes_M4: Floats) -> Floats:
    """Intersection over union of closed rectangles (x_min, y_min, x_max, y_max).

    Returns:
        [N, M] float64 in 0-1; 0 where the union has no area.
    """
    lower_NM2 = np.maximum(boxes_N4[:, None, :2], boxes_M4[None, :, :2])
    upper_NM2 = np.minimum(boxes_N4[:, None, 2:], boxes_M4[None, :, 2:])
    intersection_NM = np.prod(np.clip(upper_NM2 - lower_NM2, 0.0, None), axis=-1)
    area_N = np.prod(boxes_N4[:, 2:] - boxes_N4[:, :2], axis=-1)
    area_M = np.prod(boxes_M4[:, 2:] - boxes_M4[:, :2], axis=-1)
    union_NM = area_N[:, None] + area_M[None, :] - intersection_NM
    safe_NM = np.where(union_NM > 0.0, union_NM, 1.0)
    return np.where(union_NM > 0.0, intersection_NM / safe_NM, 0.0)


def best_assignment(score_NM: Floats) -> list[tuple[int, int]]:
    """The one-to-one matching of rows to columns with the largest total score.

    Shortest augmenting paths with potentials (Jonker and Volgenant, Computing 38, 1987), one row at
    a time, O(min(N, M)^2 max(N, M)).

    Args:
        score_NM: [N, M], finite, any sign.

    Returns:
        min(N, M) pairs (row, column), rows ascending.
    """
    if score_NM.shape[0] > score_NM.shape[1]:
        return sorted((row, column) for column, row in best_assignment(score_NM.T))
    num_rows, num_columns = score_NM.shape
    cost_NM = -np.asarray(score_NM, dtype=np.float64)
    row_potential = np.zeros(num_rows)
    column_potential = np.zeros(num_columns)
    row_of_column = np.full(num_columns, -1)
    for new_row in range(num_rows):
        distance = np.full(num_columns, np.inf)
        came_from = np.full(num_columns, -1)
        settled = np.zeros(num_columns, dtype=bool)
        row, column, reached = new_row, -1, 0.0
        while True:
            slack = reached + cost_NM[row] - row_potential[row] - column_potential
            better = ~settled & (slack < distance)
            distance[better] = slack[better]
            came_from[better] = column
            column = int(np.argmin(np.where(settled, np.inf, distance)))
            settled[column] = True
            reached = distance[column]
            if row_of_column[column] < 0:
                break
            row = int(row_of_column[column])
        settled[column] = False  # the free column at the end keeps its potential
        row_potential[new_row] += reached
        tree = np.flatnonzero(settled)
        row_potential[row_of_column[tree]] += reached - distance[tree]
        column_potential[tree] -= reached - distance[tree]
        while column >= 0:
            parent = int(came_from[column])
            row_of_column[column] = new_row if parent < 0 else row_of_column[parent]
            column = parent
    return sorted((int(row), column) for column, row in enumerate(row_of_column) if row >= 0)


def detect_reward(predicted: Sequence[Sequence[float]], truth: Sequence[Sequence[float]]) -> float:
    """Best total IoU over one-to-one matchings, divided by the larger count; 0-1."""
    empty = _reward_when_empty(len(predicted), len(truth))
    if empty is not None:
        return empty
    iou_NM = pairwise_iou(np.asarray(predicted, np.float64), np.asarray(truth, np.float64))
    return _matched_total(iou_NM) / max(iou_NM.shape)


def points_in_boxes_reward(
    points: Sequence[Sequence[float]], boxes: Sequence[Sequence[float]]
) -> float:
    """F1 of points against the boxes that contain them: 2 TP / (n + m); edges count as inside."""
    empty = _reward_when_empty(len(points), len(boxes))
    if empty is not None:
        return empty
    points_N2 = np.asarray(points, np.float64)
    boxes_M4 = np.asarray(boxes, np.float64)
    inside_NM = np.all(
        (points_N2[:, None] >= boxes_M4[None, :, :2])
        & (points_N2[:, None] <= boxes_M4[None, :, 2:]),
        axis=-1,
    )
    true_positives = round(_matched_total(inside_NM.astype(np.float64)))
    return 2.0 * true_positives / (len(points) + len(boxes))


def points_reward(predicted: Sequence[Sequence[float]], truth: Sequence[Sequence[float]]) -> float:
    """Best total similarity max(0, 1 - d / 0.25) over matchings, divided by the larger count."""
    empty = _reward_when_empty(len(predicted), len(truth))
    if empty is not None:
        return empty
    offset_NM2 = np.asarray(predicted, np.float64)[:, None] - np.asarray(truth, np.float64)[None]
    distance_NM = np.hypot(offset_NM2[..., 0], offset_NM2[..., 1])
    similarity_NM = np.clip(1.0 - distance_NM / POINT_REWARD_RADIUS, 0.0, None)
    return _matched_total(similarity_NM) / max(similarity_NM.shape)


def _reward_when_empty(num_predicted: int, num_truth: int) -> float | None:
    if num_predicted == 0 or num_truth == 0:
        return 1.0 if num_predicted == num_truth else 0.0
    return None


def _matched_total(score_NM: Floats) -> float:
    return float(sum(score_NM[row, column] for row, column in best_assignment(score_NM)))
