"""A child that decodes pictures, one after another, under limits of memory and time.

Run by `server/images/decode_child.py` as `python -m server.images.decode_process FD MAX_BYTES
MAX_PIXELS MAX_SECONDS`. Standard library and Pillow only: it starts in a tenth of a second and
holds nothing that a broken file could harm. It ends when the service hangs up.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from contextlib import suppress

from server.images.base64_text import NotBase64Error, TooManyBytesError, parse_base64
from server.images.checks import (
    DamagedError,
    TooManyPixelsError,
    decode_checked,
    open_checked,
    rgb_strips,
)
from server.images.exchange import (
    ANSWER,
    DAMAGED,
    PIXELS,
    REQUEST,
    SIZE,
    TOO_LARGE,
    read_exactly,
)

MAX_MEMORY_BYTES = 3 << 29  # 1.5 GiB; a 50-megapixel WebP, the costliest, takes 0.8

HEADER_CPU_SECONDS = 0.5
"""For the base64 of a file, its header and all that stands before the pixels; a sound one of 10 MiB
took 0.06 to 0.07."""

DECODE_CPU_SECONDS = 4.0
"""For the pixels; the costliest sound picture takes 1.4 on a slow machine. Time that passes while
others have the CPU does not count, so that a busy machine refuses no more than an idle one."""

PATIENCE = 5
"""Steps of niceness: who waits for the event loop waits for all that it serves."""


def main() -> None:
    """Serve until the other end hangs up."""
    fd, max_bytes, max_pixels = map(int, sys.argv[1:4])
    max_seconds = float(sys.argv[4])
    os.nice(PATIENCE)
    with suppress(ValueError, OSError):  # not every system can limit the address space
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    with socket.socket(fileno=fd) as sock, suppress(EOFError, ConnectionError):
        while True:
            wanted, num_bytes = REQUEST.unpack(read_exactly(sock, REQUEST.size))
            payload = read_exactly(sock, num_bytes)
            # Nobody handles these alarms: a decode that takes too long ends this process.
            signal.setitimer(signal.ITIMER_REAL, max_seconds)
            signal.setitimer(signal.ITIMER_PROF, HEADER_CPU_SECONDS)
            _answer(sock, wanted, payload, max_bytes, max_pixels)
            del payload  # or an idle child would keep it
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(
    sock: socket.socket, wanted: bytes, payload: bytes, max_bytes: int, max_pixels: int
) -> None:
    """Decode one file and send what became of it; a fault after the first row ends the child."""
    try:
        encoded = parse_base64(payload, max_bytes=max_bytes)
        image = open_checked(encoded, max_pixels=max_pixels)
        signal.setitimer(signal.ITIMER_PROF, DECODE_CPU_SECONDS)
        if wanted == PIXELS:
            decode_checked(image, max_pixels=max_pixels)
    except (TooManyBytesError, TooManyPixelsError) as refusal:
        _refuse(sock, TOO_LARGE, refusal)
        return
    except (NotBase64Error, DamagedError) as refusal:
        _refuse(sock, DAMAGED, refusal)
        return
    sock.sendall(ANSWER.pack(wanted, image.height, image.width))
    if wanted == SIZE:
        return
    for strip in rgb_strips(image):
        sock.sendall(strip)


def _refuse(sock: socket.socket, kind: bytes, refusal: Exception) -> None:
    text = str(refusal).encode()
    sock.sendall(ANSWER.pack(kind, len(text), 0) + text)


if __name__ == "__main__":
    main()
