"""The service's end of one decoding child: blocking, for use by one thread at a time."""

from __future__ import annotations

import signal
import socket
import subprocess

from server.children import environment_without_secrets, module_command
from server.domain.errors import ImageDecodeError, ImageTooLargeError, OverloadedError
from server.images.exchange import ANSWER, PIXELS, REQUEST, SIZE, TOO_LARGE, read_exactly

MAX_ATTEMPTS = 2
"""A child may die for reasons that are not the picture's, which is therefore tried once more."""

OUT_OF_TIME = (-signal.SIGALRM, -signal.SIGPROF)
"""How a child ends whose picture took too long."""


class DecodeChild:
    """A child process, started at once, and again before the next picture when it has died.

    Args:
        max_bytes: Of one file.
        max_pixels: Of one picture.
        max_seconds: Of one decode; a child that takes longer ends itself.
    """

    def __init__(self, *, max_bytes: int, max_pixels: int, max_seconds: float) -> None:
        self._limits = (str(max_bytes), str(max_pixels), str(max_seconds))
        self._max_seconds = max_seconds
        self._process, self._sock = self._start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def measure(self, payload: bytes | memoryview) -> tuple[int, int]:
        """Return (height, width) by the header; nothing is decoded. Raises as `decode`."""
        height, width, _ = self._ask_twice(SIZE, payload)
        return height, width

    def decode(self, payload: bytes | memoryview) -> tuple[int, int, bytes]:
        """Return (height, width, RGB bytes) of a file that is given in base64.

        Raises:
            ImageTooLargeError: Too many bytes or pixels.
            ImageDecodeError: No base64, damaged, or beyond the limits of time and memory.
            OverloadedError: The child had died and no other can be started now.
        """
        return self._ask_twice(PIXELS, payload)

    def close(self) -> None:
        """End the child, whatever it is doing."""
        self._sock.close()
        self._process.kill()
        self._process.wait()

    def _ask_twice(self, wanted: bytes, payload: bytes | memoryview) -> tuple[int, int, bytes]:
        for _ in range(MAX_ATTEMPTS):
            self._revive()
            try:
                return self._ask(wanted, payload)
            except (EOFError, OSError):
                if self._bury() in OUT_OF_TIME:
                    break
        raise ImageDecodeError(
            "The image could not be decoded within the limits of time and memory."
        )

    def _ask(self, wanted: bytes, payload: bytes | memoryview) -> tuple[int, int, bytes]:
        self._sock.sendall(REQUEST.pack(wanted, len(payload)))
        self._sock.sendall(payload)
        kind, first, second = ANSWER.unpack(read_exactly(self._sock, ANSWER.size))
        if kind == PIXELS:
            return first, second, read_exactly(self._sock, first * second * 3)
        if kind == SIZE:
            return first, second, b""
        message = read_exactly(self._sock, first).decode()
        raise ImageTooLargeError(message) if kind == TOO_LARGE else ImageDecodeError(message)

    def _bury(self) -> int:
        """Give up a child that has hung up; return how it ended."""
        self._sock.close()
        try:
            return self._process.wait(timeout=self._max_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _revive(self) -> None:
        """Start another child for one that was given up.

        Raises:
            OverloadedError: Files, processes or memory are short. A later call tries again.
        """
        if self._sock.fileno() != -1:
            return
        try:
            self._process, self._sock = self._start()
        except OSError as error:
            raise OverloadedError(
                "The server cannot start a process to decode the image"
                f" ({error.strerror or type(error).__name__}); nothing was changed."
                " Ask again later."
            ) from error

    def _start(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, theirs = socket.socketpair()
        with theirs:
            words = (str(theirs.fileno()), *self._limits)
            try:
                process = subprocess.Popen(
                    module_command("server.images.decode_process", *words),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=environment_without_secrets(),
                    process_group=0,
                )
            except BaseException:
                ours.close()
                raise
        return process, ours
