"""Streamed answers as server-sent events; http-api.md 13.3.

    data: {"chunk": "A scene ", ...}        one line for each event, and an empty one

A stream begins with the first thing that the engine tells of the answer. Until then a call that
fails gets its status like any other; afterwards it gets `data: {"error": ...}` and the line
`data: [ERROR]`, which is no JSON, so that clients raise: a mere end they take for a whole answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Protocol

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from contract.engine import AnswerDelta, Answered
from server.api import problems
from server.domain.errors import CallerLeftError, InternalError, ServiceError
from server.domain.json_text import to_json
from server.services.growth import DivergedError, Growth

_log = structlog.get_logger("server.event_stream")

MEDIA_TYPE = "text/event-stream"
KEEP_ALIVE_SECONDS = 15.0
"""A stream that has nothing to say for this long sends a comment."""

KEEP_ALIVE = b": keep-alive\n\n"
ERROR = b"data: [ERROR]\n\n"

_HEADERS = (
    (b"content-type", MEDIA_TYPE.encode()),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


class EventForm(Protocol):
    """How the events of one answer look; asked in order, `last` once."""

    def gained(self, delta: AnswerDelta) -> Iterable[dict[str, Any]]:
        """The events of what the answer gained."""
        ...

    def last(self, answered: Answered) -> Iterable[dict[str, Any]]:
        """The events at its end."""
        ...

    @property
    def closing(self) -> bytes:
        """What follows the last event."""
        ...


def event(value: dict[str, Any]) -> bytes:
    """One event; JSON has no line breaks of its own."""
    return b"data: " + to_json(value) + b"\n\n"


class EventStream(Response):
    """The answer to one call, sent while it grows.

    Args:
        answer: Does the work; what is gained goes into `growth`. Cancelled when sending ends first.
        form: Of the events.
    """

    def __init__(
        self, answer: Callable[[], Awaitable[Answered]], growth: Growth, form: EventForm
    ) -> None:
        super().__init__()
        self._answer = answer
        self._growth = growth
        self._form = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = asyncio.ensure_future(self._answer())
        work.add_done_callback(lambda _: self._growth.wake())
        try:
            await self._growth.changed()
            if work.done():
                work.result()  # a refusal; nothing was sent, so it gets its status
            await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
            async for block in self._blocks(work, scope):
                await send({"type": "http.response.body", "body": block, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _blocks(self, work: asyncio.Future[Answered], scope: Scope) -> AsyncIterator[bytes]:
        """What is sent at once, one after another, up to the end of the answer or its failure."""
        clock = asyncio.get_running_loop().time
        sent_at = clock()
        while not work.done():
            seconds_left = sent_at + KEEP_ALIVE_SECONDS - clock()
            if delta := self._growth.take():
                yield b"".join(map(event, self._form.gained(delta)))
            elif seconds_left <= 0:
                yield KEEP_ALIVE
            else:
                await self._growth.changed(within=seconds_left)
                continue
            sent_at = clock()
        try:
            yield self._end(work.result())
        except CallerLeftError:
            return
        except ServiceError as error:
            yield self._failure(error, scope)
        except Exception as error:  # what nobody foresaw ends the stream in order, too
            state = scope["state"]
            refusal = problems.crash_refusal(
                error, path=scope["path"], request_id=state["request_id"]
            )
            yield self._failure(refusal, scope)

    def _end(self, answered: Answered) -> bytes:
        """Whatever is left of the answer, and its last events.

        Raises:
            InternalError: What was sent is not how the answer begins.
        """
        try:
            self._growth.complete(answered.output)
        except DivergedError:
            _log.error("streamed_answer_diverged")
            raise InternalError("The answer came out otherwise than it was streamed.") from None
        delta = self._growth.take()
        rest = () if delta is None else self._form.gained(delta)
        events = map(event, (*rest, *self._form.last(answered)))
        return b"".join(events) + self._form.closing

    def _failure(self, error: ServiceError, scope: Scope) -> bytes:
        scope["state"]["refusal_code"] = error.code
        return event({"error": problems.error_object(error, path=scope["path"])}) + ERROR
