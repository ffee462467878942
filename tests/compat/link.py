"""A link between a script and a server that drops when it is told to."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

IN_THE_STEP = "drops in the step"
"""The body has arrived and the step has begun; it is not answered yet."""
WITH_THE_ANSWER = "drops with the answer"
"""The step is done; the link is gone before a byte of its answer is handed on."""

STEP_BEGAN_SECONDS = 0.01
"""After the last byte of a body."""
CHUNK_BYTES = 1 << 18
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Link:
    """Hands on every connection to a port of this machine, in threads.

    Args:
        deed_of: What happens to the connection with a number, counted from 1; None: nothing.

    Attributes:
        counts: How often each deed was done.
        max_bytes: The most bytes that a connection sent to the server.
    """

    def __init__(self, target_port: int, deed_of: Callable[[int], str | None]):
        self.counts: Counter[str] = Counter()
        self.max_bytes = 0
        self._target_port = target_port
        self._deed_of = deed_of
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        number = 0
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            number += 1
            deed = self._deed_of(number)
            threading.Thread(target=self._hand_on, args=(client, deed), daemon=True).start()

    def _hand_on(self, client: socket.socket, deed: str | None) -> None:
        with (
            client,
            socket.create_connection(("127.0.0.1", self._target_port)) as server,
            suppress(OSError),  # one side is gone, and the other hears of it
        ):
            num_bytes = 0
            open_ends = {client, server}
            while server in open_ends:
                patience = STEP_BEGAN_SECONDS if deed == IN_THE_STEP and num_bytes else None
                ready, _, _ = select.select(list(open_ends), [], [], patience)
                if not ready or (deed == WITH_THE_ANSWER and server in ready):
                    self.counts[str(deed)] += 1
                    for end in (client, server):
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                    return
                for end in ready:
                    data = end.recv(CHUNK_BYTES)
                    other = client if end is server else server
                    if not data:
                        open_ends.discard(end)
                        other.shutdown(socket.SHUT_WR)
                        continue
                    other.sendall(data)
                    if end is client:
                        num_bytes += len(data)
                        self.max_bytes = max(self.max_bytes, num_bytes)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()
