"""What is counted over the packs of a step."""

from __future__ import annotations

import math

import torch

from trainer.tally import Tally, finite_or_none


def tally_of(*packs: list[float]) -> Tally:
    """Of packs with these logarithms of ratios, all known and none clipped."""
    tally = Tally()
    for pack in packs:
        log_ratio_A = torch.tensor(pack, dtype=torch.float64)
        nothing_A = torch.zeros(len(pack), dtype=torch.bool)
        tally.count_ratios(log_ratio_A, nothing_A, is_known_A=~nothing_A)
    return tally


def test_the_largest_of_all_packs_is_told():
    tally = tally_of([0.5, -2.0], [0.25], [-1.0])
    assert tally.ratio_max == math.exp(0.5)
    assert tally.gap_max == 2.0
    assert tally.gap.mean == (0.5 + 2.0 + 0.25 + 1.0) / 4
    assert tally.num_actions == 4


def test_what_is_no_number_is_not_hidden_by_a_later_pack():
    for packs in ([[math.nan], [0.5]], [[0.5], [math.nan]]):
        tally = tally_of(*packs)
        assert finite_or_none(tally.ratio_max) is None
        assert finite_or_none(tally.gap_max) is None
        assert finite_or_none(tally.ratio.mean) is None
