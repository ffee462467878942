"""The worker: takes calls from the socket, works on all of them, answers. Read this file first.

    API  --calls-->  TrainerEngine.begin  -->  TrainerEngine.turn, over and over
         <--result or error of each call, when it has ended--

Any number of calls at once; who has the device next is decided in `trainer.loop`. The process ends
when the API's end of the socket does.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from contract import faults
from contract.codec import to_plain
from contract.engine import AdapterRef, AnswerDelta
from contract.errors import EngineError, EngineFailed, RequestRefused
from contract.framing import PREFIX, Message, NotFiniteError, decode, encode
from contract.messages import COMMANDS, error_to_plain, read_call
from contract.skills import Pixels
from trainer.device_memory import OUT_OF_MEMORY, forget_frames
from trainer.engine import TrainerEngine
from trainer.logs import EventLog

STATS_SECONDS = 1.0
"""How often the counters are told while there is work."""

TAKEN_POINTS = {
    "make_rollouts": "rollouts.begin",
    "answer": "answer.begin",
    "export_checkpoint": "export.begin",
}
ANSWER_POINTS = {
    "train_step": "train.answer",
    "make_rollouts": "rollouts.answer",
    "export_checkpoint": "export.written",
}
"""Fault points by verb."""

_DIVERGED = (
    "The weights that were asked give numbers that are not finite: training has diverged. Begin a"
    " finetune from an earlier saved step, with a lower `lr`."
)

log = EventLog(__name__)


class Connection:
    """Blocking messages over our end of the socket pair."""

    def __init__(self, sock: socket.socket):
        self._sock = sock

    def send(self, header: dict[str, Any]) -> None:
        """Send one message.

        Raises:
            ValueError: The header holds NaN or infinity; nothing was sent.
        """
        for part in encode(Message(header=header)):
            self._sock.sendall(part)

    def receive(self) -> Message | None:
        """The next message, or None when the API has closed its end."""
        prefix = self._read(PREFIX.size)
        if prefix is None:
            return None
        header_length, body_length = PREFIX.unpack(prefix)
        header = self._read(header_length)
        body = self._read(body_length)
        if header is None or body is None:
            return None
        return decode(bytes(header), body)

    def _read(self, length: int) -> memoryview | None:
        buffer = memoryview(bytearray(length))
        filled = 0
        while filled < length:
            received = self._sock.recv_into(buffer[filled:])
            if received == 0:
                return None
            filled += received
        return buffer


def run_worker(
    connection: Connection, engine: TrainerEngine, *, epoch: int, canary: str = ""
) -> None:
    """Say that the model is ready, then serve calls until told to stop or left alone."""
    with suppress(BrokenPipeError, ConnectionResetError):  # left alone while saying something
        model = to_plain(engine.describe())
        connection.send({"kind": "ready", "epoch": epoch, "model": model, "canary": canary})
        _Worker(connection, engine, epoch).run()


@dataclass(eq=False)
class _Call:
    verb: str
    outcome: Future[Any]
    facts: dict[str, Any]
    """Which call it is, for the log."""
    is_of_trained: bool
    """Whether it asks weights that were trained here, and so may be no numbers any more."""


class _Worker:
    """The calls in hand. One thread reads and understands messages, this one does all else."""

    def __init__(self, connection: Connection, engine: TrainerEngine, epoch: int):
        self._connection = connection
        self._engine = engine
        self._epoch = epoch
        self._inbox: SimpleQueue[_Read | None] = SimpleQueue()
        self._calls: dict[int, _Call] = {}
        self._is_stopping = False
        self._told_stats_at = 0.0

    def run(self) -> None:
        """One unit of work after another; asleep while there is none.

        Told to stop it ends what it has; left alone it goes at once.
        """
        threading.Thread(target=self._read, name="read", daemon=True).start()
        while True:
            is_idle = not self._calls
            if is_idle:
                self._tell_stats()
                if self._is_stopping:
                    return
            if not self._take(waits=is_idle):
                return
            self._engine.turn()
            self._answer_ended()
            if time.monotonic() - self._told_stats_at > STATS_SECONDS:
                self._tell_stats()

    def _read(self) -> None:
        """Messages as they come, until the API is gone."""
        try:
            with suppress(OSError):
                while (message := self._connection.receive()) is not None:
                    self._inbox.put(_understood(message))
        finally:  # also after what is no message: nobody could talk to us any more
            self._inbox.put(None)

    def _take(self, *, waits: bool) -> bool:
        """Begin what has come; whether to go on."""
        while waits or not self._inbox.empty():
            waits = False
            read = self._inbox.get()
            if read is None:
                return False
            if read.kind == "stop":
                self._is_stopping = True
            elif read.kind == "ping":
                self._tell_stats()
            elif read.kind == "cancel":
                self._cancel(read.call_id)
            else:
                self._begin(read)
        return True

    def _begin(self, read: _Read) -> None:
        if read.error is not None:
            self._send(read.call_id, _error(read.error))
            return
        if read.verb in TAKEN_POINTS:
            faults.point(TAKEN_POINTS[read.verb])
        outcome = self._engine.begin(
            read.verb, read.command, read.images, lambda delta: self._tell(read.call_id, delta)
        )
        facts = _facts(read.verb, read.request_id, read.command)
        adapter: AdapterRef | None = getattr(read.command, "adapter", None)
        self._calls[read.call_id] = _Call(
            verb=read.verb,
            outcome=outcome,
            facts=facts,
            is_of_trained=adapter is not None and adapter.weights is not None,
        )

    def _cancel(self, call_id: int) -> None:
        call = self._calls.get(call_id)
        if call is not None:
            self._engine.cancel(call.outcome)

    def _answer_ended(self) -> None:
        for call_id, call in [(i, c) for i, c in self._calls.items() if c.outcome.done()]:
            del self._calls[call_id]
            answer = self._answer(call)
            if call.verb in ANSWER_POINTS:
                faults.point(ANSWER_POINTS[call.verb])
            try:
                self._send(call_id, answer)
            except ValueError as error:
                log.error("result_not_sent", exc_info=error, **call.facts)
                failed = EngineFailed(f"The result of {call.verb} cannot be told: {error}.")
                has_diverged = isinstance(error, NotFiniteError) and call.is_of_trained
                self._send(call_id, _error(RequestRefused(_DIVERGED) if has_diverged else failed))

    def _answer(self, call: _Call) -> dict[str, Any]:
        """What became of a call; every error becomes an answer, so that the loop goes on."""
        try:
            return {"kind": "result", "result": to_plain(call.outcome.result())}
        except CancelledError:
            return _error(EngineFailed("The call was cancelled."))
        except EngineError as error:
            return _error(error)
        except OUT_OF_MEMORY as error:
            forget_frames(error)
            self._engine.release_memory()
            log.warning("call_out_of_memory", exc_info=error, **call.facts)
            return _error(
                RequestRefused(
                    "This call does not fit the accelerator's memory, not even in small parts; "
                    "send shorter prompts and answers, or fewer rollouts at once.",
                    code="batch_too_large",
                )
            )
        except Exception as error:
            log.error("call_failed", exc_info=error, **call.facts)
            return _error(EngineFailed(f"{type(error).__name__}: {error}"))

    def _tell(self, call_id: int, delta: AnswerDelta) -> None:
        self._send(call_id, {"kind": "delta", "delta": to_plain(delta)})

    def _tell_stats(self) -> None:
        self._told_stats_at = time.monotonic()
        stats = to_plain(self._engine.stats())
        self._connection.send({"kind": "stats", "epoch": self._epoch, "stats": stats})

    def _send(self, call_id: int, answer: dict[str, Any]) -> None:
        self._connection.send({"id": call_id, "epoch": self._epoch, **answer})


@dataclass(frozen=True, kw_only=True)
class _Read:
    """A message of the API; `error` is why a call cannot be begun."""

    kind: str
    call_id: int = 0
    verb: str = ""
    request_id: str = ""
    command: Any = None
    images: Sequence[Pixels] = ()
    error: EngineError | None = None


def _understood(message: Message) -> _Read:
    kind, call_id = message.header["kind"], message.header.get("id", 0)
    if kind != "call":
        return _Read(kind=kind, call_id=call_id)
    verb: str = message.header["verb"]
    request_id: str = message.header.get("request_id", "")
    try:
        if verb not in COMMANDS:
            raise EngineFailed(f"the worker does not know the verb {verb}")
        _, _, command, images = read_call(message)
    except EngineError as error:
        return _Read(kind=kind, call_id=call_id, verb=verb, error=error)
    except Exception as error:
        log.error("call_not_read", exc_info=error, **_facts(verb, request_id, None))
        failed = EngineFailed(f"{type(error).__name__}: {error}")
        return _Read(kind=kind, call_id=call_id, verb=verb, error=failed)
    return _Read(
        kind=kind,
        call_id=call_id,
        verb=verb,
        request_id=request_id,
        command=command,
        images=images,
    )


def _facts(verb: str, request_id: str, command: Any) -> dict[str, Any]:
    """What the log says of a call: whose it is, and of which step; a step is that it would make."""
    adapter: AdapterRef | None = getattr(command, "adapter", None)
    facts = {"verb": verb, "request_id": request_id}
    if adapter is None:
        return facts
    step = adapter.step + 1 if verb == "train_step" else adapter.step
    return {**facts, "finetune_id": adapter.finetune_id, "step": step}


def _error(error: EngineError) -> dict[str, Any]:
    return {"kind": "error", "error": error_to_plain(error)}
