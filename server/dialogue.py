"""The calls in flight on one worker: who waits for which answer, until the channel ends.

Nothing here knows processes or restarts. The words are those of contract/messages.py.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from contract.codec import from_plain
from contract.engine import AnswerDelta, ModelInfo
from contract.errors import EngineError, WorkerUnavailable
from contract.framing import Message, encode
from contract.messages import call_message, read_result
from contract.skills import Pixels
from contract.stats import EngineStats
from server.channel import Channel, MalformedMessageError
from server.domain.engine_status import NotHandedOverError, WorkerDiedError

log = structlog.get_logger(__name__)

Parts = Sequence[bytes | memoryview]
OnDelta = Callable[[AnswerDelta], None]

_CANCELLABLE = ("answer", "make_rollouts")
"""Verbs whose work ends when nobody waits for it any more; the others are finished."""

LET_GO_SECONDS = 5.0
"""How long the worker may take to answer a call that was cancelled, then nobody waits for it. It
looks between two units of work, of which a part of a train step is the longest."""

_STOP = Message(header={"kind": "stop"})
_PING = Message(header={"kind": "ping"})


def _encoded(call_id: int, verb: str, command: Any, images: Sequence[Pixels]) -> Parts:
    request_id: str = structlog.contextvars.get_contextvars().get("request_id", "")
    return encode(call_message(call_id, verb, command, images, request_id))


@dataclass
class _Call:
    """A call under way: its verb, its bytes, who hears of it and waits for it, how far it came."""

    verb: str
    parts: Parts
    answer: asyncio.Future[Any]
    on_delta: OnDelta | None = None
    is_handed_over: bool = False


class Dialogue:
    """One conversation with one worker.

    Args:
        channel: Ours until `run` returns; its owner closes it afterwards.
        epoch: What the worker was told at its birth; messages of another epoch are dropped.
        on_loading: Called with each line of progress before readiness.
        on_ready: Called once, with what was loaded and the worker's canary.
        on_over: Called when the worker has hung up, before any caller is told.

    Attributes:
        was_ready: Whether it has said that it is ready.
        stats: What it counted, as it said last.
        num_messages: How often it has said anything.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        epoch: int,
        on_loading: Callable[[str], None],
        on_ready: Callable[[ModelInfo, str], None],
        on_over: Callable[[], None],
    ) -> None:
        self._channel = channel
        self._epoch = epoch
        self._on_loading = on_loading
        self._on_ready = on_ready
        self._on_over = on_over
        self._ids = itertools.count(1)
        self._calls: dict[int, _Call] = {}
        self._outgoing: asyncio.Queue[_Call | Message] = asyncio.Queue()
        self._is_over = False
        self.was_ready = False
        self.stats = EngineStats()
        self.num_messages = 0

    async def run(self) -> None:
        """Talk until the worker ends the conversation; then every call still waiting fails.

        Raises:
            MalformedMessageError: The worker said something that makes no sense.
        """
        writing = asyncio.create_task(self._write())
        try:
            while (message := await self._channel.receive()) is not None:
                self.num_messages += 1
                await self._take(message)
        finally:
            self._is_over = True
            self._on_over()
            writing.cancel()
            await asyncio.wait({writing})
            for call in self._calls.values():
                if not call.answer.done():
                    call.answer.set_exception(self._loss(call))

    async def call(
        self,
        verb: str,
        command: Any,
        images: Sequence[Pixels] = (),
        on_delta: OnDelta | None = None,
    ) -> Any:
        """Ask for one verb and wait for its answer.

        Cancelling the wait tells the worker that nobody waits for an answer any more, and goes on
        until it has let go of the call, for `LET_GO_SECONDS` at most; cancelled once more, it ends
        at once. If the worker ended first, that is the `__cause__` of the `CancelledError`: it may
        have died of this call. Work of other verbs goes on and is not waited for.

        `on_delta` must not block; after it has raised it is not called again.

        Raises:
            EngineError: As the worker answered, `WorkerDiedError` when it ended, or
                `NotHandedOverError` when it had ended before.
            ValueError: The command holds a number that is not finite.
        """
        call_id = next(self._ids)
        # In a thread, because the header of a step with many rollouts has megabytes.
        call = _Call(
            verb,
            await asyncio.to_thread(_encoded, call_id, verb, command, images),
            asyncio.get_running_loop().create_future(),
            on_delta,
        )
        if self._is_over:
            raise self._loss(call)
        self._calls[call_id] = call
        self._outgoing.put_nowait(call)
        try:
            return await call.answer
        except asyncio.CancelledError as cancelled:
            if call.is_handed_over and verb in _CANCELLABLE:
                raise cancelled from await self._let_go(call_id, call)
            raise
        finally:
            del self._calls[call_id]

    def ask_to_stop(self) -> None:
        """Tell the worker to end after what it is doing; nothing is said after that."""
        self._outgoing.put_nowait(_STOP)

    def ping(self) -> None:
        """Have the worker say something as soon as it looks, also when it has nothing to do."""
        self._outgoing.put_nowait(_PING)

    async def _let_go(self, call_id: int, call: _Call) -> WorkerDiedError | None:
        """Have the worker end a call that was cancelled; return its death if it ended first."""
        call.on_delta = None
        if call.answer.cancelled():
            call.answer = asyncio.get_running_loop().create_future()
            self._outgoing.put_nowait(Message(header={"kind": "cancel", "id": call_id}))
            await asyncio.wait({call.answer}, timeout=LET_GO_SECONDS)
        fault = call.answer.exception() if call.answer.done() else None
        return fault if isinstance(fault, WorkerDiedError) else None

    async def _write(self) -> None:
        """Send what is queued, each message to its end even if its caller leaves meanwhile."""
        try:
            while (item := await self._outgoing.get()) is not _STOP:
                if isinstance(item, Message):
                    await self._channel.send(encode(item))
                elif not item.answer.done():
                    item.is_handed_over = True
                    parts, item.parts = item.parts, ()
                    await self._channel.send(parts)
                    del parts  # the worker has it; the wait for the next message holds nothing
            await self._channel.send(encode(_STOP))
        except OSError:
            pass  # The worker is gone, which the reading side is about to notice.

    async def _take(self, message: Message) -> None:
        header = message.header
        try:
            kind = header["kind"]
            if kind == "loading":
                self._on_loading(str(header["text"]))
            elif header["epoch"] != self._epoch:
                log.warning("worker_message_stale", kind=kind, epoch=header["epoch"])
            elif kind == "ready":
                self.was_ready = True
                canary = str(header.get("canary", ""))
                self._on_ready(from_plain(ModelInfo, header["model"]), canary)
            elif kind in ("result", "error"):
                await self._deliver(header["id"], message)
            elif kind == "delta":
                self._tell(header["id"], from_plain(AnswerDelta, header["delta"]))
            elif kind == "stats":
                self.stats = await asyncio.to_thread(from_plain, EngineStats, header["stats"])
            else:
                raise ValueError("no such kind of message")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MalformedMessageError(f"{type(error).__name__} in a message") from error

    async def _deliver(self, call_id: int, message: Message) -> None:
        call = self._calls.get(call_id)
        if call is None:
            return  # Its caller was cancelled.
        outcome: Any
        try:
            # In a thread, because the tokens of many rollouts take milliseconds to build.
            outcome = await asyncio.to_thread(read_result, call.verb, message)
        except EngineError as error:
            outcome = error
        if call.answer.done():
            return
        if isinstance(outcome, EngineError):
            call.answer.set_exception(outcome)
        else:
            call.answer.set_result(outcome)

    def _tell(self, call_id: int, delta: AnswerDelta) -> None:
        """Pass a delta on, if somebody still listens."""
        call = self._calls.get(call_id)
        if call is None or call.on_delta is None or call.answer.done():
            return
        try:
            call.on_delta(delta)
        except Exception:  # A listener's fault is not the worker's, nor that of other callers.
            log.exception("delta_listener_failed", id=call_id)
            call.on_delta = None

    def _loss(self, call: _Call) -> WorkerUnavailable:
        """What a caller is told whose worker ended."""
        if call.is_handed_over:
            return WorkerDiedError("The worker ended during this call.", epoch=self._epoch)
        return NotHandedOverError("The worker ended before this call.")
