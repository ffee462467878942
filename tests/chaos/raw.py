"""HTTP by hand: what the SDK cannot do, from addresses of the loopback that are chosen."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

PIECE_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back; status 0 when the connection broke."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of a refusal; empty for anything else."""
        with suppress(ValueError, KeyError, TypeError):
            return self.json()["error"]["code"]
        return ""


BROKEN = Answer(status=0, headers={}, body=b"")


class Caller:
    """One client with one connection, which it keeps as long as it can."""

    def __init__(self, port: int, headers: Mapping[str, str] | None = None):
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60.0)
        self._headers = {"Host": "localhost", **(headers or {})}

    def call(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request; a connection that the server has ended meanwhile is opened once more."""
        for is_last in (False, True):
            try:
                self._connection.request(method, path, body, {**self._headers, **(headers or {})})
                answer = self._connection.getresponse()
                named = {name.lower(): value for name, value in answer.getheaders()}
                return Answer(status=answer.status, headers=named, body=answer.read())
            except (OSError, http.client.HTTPException):
                self._connection.close()
                if is_last:
                    return BROKEN
        return BROKEN

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return self.call("POST", path, json.dumps(body).encode(), headers)

    def close(self) -> None:
        self._connection.close()


def upload(port: int, path: str, num_bytes: int, *, is_chunked: bool) -> tuple[Answer, int]:
    """POST so many spaces; the answer, and how many of them were sent before it began to come."""
    with socket.create_connection(("127.0.0.1", port), timeout=60.0) as sock:
        length = "Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {num_bytes}"
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{length}\r\n\r\n"
        sock.sendall(head.encode())
        num_sent = 0
        for piece in _pieces(num_bytes):
            sock.setblocking(False)
            with suppress(BlockingIOError):
                sock.recv(1, socket.MSG_PEEK)
                break
            sock.settimeout(60.0)
            sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
            num_sent += len(piece)
        sock.settimeout(60.0)
        if is_chunked and num_sent == num_bytes:
            sock.sendall(b"0\r\n\r\n")
        return _read(sock), num_sent


def connect(port: int, sent: bytes, *, address: str = "127.0.0.1") -> socket.socket:
    """A connection from one address of the loopback on which something was sent."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=60.0, source_address=(address, 0))
    sock.sendall(sent)
    return sock


def say(port: int, sent: bytes) -> bytes:
    """Send bytes as they are, and return all that comes until the server closes."""
    with connect(port, sent) as sock:
        sock.shutdown(socket.SHUT_WR)
        taken = b""
        with suppress(OSError):
            while piece := sock.recv(1 << 16):
                taken += piece
        return taken


def _pieces(num_bytes: int) -> Iterable[bytes]:
    piece = b" " * PIECE_BYTES
    while num_bytes > 0:
        yield piece[:num_bytes]
        num_bytes -= PIECE_BYTES


def _read(sock: socket.socket) -> Answer:
    answer = http.client.HTTPResponse(sock)
    try:
        answer.begin()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(status=answer.status, headers=headers, body=answer.read())
    except (OSError, http.client.HTTPException):
        return BROKEN
