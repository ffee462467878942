"""How a process is started whose place a fork of a zygote takes."""

from __future__ import annotations

import sys
from pathlib import Path

NO_RECORD = "/dev/null"
_STUB = Path(__file__).with_name("stub.py")


def stub_command(
    zygote: str, *words: str, fd: int | None = None, record: str = NO_RECORD
) -> list[str]:
    """The argv of a stub.

    Args:
        zygote: The path of its socket.
        words: The kind of the fork and its arguments; `{fd}` in one stands for the descriptor.
        fd: A descriptor that the fork inherits besides its output.
        record: A file to which the fork is added.
    """
    number = "-" if fd is None else str(fd)
    return [sys.executable, "-I", "-S", "-E", str(_STUB), zygote, record, number, *words]


def worker_words(command: list[str]) -> list[str]:
    """The words of a worker's argv from its kind on, with a place for the descriptor."""
    words = command[command.index("trainer") :]
    words[words.index("--fd") + 1] = "{fd}"
    return words
