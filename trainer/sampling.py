"""Answers to one request, from a decoder of its own."""

from __future__ import annotations

from trainer.decoder import Decoder, DecodeRequest
from trainer.model.moondream import Moondream
from trainer.sequence import Trace


def sample(model: Moondream, request: DecodeRequest) -> tuple[Trace, ...]:
    """Decode until the request has ended.

    Returns:
        One trace per rollout.

    Raises:
        ValueError: The prompt leaves no room in the context.
    """
    decoder = Decoder(model)
    ticket = decoder.add(request)
    while True:
        ended = decoder.tick()
        if ticket in ended:
            return ended[ticket]
