"""Seeds that depend on what is asked, never on when: SHA-256 of the facts, 63 bits of it.

63 and not 64, because SQLite's integers have a sign.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from typing import Any

SEED_BITS = 63
_MAX_REMEMBERED = 100_000


def derive_seed(*facts: Any) -> int:
    """Return a seed below 2**63 that every fact changes; facts are plain JSON values."""
    digest = hashlib.sha256(canonical_json(list(facts)))
    return int.from_bytes(digest.digest()[:8], "big") >> (64 - SEED_BITS)


def canonical_json(value: Any) -> bytes:
    """Return the one JSON text of a value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


class SeedSource:
    """Seeds of calls under one root: equal calls get different seeds, in any order the same set.

    The n-th call with the same content gets the n-th seed of that content. Contents are counted in
    this process; those not seen for 100,000 others start again at the first.
    """

    def __init__(self, root: int):
        self.root = root
        self._counts: OrderedDict[bytes, int] = OrderedDict()

    def adapter_seed(self, ordinal: int) -> int:
        """The seed of the fresh adapter of the finetune with this ordinal."""
        return derive_seed(self.root, "adapter", ordinal)

    def batch_seed(self, ordinal: int) -> int:
        """The seed of the batch with this ordinal; that of a line is derived from it."""
        return derive_seed(self.root, "batch", ordinal)

    def call_seed(self, verb: str, ordinal: int, step: int, content: Any) -> int:
        """The next seed of a call with this content on these weights."""
        key = hashlib.sha256(canonical_json([verb, ordinal, step, content])).digest()
        occurrence = self._counts.pop(key, 0)
        self._counts[key] = occurrence + 1
        if len(self._counts) > _MAX_REMEMBERED:
            self._counts.popitem(last=False)
        return derive_seed(self.root, key.hex(), occurrence)
