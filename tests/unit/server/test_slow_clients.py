"""Clients that take too long, or are too many, with real sockets on the loopback; bar S4."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from contract.engine import AnswerDelta, Answered
from server.api.answer_events import TextEvents
from server.api.event_stream import EventStream
from server.domain.errors import CallerLeftError
from server.http.protocol import DeliveryProtocol
from server.http.slow_clients import (
    MAX_HELD_PER_PLACE,
    ConnectionGuard,
    ConnectionLimits,
    guarded,
)
from server.services.growth import Growth
from tests.service import until

pytestmark = pytest.mark.anyio

MIB = 1 << 20
SHORT = 0.15
LONG = 60.0
CALM = ConnectionLimits(header_seconds=LONG, body_seconds=LONG, answer_seconds=LONG)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Server:
    """A real uvicorn, and what its application saw."""

    guard: ConnectionGuard
    port: int = 0
    num_begun: int = 0
    num_left: int = 0
    may_read: asyncio.Event = field(default_factory=asyncio.Event)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    body: bytes = b"ok"

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.num_begun += 1
        await self.may_read.wait()
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.disconnect":
            self.num_left += 1
            return
        await self.may_answer.wait()
        headers = [(b"content-length", str(len(self.body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for at in range(0, len(self.body), MIB):
            await send(
                {"type": "http.response.body", "body": self.body[at : at + MIB], "more_body": True}
            )
        await send({"type": "http.response.body", "body": b""})

    async def connect(self, *sent: bytes) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        for piece in sent:
            await client.send(piece)
        return client


@dataclass
class Client:
    """One connection of a client."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, content: bytes) -> None:
        self.writer.write(content)
        await self.writer.drain()

    async def dropped(self) -> bytes:
        """Wait until the server has dropped it; return what it said before."""
        try:
            return await asyncio.wait_for(self.reader.read(), LONG)
        except ConnectionError:
            return b""

    async def answer(self) -> bytes:
        """The status and the body of an answer."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), LONG)
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        return head.split()[1] + b" " + await self.reader.readexactly(length)

    def close(self) -> None:
        self.writer.close()


@asynccontextmanager
async def serve(
    limits: ConnectionLimits,
    protocol: type[H11Protocol] = DeliveryProtocol,
    *,
    app: Any = None,
    **options: Any,
) -> AsyncIterator[Server]:
    state = Server(ConnectionGuard(limits, **options))
    state.may_read.set()
    state.may_answer.set()

    server = uvicorn.Server(
        uvicorn.Config(
            app or state.app,
            interface="asgi3",
            loop="asyncio",
            http=guarded(protocol, state.guard),
            ws="none",
            lifespan="off",
            log_config=None,
        )
    )
    listener = socket.create_server(("127.0.0.1", 0))
    state.port = listener.getsockname()[1]
    serving = asyncio.create_task(server._serve(sockets=[listener]))
    await until(lambda: server.started)
    try:
        yield state
    finally:
        state.may_read.set()
        state.may_answer.set()
        server.should_exit = server.force_exit = True
        await serving


def limits(**changes: float) -> ConnectionLimits:
    return ConnectionLimits(**{**vars(CALM), **changes})


HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize("sent", [b"", b"G", HEAD, HEAD + b"X-Endless: "])
async def test_half_sent_headers_are_dropped(sent: bytes) -> None:
    async with serve(limits(header_seconds=SHORT)) as server:
        client = await server.connect(sent)
        assert await client.dropped() == b""
        assert server.num_begun == 0
        await until(lambda: not server.guard.num_admitted)
        client.close()


async def test_headers_that_come_byte_by_byte_have_no_more_time() -> None:
    async with serve(limits(header_seconds=SHORT)) as server:
        client = await server.connect(HEAD)
        dropping = asyncio.create_task(client.dropped())
        while not dropping.done():
            client.writer.write(b"x")
            await asyncio.sleep(SHORT / 20)
        client.close()


@pytest.mark.parametrize(
    "length", [b"Content-Length: 100\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"]
)
async def test_a_stalled_body_is_dropped_and_its_call_knows(length: bytes) -> None:
    async with serve(limits(body_seconds=SHORT)) as server:
        client = await server.connect(HEAD + length)
        assert await client.dropped() == b""
        await until(lambda: server.num_left == 1)
        client.close()


async def test_two_hundred_slow_clients_do_not_harm_a_quick_one() -> None:
    async with serve(limits(header_seconds=SHORT, body_seconds=SHORT)) as server:
        stalled = HEAD + b"Content-Length: 9\r\n\r\n"
        slow = [await server.connect(HEAD if i % 2 else stalled) for i in range(200)]
        quick = await server.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await quick.answer() == b"200 ok"
        for client in slow:
            await client.dropped()
            client.close()
        quick.close()
        await until(lambda: not server.guard.num_admitted)


async def test_a_body_that_comes_slowly_but_comes_is_taken() -> None:
    async with serve(limits(body_seconds=2 * SHORT, header_seconds=2 * SHORT)) as server:
        client = await server.connect(HEAD + b"Content-Length: 12\r\n\r\n")
        for _ in range(12):  # altogether three times as long as one pause may be
            await asyncio.sleep(SHORT / 2)
            await client.send(b"x")
        assert await client.answer() == b"200 ok"
        client.close()


@pytest.mark.parametrize("is_announced", [True, False])
async def test_a_large_body_that_only_drips_is_dropped(is_announced: bool) -> None:
    async with serve(limits(body_seconds=4 * SHORT)) as server:
        if is_announced:
            client = await server.connect(HEAD + b"Content-Length: 2000000000\r\n\r\n")
        else:
            client = await server.connect(
                HEAD + b"Transfer-Encoding: chunked\r\n\r\n500000\r\n" + bytes(5 * MIB) + b"\r\n"
            )

        async def drip() -> None:
            while True:  # no pause is as long as one may be
                await client.send(b"x" if is_announced else b"1\r\nx\r\n")
                await asyncio.sleep(SHORT / 4)

        dripping = asyncio.create_task(drip())
        assert await client.dropped() == b""
        await until(lambda: server.num_left == 1)
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)
        client.close()


async def test_a_large_body_that_comes_slowly_but_comes_is_taken() -> None:
    num_pieces, piece = 70, bytes(64 << 10)
    async with serve(limits(body_seconds=10 * SHORT)) as server:
        length = f"Content-Length: {num_pieces * len(piece)}\r\n\r\n".encode()
        client = await server.connect(HEAD + length)
        for _ in range(num_pieces):
            await client.send(piece)
            await asyncio.sleep(SHORT / 3)  # altogether more than twice as long as a count
        assert await client.answer() == b"200 ok"
        client.close()


async def test_a_call_may_last_however_long_it_lasts() -> None:
    async with serve(limits(body_seconds=SHORT, header_seconds=SHORT)) as server:
        server.may_answer.clear()
        client = await server.connect(HEAD + b"Content-Length: 3\r\n\r\nabc")
        await asyncio.sleep(3 * SHORT)
        server.may_answer.set()
        assert await client.answer() == b"200 ok"
        client.close()


@pytest.mark.parametrize("expects", [b"", b"Expect: 100-continue\r\n"])
async def test_a_body_that_we_hold_back_is_not_late(expects: bytes) -> None:
    async with serve(limits(body_seconds=SHORT)) as server:
        server.may_read.clear()
        content = bytes(4 * MIB)
        client = await server.connect(
            HEAD + expects + f"Content-Length: {len(content)}\r\n\r\n".encode()
        )
        sending = None if expects else asyncio.create_task(client.send(content))
        await until(lambda: server.num_begun == 1)
        await asyncio.sleep(3 * SHORT)
        assert server.guard.num_admitted == 1
        server.may_read.set()
        if sending is None:
            assert b" 100 " in await client.reader.readuntil(b"\r\n\r\n")
            await client.send(content)
        assert await client.answer() == b"200 ok"
        client.close()


async def test_a_kept_connection_has_its_time_anew() -> None:
    async with serve(limits(header_seconds=SHORT, body_seconds=SHORT)) as server:
        client = await server.connect()
        for _ in range(3):
            await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await client.answer() == b"200 ok"
            await asyncio.sleep(SHORT / 2)
        await client.send(b"GET / HT")
        assert await client.dropped() == b""
        client.close()


async def test_who_takes_nothing_of_the_answer_is_dropped() -> None:
    async with serve(limits(answer_seconds=SHORT, header_seconds=SHORT)) as server:
        server.body = bytes(64 * MIB)
        client = await server.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: server.num_begun == 1)
        await until(lambda: not server.guard.num_admitted)
        client.close()


async def test_who_takes_nothing_of_a_stream_is_dropped_and_its_work_ends() -> None:
    """What the answer gains meanwhile is joined; nothing waits for the reader but his own call."""
    fates: list[str] = []

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        async def work() -> Answered:
            growth.add(AnswerDelta(text="x" * 64 * MIB))
            while (await receive())["type"] != "http.disconnect":
                pass
            fates.append("left")
            raise CallerLeftError("The caller left.")

        growth = Growth()
        form = TextEvents(request_id="r", account_id="a")
        await EventStream(work, growth, form)(scope, receive, send)
        fates.append("ended")

    strict = limits(answer_seconds=SHORT, header_seconds=SHORT)
    async with serve(strict, app=stream) as server:
        client = await server.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: fates == ["left", "ended"])
        await until(lambda: not server.guard.num_admitted)
        client.close()


async def test_who_takes_the_answer_slowly_gets_it() -> None:
    async with serve(limits(answer_seconds=4 * SHORT)) as server:
        server.body = bytes(24 * MIB)
        client = await server.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        num_read = 0
        while num_read < len(server.body):
            part = await client.reader.read(4 * MIB)
            assert part
            num_read += len(part)
            await asyncio.sleep(0.001)
        client.close()


GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def served(server: Server, clients: list[Client]) -> None:
    server.may_answer.set()
    for client in clients:
        assert await client.answer() == b"200 ok"
        client.close()
    await until(lambda: not server.guard.num_admitted and not server.guard.num_held)


@pytest.mark.parametrize("changes", [{"max_connections": 3}, {"max_per_address": 3}])
async def test_connections_beyond_the_most_are_held_and_served_later(
    changes: dict[str, int],
) -> None:
    async with serve(limits(header_seconds=2 * SHORT, **changes)) as server:
        server.may_answer.clear()
        clients = [await server.connect(GET) for _ in range(8)]
        await until(lambda: server.guard.num_held == 5)
        await asyncio.sleep(3 * SHORT)  # longer than they had for their headers, if we read them
        assert (server.num_begun, server.guard.num_admitted) == (3, 3)
        await served(server, clients)
        assert server.num_begun == 8


async def test_one_address_leaves_room_for_others() -> None:
    async with serve(limits(max_connections=10, max_per_address=2)) as server:
        server.may_answer.clear()
        many = [await server.connect(GET) for _ in range(5)]
        await until(lambda: server.guard.num_held == 3)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.port, local_addr=("127.0.0.2", 0)
        )
        other = Client(reader, writer)
        await other.send(GET)
        await until(lambda: server.num_begun == 3)
        await served(server, [other, *many])


async def test_an_address_that_speaks_for_many_has_no_limit_of_its_own() -> None:
    async with serve(limits(max_per_address=1), is_unlimited=lambda a: a == "127.0.0.1") as server:
        server.may_answer.clear()
        clients = [await server.connect(GET) for _ in range(5)]
        await until(lambda: server.num_begun == 5)
        await served(server, clients)


async def test_far_too_many_are_closed_at_once() -> None:
    async with serve(limits(max_connections=1)) as server:
        server.may_answer.clear()
        clients = [await server.connect(GET) for _ in range(1 + MAX_HELD_PER_PLACE)]
        await until(lambda: server.guard.num_held == MAX_HELD_PER_PLACE)
        one_too_many = await server.connect()
        assert await one_too_many.dropped() == b""
        one_too_many.close()
        await served(server, clients)
