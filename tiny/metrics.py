"""How well answers agree with what a scene holds: plain values in, numbers from 0 to 1 out.

Boxes are (x_min, y_min, x_max, y_max), points (x, y), both as shares of the picture. Where both
sides are empty the score is 1, where exactly one is, it is 0. Matchings are found by trying all of
them, which is for the eight objects of a tiny scene; a model that answers with more is cut off
there, and what was cut off still counts against it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from functools import cache

Box = tuple[float, float, float, float]
Point = tuple[float, float]

MAX_MATCHED = 8


def exact_match(answer: str, expected: str) -> float:
    """1.0 if the answer is the expected one, letter by letter but for spaces around it."""
    return float(answer.strip() == expected.strip())


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two closed rectangles; 0 if the union has no area."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    overlap = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union > 0 else 0.0


def best_matching(scores: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """The one-to-one pairs (row, column) with the greatest total; pairs that score 0 are left out.

    Args:
        scores: [n][m], not negative. Only the first MAX_MATCHED rows and columns take part.
    """
    rows = [tuple(row[:MAX_MATCHED]) for row in scores[:MAX_MATCHED]]

    @cache
    def best(row: int, taken: int) -> tuple[float, tuple[tuple[int, int], ...]]:
        if row == len(rows):
            return 0.0, ()
        winner = best(row + 1, taken)
        for column, score in enumerate(rows[row]):
            if score > 0 and not taken >> column & 1:
                rest, pairs = best(row + 1, taken | 1 << column)
                if score + rest > winner[0]:
                    winner = score + rest, ((row, column), *pairs)
        return winner

    return list(best(0, 0)[1])


def detect_reward(boxes: Sequence[Box], expected: Sequence[Box]) -> float:
    """Best total IoU over one-to-one matchings, divided by the larger count."""
    if not boxes or not expected:
        return float(len(boxes) == len(expected))
    scores = [[iou(box, wanted) for wanted in expected] for box in boxes]
    return sum(scores[i][j] for i, j in best_matching(scores)) / max(len(boxes), len(expected))


def matched_ious(boxes: Sequence[Box], expected: Sequence[Box]) -> list[float]:
    """The IoU of every matched pair: how tight boxes are, where there is one at all."""
    scores = [[iou(box, wanted) for wanted in expected] for box in boxes]
    return [scores[i][j] for i, j in best_matching(scores)]


def point_f1(points: Sequence[Point], boxes: Sequence[Box]) -> float:
    """F1 of points against boxes: 2 TP / (n + m), TP by maximum one-to-one matching."""
    if not points or not boxes:
        return float(len(points) == len(boxes))
    scores = [
        [float(box[0] <= x <= box[2] and box[1] <= y <= box[3]) for box in boxes] for x, y in points
    ]
    return 2 * len(best_matching(scores)) / (len(points) + len(boxes))


def same_count(found: Sequence[object], expected: Sequence[object]) -> float:
    """1.0 if there are as many objects as there should be."""
    return float(len(found) == len(expected))


def names_every_shape(caption: str, names: Sequence[str]) -> float:
    """1.0 if the caption has each "<color> <kind>" at least as often as the scene does.

    Args:
        names: One per shape, such as "red circle".
    """
    # Word by word, so that "red circle" is not found in "red circles".
    words = caption.lower().replace(",", " ").replace(".", " ").split()
    named = Counter(" ".join(words[start : start + 2]) for start in range(len(words)))
    return float(all(named[name] >= count for name, count in Counter(names).items()))


def names_exactly(caption: str, names: Sequence[str], *, nouns: Sequence[str]) -> float:
    """1.0 if the caption names every shape and has no more of the nouns than there are shapes."""
    words = caption.lower().replace(",", " ").replace(".", " ").split()
    has_no_more = sum(word in nouns for word in words) == len(names)
    return float(has_no_more and names_every_shape(caption, names) == 1.0)


def mean(values: Sequence[float]) -> float:
    """The mean, or 0 of no values."""
    return sum(values) / len(values) if values else 0.0


def bootstrap_interval(
    values: Sequence[float], *, seed: int = 0, num_resamples: int = 1000, coverage: float = 0.95
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean; the same seed gives the same interval.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("an interval needs at least one value, got none")
    rng = random.Random(seed)
    means = sorted(mean(rng.choices(values, k=len(values))) for _ in range(num_resamples))
    cut = round((1 - coverage) / 2 * num_resamples)
    return means[cut], means[num_resamples - 1 - cut]
