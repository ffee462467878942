"""How the routes of inference and chat have an order answered: at once, or as a stream."""

from __future__ import annotations

import asyncio

from fastapi import Request

from contract.engine import Answered
from server.api.deps import Account, ConfigDep, ServicesDep
from server.api.event_stream import EventForm, EventStream
from server.services.growth import Growth
from server.services.inference import AnswerOrder


class Caller:
    """Who asks, and what every answer needs; a dependency that comes after the body's."""

    def __init__(
        self, request: Request, account: Account, config: ConfigDep, services: ServicesDep
    ):
        self.request_id: str = request.state.request_id
        self.account_id = account
        self.max_generation_tokens = config.max_generation_tokens
        self._inference = services.inference

    async def answer(self, order: AnswerOrder, caller_left: asyncio.Future[None]) -> Answered:
        """Answer an order."""
        return await self._inference.answer(self.account_id, order, caller_left=caller_left)

    def stream(
        self,
        order: AnswerOrder,
        form: EventForm,
        caller_left: asyncio.Future[None],
        *,
        has_reasoning: bool = False,
    ) -> EventStream:
        """Answer an order while the answer grows; the work begins when the stream is sent.

        Args:
            has_reasoning: Whether the thought is streamed, too.
        """
        growth = Growth(has_reasoning=has_reasoning)
        return EventStream(
            lambda: self._inference.answer(
                self.account_id, order, caller_left=caller_left, growth=growth
            ),
            growth,
            form,
        )
