"""The pool of blocks: promises, what is taken, and that nothing of an earlier answer is left."""

from __future__ import annotations

import math

import pytest
import torch

from tests.micro import micro_model
from trainer.model.decode_cache import Suffix
from trainer.model.kv_blocks import BLOCK, BlockPool, block_bytes, num_blocks_for


def pool(num_blocks: int = 4) -> BlockPool:
    config = micro_model().config.text
    return BlockPool(config, num_blocks, device="cpu", dtype=torch.float32)


def test_positions_are_rounded_up_to_blocks():
    assert [num_blocks_for(n) for n in (1, BLOCK, BLOCK + 1)] == [1, 1, 2]


def test_bytes_of_a_block_are_keys_and_values_of_all_layers():
    config = micro_model().config.text
    assert block_bytes(config, torch.float32) == 2 * 3 * 32 * BLOCK * 4
    assert pool(4).num_bytes == 6 * block_bytes(config, torch.float32)  # two belong to nobody


def test_what_is_promised_is_there_for_nobody_else():
    blocks = pool(4)
    blocks.promise(3)
    assert (blocks.num_promised, blocks.num_free) == (3, 1)
    with pytest.raises(ValueError, match="2 blocks were wanted, 1 are free"):
        blocks.promise(2)
    assert blocks.num_promised == 3


def test_a_block_that_comes_back_is_given_again_without_what_was_in_it():
    blocks = pool(2)
    first, second = Suffix(blocks, 1), Suffix(blocks, 1)
    (taken,) = blocks.take(1)
    first.blocks.append(taken)
    blocks.values_LHNSd[:, :, taken] = math.nan
    blocks.keys_LHNSd[:, :, taken] = math.nan
    first.end()
    assert (blocks.num_used, blocks.num_promised) == (0, 1)
    assert blocks.take(1) == [taken]
    assert not blocks.values_LHNSd[:, :, taken].any()
    assert not blocks.keys_LHNSd[:, :, taken].any()
    second.blocks.append(taken)
    second.end()
    assert (blocks.num_used, blocks.num_promised) == (0, 0)


def test_a_suffix_finds_its_slots_over_the_bounds_of_blocks():
    blocks = pool(4)
    suffix = Suffix(blocks, 2 * BLOCK)
    assert suffix.is_between_blocks
    suffix.blocks += [3, 2]
    suffix.length = BLOCK - 1
    assert suffix.slot == 3 * BLOCK + BLOCK - 1
    suffix.length = BLOCK
    assert suffix.slot == 2 * BLOCK
    assert not suffix.is_between_blocks
    suffix.length = 2 * BLOCK
    assert suffix.is_between_blocks
