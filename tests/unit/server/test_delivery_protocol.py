"""What the protocol says of an answer, with real sockets on the loopback; http-api.md 4.3."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn

from server.domain.delivery import Delivery, Fate
from server.http import protocol
from server.http.listener import let_nobody_in, num_waiting_at
from server.http.protocol import DELIVERY, DeliveryProtocol
from tests.service import until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel"),
]

LARGE = 4 << 20


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Watching:
    """A server whose answers are watched."""

    port: int = 0
    server: Any = None
    deliveries: list[Delivery] = field(default_factory=list)
    fates: asyncio.Queue[Fate | None] = field(default_factory=asyncio.Queue)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    body: bytes = b"ok"
    has_read: bool = False
    is_watched: bool = True

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        delivery: Delivery = scope["extensions"][DELIVERY]
        self.deliveries.append(delivery)
        if self.is_watched:
            delivery.when_known(lambda _: self.fates.put_nowait(delivery.fate))
        while (await receive()).get("more_body"):
            pass
        self.has_read = True
        await self.may_answer.wait()
        headers = [(b"content-length", str(len(self.body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})

    async def fate(self) -> Fate | None:
        return await asyncio.wait_for(self.fates.get(), 10)


@pytest.fixture
async def watching(anyio_backend: str) -> AsyncIterator[Watching]:
    state = Watching()
    state.may_answer.set()
    config = uvicorn.Config(
        state.app,
        interface="asgi3",
        loop="asyncio",
        http=DeliveryProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
    )
    server = state.server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    state.port = listener.getsockname()[1]
    serving = asyncio.create_task(server._serve(sockets=[listener]))
    await until(lambda: server.started)
    yield state
    state.may_answer.set()
    server.should_exit = True
    await serving


def request(*, close: bool = True, num_bytes: int = 2) -> bytes:
    connection = "close" if close else "keep-alive"
    length = f"Content-Length: {num_bytes}"
    head = f"POST / HTTP/1.1\r\nHost: x\r\nConnection: {connection}\r\n{length}\r\n\r\n"
    return head.encode() + bytes(num_bytes)


async def connect(watching: Watching) -> socket.socket:
    """A client of which every move is the test's."""
    client = socket.socket()
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", watching.port))
    return client


async def ask(watching: Watching, *, close: bool = True) -> socket.socket:
    client = await connect(watching)
    await asyncio.get_running_loop().sock_sendall(client, request(close=close))
    return client


async def read(client: socket.socket, watching: Watching) -> bytes:
    """Read the whole answer, and no more."""
    loop, got = asyncio.get_running_loop(), b""
    while b"\r\n\r\n" not in got:
        got += await loop.sock_recv(client, 65536)
    head, _, body = got.partition(b"\r\n\r\n")
    while len(body) < len(watching.body):
        body += await loop.sock_recv(client, 65536)
    return head


async def test_a_close_after_reading_is_taken(watching: Watching) -> None:
    client = await ask(watching)
    await read(client, watching)
    client.close()
    assert await watching.fate() is Fate.TAKEN


async def test_our_side_waits_for_the_close_of_the_peer(watching: Watching) -> None:
    client = await ask(watching)
    await read(client, watching)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 1), 0.2)
    assert watching.fates.empty()
    client.close()
    assert await watching.fate() is Fate.TAKEN


async def test_a_large_answer_is_taken_when_all_of_it_was_read(watching: Watching) -> None:
    watching.body = bytes(LARGE)
    client = await ask(watching)
    await read(client, watching)
    client.close()
    assert await watching.fate() is Fate.TAKEN


async def test_a_close_before_the_answer_is_not_taken(watching: Watching) -> None:
    watching.may_answer.clear()
    client = await ask(watching)
    await until(lambda: watching.deliveries)
    client.close()
    assert await watching.fate() is Fate.LEFT
    watching.may_answer.set()


async def test_a_close_after_a_large_body_is_seen_while_the_answer_is_made(
    watching: Watching,
) -> None:
    watching.may_answer.clear()
    client = await connect(watching)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, request(num_bytes=300_000))
    await until(lambda: watching.has_read)
    client.close()
    assert await watching.fate() is Fate.LEFT  # although the answer was never begun
    watching.may_answer.set()


async def test_a_close_that_only_the_kernel_knows_of_is_seen_before_the_send(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_kernel_view", lambda _: (8, 0))  # CLOSE_WAIT, all acknowledged
    client = await ask(watching)
    assert await watching.fate() is Fate.LEFT
    client.close()


async def test_an_end_is_announced_on_connections_that_are_kept(watching: Watching) -> None:
    watching.may_answer.clear()
    client = await ask(watching, close=False)
    await until(lambda: watching.has_read)
    watching.server.should_exit = True
    await until(lambda: not watching.server.servers[0].is_serving())
    watching.may_answer.set()
    assert b"connection: close" in (await read(client, watching)).lower()
    client.close()


async def test_a_close_with_the_answer_unread_is_a_reset(watching: Watching) -> None:
    client = await ask(watching)
    await until(lambda: is_readable(client))
    client.close()  # bytes are unread, so the kernel sends a reset
    assert await watching.fate() is Fate.RESET


def is_readable(client: socket.socket) -> bool:
    try:
        return bool(client.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


async def test_a_reset_after_reading_is_a_reset(watching: Watching) -> None:
    client = await ask(watching)
    await read(client, watching)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert await watching.fate() is Fate.RESET


async def test_a_close_in_the_middle_of_a_large_answer_is_not_taken(watching: Watching) -> None:
    watching.body = bytes(16 * LARGE)
    client = await ask(watching)
    await asyncio.get_running_loop().sock_recv(client, 65536)
    client.close()
    assert await watching.fate() in (Fate.LEFT, Fate.RESET)


async def test_a_quiet_peer_that_has_everything_has_taken_it(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "QUIET_SECONDS", 0.1)
    for close in (True, False):
        client = await ask(watching, close=close)
        await read(client, watching)
        assert await watching.fate() is Fate.QUIET
        client.close()


async def test_bytes_that_are_never_acknowledged_are_not_taken(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "UNACKNOWLEDGED_SECONDS", 0.1)
    monkeypatch.setattr(protocol, "_kernel_view", lambda _: (1, 7))  # established, 7 bytes out
    client = await ask(watching)
    assert await watching.fate() is Fate.LEFT
    client.close()


async def test_another_request_on_the_connection_says_that_the_first_was_taken(
    watching: Watching,
) -> None:
    client = await ask(watching, close=False)
    await read(client, watching)
    await asyncio.get_running_loop().sock_sendall(client, request())
    assert await watching.fate() is Fate.TAKEN
    await read(client, watching)
    client.close()
    assert await watching.fate() is Fate.TAKEN


async def test_pipelined_requests_have_a_fate_each(watching: Watching) -> None:
    client = await connect(watching)
    await asyncio.get_running_loop().sock_sendall(client, request(close=False) + request())
    await read(client, watching)
    assert await watching.fate() is Fate.TAKEN
    client.close()
    assert await watching.fate() in (Fate.TAKEN, Fate.RESET)


async def test_a_kept_connection_whose_peer_closes_has_taken_it(watching: Watching) -> None:
    client = await ask(watching, close=False)
    await read(client, watching)
    client.close()
    assert await watching.fate() is Fate.TAKEN


async def test_unwatched_answers_are_closed_at_once(watching: Watching) -> None:
    watching.is_watched = False
    client = await ask(watching)
    await read(client, watching)
    assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 1), 1) == b""
    client.close()
    assert watching.deliveries[0].fate is Fate.TAKEN


async def test_a_connection_that_came_before_the_end_is_still_answered(
    watching: Watching,
) -> None:
    client = await connect(watching)
    await until(lambda: watching.server.server_state.connections)
    watching.server.should_exit = True
    await until(lambda: not watching.server.servers[0].is_serving())
    await asyncio.get_running_loop().sock_sendall(client, request(close=False))
    head = await read(client, watching)
    assert b"200 OK" in head
    client.close()
    assert await watching.fate() is Fate.TAKEN
    await until(lambda: not watching.server.server_state.connections)


async def test_one_that_never_asks_does_not_hold_the_end_up(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "LAST_REQUEST_SECONDS", 0.05)
    client = await connect(watching)
    await until(lambda: watching.server.server_state.connections)
    watching.server.should_exit = True
    assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 1), 5) == b""
    client.close()


def test_who_waits_at_a_port_is_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert num_waiting_at(listener) == 0
        with socket.create_connection(listener.getsockname()):
            assert num_waiting_at(listener) == 1
            listener.accept()[0].close()
            assert num_waiting_at(listener) == 0


def test_nobody_gets_in_any_more_and_who_is_in_is_served() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as late:
        with socket.create_connection(listener.getsockname()) as early:
            let_nobody_in(listener)
            late.setblocking(False)
            assert late.connect_ex(listener.getsockname()) == errno.EINPROGRESS
            early.sendall(b"here")
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(4) == b"here"
                connection.sendall(b"yes")
                assert early.recv(3) == b"yes"
        assert num_waiting_at(listener) == 0
        assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0  # not refused: unheard


async def test_a_proxy_that_resets_after_the_answer_has_taken_it() -> None:
    for through_proxy, told in ((True, True), (False, False)):
        delivery, heard = Delivery(through_proxy=through_proxy), list[bool]()
        delivery.when_known(heard.append)
        delivery.settle(Fate.RESET)
        delivery.settle(Fate.TAKEN)  # the first word counts
        assert heard == [told]
