"""What the kernel says of a listening socket."""

from __future__ import annotations

import socket
import struct
import sys

_NUM_WAITING_AT = 24
"""Where `tcpi_unacked` stands in struct tcp_info; of a listening socket it is the accept queue."""


def num_waiting_at(listener: socket.socket) -> int:
    """How many connections are established and not accepted yet; 0 where that cannot be known."""
    if sys.platform != "linux" or listener.family not in (socket.AF_INET, socket.AF_INET6):
        return 0
    size = _NUM_WAITING_AT + 4
    facts = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size)
    return struct.unpack_from("I", facts, _NUM_WAITING_AT)[0]
