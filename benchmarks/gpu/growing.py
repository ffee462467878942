"""Answers that grow in a decoder of their own, to their end or tick by tick."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.gpu.measuring import seconds_of
from trainer.budgets import GPU_ROW_BUCKETS
from trainer.decoder import Decoder, DecodeRequest, Ticket
from trainer.model.kv_blocks import BlockPool, num_blocks_for
from trainer.model.moondream import Moondream
from trainer.sequence import Trace

NUM_WARM, NUM_WINDOWS, TICKS_PER_WINDOW = 3, 5, 10
NUM_TIMED = NUM_WINDOWS * TICKS_PER_WINDOW
MEAN_ADDED = NUM_WARM + NUM_TIMED / 2
"""Positions that a row has added, on average over the ticks that are timed."""

LONG_ENOUGH = 96
"""Tokens of answers that do not end while they are timed, counted and profiled."""


def decoder_for(
    model: Moondream,
    requests: Sequence[DecodeRequest],
    *,
    row_buckets: Sequence[int] = GPU_ROW_BUCKETS,
) -> Decoder:
    """A decoder with room for these requests, which are not added yet."""
    config, wte = model.config.text, model.text.wte
    num_blocks = 0
    for request in requests:
        room = config.max_context - request.prefix.length
        longest = request.new_grammar().most_actions(request.settings, room)
        num_blocks += request.num_rollouts * num_blocks_for(longest)
    pool = BlockPool(config, num_blocks, device=wte.device, dtype=wte.dtype)
    return Decoder(model, pool, row_buckets=row_buckets)


def growing(model: Moondream, requests: Sequence[DecodeRequest]) -> Decoder:
    """All requests after some ticks, so that nothing is done for the first time any more."""
    decoder = decoder_for(model, requests)
    for request in requests:
        decoder.add(request)
    tick(decoder, NUM_WARM)
    return decoder


def tick(decoder: Decoder, num: int) -> None:
    for _ in range(num):
        decoder.tick()


def tick_ms(decoder: Decoder) -> float:
    """Milliseconds of a tick: the median of some windows, each until the device was done."""
    windows = [seconds_of(lambda: tick(decoder, TICKS_PER_WINDOW)) for _ in range(NUM_WINDOWS)]
    return 1e3 * statistics.median(windows) / TICKS_PER_WINDOW


def grown(model: Moondream, requests: Sequence[DecodeRequest]) -> list[tuple[Trace, ...]]:
    """The answers of each request, all of which grow together."""
    decoder = decoder_for(model, requests)
    tickets = [decoder.add(request) for request in requests]
    ended = until_idle(decoder)
    return [ended[ticket] for ticket in tickets]


def until_idle(decoder: Decoder) -> dict[Ticket, tuple[Trace, ...]]:
    ended: dict[Ticket, tuple[Trace, ...]] = {}
    while not decoder.is_idle:
        ended |= decoder.tick()
    return ended
