"""Answers to one request, from a decoder of its own."""

from __future__ import annotations

from trainer.decoder import Decoder, DecodeRequest
from trainer.model.kv_blocks import BlockPool, num_blocks_for
from trainer.model.moondream import Moondream
from trainer.sequence import Trace


def sample(model: Moondream, request: DecodeRequest) -> tuple[Trace, ...]:
    """Decode until the request has ended.

    Returns:
        One trace per rollout.

    Raises:
        ValueError: The prompt leaves no room in the context.
    """
    config, wte = model.config.text, model.text.wte
    room = max(1, config.max_context - request.prefix.length)
    longest = request.new_grammar().most_actions(request.settings, room)
    num_blocks = request.num_rollouts * num_blocks_for(longest)
    pool = BlockPool(config, num_blocks, device=wte.device, dtype=wte.dtype)
    decoder = Decoder(model, pool)
    ticket = decoder.add(request)
    while True:
        ended = decoder.tick()
        if ticket in ended:
            return ended[ticket]
