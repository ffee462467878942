"""Attention of rows to shared prompts and own suffixes, against each row computed by itself."""

from __future__ import annotations

import math

import pytest
import torch

from trainer.model.kv_cache import KVCache
from trainer.model.prompt_run import FEW_ROWS, PromptRun, prompt_runs

LAYERS, HEADS, WIDTH, SLOTS = 2, 3, 8, 5


def prompt(length: int) -> KVCache:
    shape = (LAYERS, 1, HEADS, length, WIDTH)
    return KVCache(*(torch.randn(shape, dtype=torch.float64) for _ in range(2)), length=length)


def by_itself(
    cache: KVCache | None, layer: int, q_Hd, own_scores_HS, own_values_HSd
) -> torch.Tensor:
    """One row: all of its scores in one list."""
    scores, values = own_scores_HS, own_values_HSd
    if cache is not None:
        keys = cache.keys_LBHSd[layer, 0, :, : cache.length]
        scores = torch.cat((torch.einsum("hd,hpd->hp", q_Hd, keys), scores), dim=1)
        values = torch.cat((cache.values_LBHSd[layer, 0, :, : cache.length], values), dim=1)
    return torch.einsum("hx,hxd->hd", torch.softmax(scores, dim=-1), values)


@pytest.mark.parametrize("num_padding", [0, 2])
def test_rows_of_any_number_and_length_of_prompts_are_what_each_is_alone(num_padding):
    """The table of scores is used again by the next layer, and made anew for longer suffixes."""
    counts = {20: 1, 17: 4, 19: FEW_ROWS, 18: FEW_ROWS + 3}
    prompts = [(prompt(length), count) for length, count in counts.items()]
    owners = [cache for cache, count in prompts for _ in range(count)] + [None] * num_padding
    run = PromptRun(prompts, num_padding=num_padding)
    assert run.num_rows == len(owners)
    for layer, num_slots in ((0, SLOTS), (1, SLOTS), (0, 2 * SLOTS)):
        q = torch.randn(HEADS, len(owners), WIDTH, dtype=torch.float64) / math.sqrt(WIDTH)
        scores = torch.randn(HEADS, len(owners), num_slots, dtype=torch.float64)
        scores[:, ::2, 3:] = -torch.inf
        values = torch.randn(HEADS, len(owners), num_slots, WIDTH, dtype=torch.float64)
        found = run.attend(layer, q, scores, values)
        for row, cache in enumerate(owners):
            wanted = by_itself(cache, layer, q[:, row], scores[:, row], values[:, row])
            torch.testing.assert_close(found[:, row], wanted, rtol=1e-12, atol=1e-12)


def test_scores_far_beyond_the_range_of_exp_stay_finite():
    cache = prompt(9)
    q = 1e4 * torch.randn(HEADS, 2, WIDTH, dtype=torch.float64)
    scores = torch.full((HEADS, 2, SLOTS), -1e5, dtype=torch.float64)
    values = torch.randn(HEADS, 2, SLOTS, WIDTH, dtype=torch.float64)
    found = PromptRun([(cache, 2)]).attend(0, q, scores, values)
    for row in range(2):
        wanted = by_itself(cache, 0, q[:, row], scores[:, row], values[:, row])
        torch.testing.assert_close(found[:, row], wanted)


def test_neighbours_of_like_length_share_a_softmax():
    def rows_of_runs(*lengths: int, num_padding: int = 0) -> list[int]:
        runs = prompt_runs([(prompt(n), 2) for n in lengths], num_padding=num_padding)
        return [run.num_rows for run in runs]

    assert rows_of_runs(100, 110, 125) == [6]
    assert rows_of_runs(100, 110, 126) == [4, 2]
    assert rows_of_runs(125, 110, 99, num_padding=3) == [4, 5]
    assert rows_of_runs(10, 1000, 10) == [2, 2, 2]
