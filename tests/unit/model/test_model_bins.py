"""Bins of coordinates and sizes."""

from __future__ import annotations

import pytest
import torch

from trainer.model import bins

EXAMPLES = [(0.0, 0, 0), (0.25, 256, 818), (0.5, 512, 921), (1.0, 1023, 1023)]


@pytest.mark.parametrize(("value", "coord", "size"), EXAMPLES)
def test_examples_get_their_bins(value, coord, size):
    assert (bins.coord_bin(value), bins.size_bin(value)) == (coord, size)


def test_values_outside_are_clamped():
    assert [bins.coord_bin(value) for value in (-0.3, 1.7)] == [0, 1023]
    assert [bins.size_bin(value) for value in (-0.3, 1e-9, 4.0)] == [0, 0, 1023]


def test_ties_go_to_the_even_bin():
    # 0.5 / 1023 and 1.5 / 1023 lie exactly between bins 0 and 1, and 1 and 2
    assert bins.coord_bin(0.5 / 1023) == 0
    assert bins.coord_bin(1.5 / 1023) == 2


def test_size_ends_are_a_pixel_in_1024_and_the_whole():
    assert bins.size_value(0) == 1 / 1024
    assert bins.size_value(1023) == 1.0
    assert bins.size_value(921) == pytest.approx(0.50102, abs=5e-6)


def test_every_bin_survives_a_round_trip():
    every = range(1024)
    assert [bins.coord_bin(bins.coord_value(index)) for index in every] == list(every)
    assert [bins.size_bin(bins.size_value(index)) for index in every] == list(every)


def test_tensor_forms_equal_the_scalar_ones():
    values = torch.cat(
        [torch.rand(2000, dtype=torch.float64), torch.tensor([0.0, 0.25, 0.5, 1.0, -1, 2])]
    )
    assert bins.coord_bins(values).tolist() == [bins.coord_bin(value) for value in values.tolist()]
    assert bins.size_bins(values).tolist() == [bins.size_bin(value) for value in values.tolist()]
    every = torch.arange(1024)
    assert bins.coord_values(every).tolist() == [bins.coord_value(index) for index in range(1024)]
    scalar = torch.tensor([bins.size_value(index) for index in range(1024)], dtype=torch.float64)
    assert torch.allclose(bins.size_values(every), scalar, rtol=1e-15, atol=0)


def test_the_other_divisor_is_a_choice():
    assert bins.coord_value(512, divisor=1024) == 0.5
    assert bins.coord_values(torch.tensor(512), divisor=1024).item() == 0.5
