"""Messages over one connected socket, without blocking the event loop or copying pictures.

The kernel's socket buffer is the only buffer: a sender waits until the peer has read, so that a
step with gigabytes of pixels holds no second copy of them.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from contract.framing import PREFIX, Message, decode

MAX_INCOMING_BYTES = 1 << 28
"""Far above any result; what is announced larger is not one of our messages."""


class MalformedMessageError(Exception):
    """The peer sent something that is not a message of the contract."""


class Channel:
    """One end of the socket. Owns it: `close` ends the conversation.

    At most one task may send and one may receive at a time. A send that is cancelled half way
    leaves the stream unusable.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock

    async def send(self, parts: Sequence[bytes | memoryview]) -> None:
        """Write one encoded message; returns when the kernel has taken its last byte.

        Raises:
            OSError: The peer is gone.
        """
        loop = asyncio.get_running_loop()
        for part in parts:
            await loop.sock_sendall(self._sock, part)

    async def receive(self) -> Message | None:
        """Read one message, or None when the peer has ended the conversation.

        Raises:
            MalformedMessageError: The bytes are not a message.
        """
        prefix = await self._read(PREFIX.size)
        if prefix is None:
            return None
        header_length, body_length = PREFIX.unpack(prefix)
        if header_length + body_length > MAX_INCOMING_BYTES:
            raise MalformedMessageError(f"{header_length} + {body_length} bytes were announced")
        header, body = await self._read(header_length), await self._read(body_length)
        if header is None or body is None:
            return None
        try:
            return await asyncio.to_thread(decode, bytes(header), memoryview(body))
        except (ValueError, TypeError, KeyError) as error:
            raise MalformedMessageError(f"{type(error).__name__} in its header") from error

    async def _read(self, num_bytes: int) -> bytearray | None:
        """Exactly `num_bytes`, or None when the stream ends first."""
        buffer = bytearray(num_bytes)
        rest = memoryview(buffer)
        loop = asyncio.get_running_loop()
        while rest:
            try:
                num_read = await loop.sock_recv_into(self._sock, rest)
            except ConnectionError:
                return None
            if num_read == 0:
                return None
            rest = rest[num_read:]
        return buffer

    def close(self) -> None:
        """End the conversation; nothing may be sending or receiving any more."""
        self._sock.close()
