"""Keys and values of growing answers, in blocks of 16 positions from one pool.

An answer is promised, before it begins, as many blocks as it can fill at most, so none runs out of
memory half way; it takes them one by one as it grows. What joins or leaves moves nothing of the
others.

Letters: L layers, H heads, N blocks, S positions of a block, d head width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from trainer.model.config import TextConfig
from trainer.model.upload import uploaded

BLOCK = 16
ZEROS, SCRATCH = 0, 1
"""Two blocks of no answer: what unfilled places of a table name, and where padding rows write."""


class BlockPool:
    """All blocks of a device.

    Attributes:
        keys_LHNSd, values_LHNSd: Where the blocks lie; fixed for the life of the pool.
    """

    def __init__(
        self,
        config: TextConfig,
        num_blocks: int,
        *,
        device: torch.device | str,
        dtype: torch.dtype,
    ):
        shape = (config.n_layers, config.n_heads, num_blocks + 2, BLOCK, config.head_dim)
        # Not filled: what is not used yet takes no memory on the CPU.
        self.keys_LHNSd = torch.empty(shape, device=device, dtype=dtype)
        self.values_LHNSd = torch.empty(shape, device=device, dtype=dtype)
        self._num_blocks = num_blocks
        self._num_promised = 0
        self._fresh = 2  # blocks from here on were never used
        self._returned: list[int] = []
        self._clear([ZEROS, SCRATCH])

    @property
    def num_blocks(self) -> int:
        """Blocks there are."""
        return self._num_blocks

    @property
    def num_promised(self) -> int:
        """Blocks that growing answers may take."""
        return self._num_promised

    @property
    def num_used(self) -> int:
        """Blocks that are taken."""
        return self._fresh - 2 - len(self._returned)

    @property
    def num_bytes(self) -> int:
        return self.keys_LHNSd.nbytes + self.values_LHNSd.nbytes

    @property
    def num_free(self) -> int:
        """Blocks that are promised to nobody."""
        return self._num_blocks - self._num_promised

    def promise(self, num_blocks: int) -> None:
        """Set blocks aside.

        Raises:
            ValueError: There are not that many.
        """
        if num_blocks > self.num_free:
            raise ValueError(f"{num_blocks} blocks were wanted, {self.num_free} are free")
        self._num_promised += num_blocks

    def take(self, num_blocks: int) -> list[int]:
        """Blocks that were promised, cleared; the most recently returned first."""
        if not num_blocks:
            return []
        num_again = min(num_blocks, len(self._returned))
        again = self._returned[len(self._returned) - num_again :][::-1]
        fresh = range(self._fresh, self._fresh + num_blocks - num_again)
        taken = [*again, *fresh]
        self._clear(taken)  # may fail; until then nothing is taken
        del self._returned[len(self._returned) - num_again :]
        self._fresh = fresh.stop
        return taken

    def give_back(self, blocks: Sequence[int], *, promised: int) -> None:
        """Return what an answer took, and end its promise."""
        self._returned += blocks
        self._num_promised -= promised

    def _clear(self, blocks: Sequence[int]) -> None:
        """What an earlier answer left there may be no number at all, and 0 times NaN is NaN."""
        at = uploaded(blocks, self.values_LHNSd.device, torch.long)
        self.values_LHNSd.index_fill_(2, at, 0.0)
        self.keys_LHNSd.index_fill_(2, at, 0.0)


def num_blocks_for(num_positions: int) -> int:
    """Blocks that so many positions take."""
    return math.ceil(num_positions / BLOCK)


def block_bytes(config: TextConfig, dtype: torch.dtype) -> int:
    """Keys and values of one block."""
    return 2 * config.n_layers * config.dim * BLOCK * dtype.itemsize
