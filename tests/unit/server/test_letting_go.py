"""A cancelled answer lasts until the worker has let go of it; the test plays the worker."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from contract.engine import Answer
from contract.errors import EngineError, EngineFailed
from contract.framing import Message, encode
from contract.messages import error_to_plain
from contract.skills import QueryRequest, Settings
from server import dialogue as dialogue_module
from server.channel import Channel
from server.dialogue import Dialogue
from server.domain.engine_status import WorkerDiedError

pytestmark = pytest.mark.anyio

EPOCH = 3
COMMAND = Answer(
    adapter=None, request=QueryRequest(question="?"), settings=Settings(temperature=1.0), seed=1
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Worker:
    """Our end of the socket, and a dialogue at the other."""

    def __init__(self) -> None:
        self._sock, theirs = socket.socketpair()
        self._channel, self._their_channel = Channel(self._sock), Channel(theirs)
        self.dialogue = Dialogue(
            self._their_channel,
            epoch=EPOCH,
            on_loading=lambda _text: None,
            on_ready=lambda _model: None,
            on_over=lambda: None,
        )
        self._talk = asyncio.create_task(self.dialogue.run())

    async def hear(self) -> dict[str, Any]:
        message = await asyncio.wait_for(self._channel.receive(), 5.0)
        assert message is not None
        return message.header

    async def say_error(self, call_id: int, error: EngineError) -> None:
        header = {"kind": "error", "id": call_id, "epoch": EPOCH, "error": error_to_plain(error)}
        await self._channel.send(encode(Message(header=header)))

    async def hang_up(self) -> None:
        if self._talk.done():
            return
        self._sock.shutdown(socket.SHUT_RDWR)
        await self._talk
        self._channel.close()
        self._their_channel.close()


@pytest.fixture
async def worker(anyio_backend: str) -> AsyncIterator[Worker]:
    worker = Worker()
    yield worker
    await worker.hang_up()


async def cancelled(worker: Worker) -> asyncio.Task[Any]:
    """A call that the worker had, and that it has heard to be cancelled."""
    call = asyncio.create_task(worker.dialogue.call("answer", COMMAND))
    assert (await worker.hear())["kind"] == "call"
    call.cancel()
    assert await worker.hear() == {"kind": "cancel", "id": 1}
    return call


async def test_it_ends_when_the_worker_has_answered(worker: Worker) -> None:
    call = await cancelled(worker)
    assert not call.done()
    await worker.say_error(1, EngineFailed("The call was cancelled."))
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.shield(call), 5.0)
    assert call.cancelled()


async def test_it_knows_when_the_worker_died_first(worker: Worker) -> None:
    call = await cancelled(worker)
    await worker.hang_up()
    with pytest.raises(asyncio.CancelledError) as caught:
        await call
    death = caught.value.__cause__
    assert isinstance(death, WorkerDiedError)
    assert death.epoch == EPOCH


async def test_it_ends_at_once_when_it_is_cancelled_again(worker: Worker) -> None:
    call = await cancelled(worker)
    call.cancel()
    await asyncio.wait({call}, timeout=5.0)
    assert call.cancelled()


async def test_a_worker_that_says_nothing_is_not_waited_for_long(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialogue_module, "LET_GO_SECONDS", 0.0)
    call = await cancelled(worker)
    await asyncio.wait({call}, timeout=5.0)
    assert call.cancelled()
