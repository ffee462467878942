"""What is said over the socket between the service and a decoding child; standard library only.

    service -> child   [what is wanted, 1 byte][length, 4 bytes][the file in base64]
    child -> service   [kind, 1 byte][a, 4 bytes][b, 4 bytes][rest]

Wanted is the `SIZE`, which the header tells, or the `PIXELS`; both are answered by their own name:
a is the height, b the width, and after `PIXELS` the rest height x width x 3 bytes. `TOO_LARGE` and
`DAMAGED`: a is the length of the rest, a sentence in UTF-8.
"""

from __future__ import annotations

import socket
import struct

REQUEST = struct.Struct("!cI")
ANSWER = struct.Struct("!cII")

SIZE = b"S"
PIXELS = b"P"
TOO_LARGE = b"L"
DAMAGED = b"D"


def read_exactly(sock: socket.socket, num_bytes: int) -> bytes:
    """Read into one allocation, so that pixels are not copied.

    Raises:
        EOFError: The stream ends first.
    """
    data = sock.recv(num_bytes, socket.MSG_WAITALL)
    while len(data) < num_bytes:  # A signal may cut the wait short.
        rest = sock.recv(num_bytes - len(data), socket.MSG_WAITALL)
        if not rest:
            raise EOFError("the peer is gone")
        data += rest
    return data
