"""What the kernel says of a listening socket, and how it is told to let nobody else in."""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
from contextlib import suppress

_NUM_WAITING_AT = 24
"""Where `tcpi_unacked` stands in struct tcp_info; of a listening socket it is the accept queue."""


def num_waiting_at(listener: socket.socket) -> int:
    """How many connections are established and not accepted yet; 0 where that cannot be known."""
    if sys.platform != "linux" or listener.family not in (socket.AF_INET, socket.AF_INET6):
        return 0
    size = _NUM_WAITING_AT + 4
    facts = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size)
    return struct.unpack_from("I", facts, _NUM_WAITING_AT)[0]


def let_nobody_in(listener: socket.socket) -> None:
    """Have the kernel pass over attempts to connect, as if they were lost on the way.

    Who tries sends again after a second, and meets the next server, or a refusal. Connections that
    are established, in the accept queue too, and handshakes under way are not touched: so the queue
    can be emptied for good before the socket is closed, which would reset all that is in it. Only
    Linux can; elsewhere nothing happens.
    """
    if sys.platform != "linux" or listener.family not in (socket.AF_INET, socket.AF_INET6):
        return
    program = (_BpfInstruction * len(_NO_SYN))(*_NO_SYN)
    described = _BpfProgram(len(_NO_SYN), program)
    with suppress(OSError):  # forbidden in some sandboxes
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(described))


class _BpfInstruction(ctypes.Structure):
    """struct sock_filter of linux/filter.h."""

    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("operand", ctypes.c_uint32),
    )


class _BpfProgram(ctypes.Structure):
    """struct sock_fprog of linux/filter.h."""

    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_BpfInstruction)))


_SO_ATTACH_FILTER = 26
_NO_SYN = (
    (0x30, 0, 0, 13),  # load the byte of the TCP header that has the flags
    (0x45, 0, 1, 0x02),  # is SYN set?
    (0x06, 0, 0, 0),  # then drop the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # else keep all of it
)
"""Of a listening TCP socket, a filter sees packets from their TCP header on (RFC 793, 3.1)."""
