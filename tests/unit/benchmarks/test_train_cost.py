"""The formula of what a train step costs, and its fit."""

from __future__ import annotations

import pytest

from benchmarks.train_cost import FITTED, PREDICTED, Constants, Point, deviation
from trainer.engine import DEFAULT_MICRO_BATCH_TOKENS

POINT = Point(prefix=10, num_rollouts=2, num_tokens=4)


def test_a_point_counts_positions_and_pairs():
    # 10 + 2 * 4 positions; 10^2 + 2 * 4 * (10 + 4 / 2) pairs
    assert POINT.amounts == (18, 196, 1)
    assert POINT.num_positions == 10 + 2 * 3


def test_the_fit_finds_the_constants_that_made_the_times():
    constants = Constants(position=5e-4, pair=2e-7, fixed=0.02)
    found = Constants.fitted({point: constants.seconds(point) for point in FITTED})
    assert vars(found) == pytest.approx(vars(constants), rel=1e-9)


def test_the_deviation_is_a_part_of_what_was_measured():
    # predicted 3, measured 4: the formula is 1 of 4 too low
    assert deviation(4 / 3) == pytest.approx(0.25)
    assert deviation(1.0) == 0


def test_every_point_fits_into_one_pack_and_none_is_fitted_and_predicted():
    assert len({*FITTED, *PREDICTED}) == 12
    positions = [point.num_positions for point in (*FITTED, *PREDICTED)]
    assert max(positions) <= DEFAULT_MICRO_BATCH_TOKENS
