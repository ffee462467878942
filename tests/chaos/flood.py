"""A flood of large calls over raw sockets, from a process of low priority; one JSON line a call.

    python -m tests.chaos.flood PORT FINETUNE_ID... --clients 64 --rounds 1 --body-bytes 20000000

Each client makes its calls one after another, each on a connection of its own as the SDK does, and
takes every answer to its end. Nothing is sent again: what is judged is each single answer. Bodies
share their bytes, so that this process needs no more memory than one of them.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import dataclasses
import io
import itertools
import json
import os
import sys
import time
from dataclasses import dataclass
from typing import Any

from PIL import Image

LOWEST_PRIORITY = 19
UNIQUE_BYTES = 12
"""Of a picture's file, after its end: no two are alike. A multiple of 3 for base64."""

NUM_CLIENTS, NUM_BODY_BYTES = 64, 20_000_000
MAX_PICTURE_BYTES = 9_000_000
_READ_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one call ended.

    Attributes:
        status: 0 if the connection broke.
        seconds: From the connection to the end of the answer.
        silent_seconds: From the last byte of the body to the first of the answer, which is what
            the patience of a client is measured by.
    """

    path: str
    status: int
    seconds: float
    silent_seconds: float
    num_bytes: int
    message: str = ""
    retry_after: int | None = None


class Bodies:
    """Bodies of about so many bytes, each with pictures that nobody sent before."""

    def __init__(self, num_bytes: int):
        self._num_bytes = num_bytes
        self._picture = noise(min(MAX_PICTURE_BYTES, num_bytes // 2))
        self._numbers = itertools.count(int.from_bytes(os.urandom(8), "big"))

    def rollouts(self, finetune_id: str) -> list[bytes]:
        """One picture, and the rest in a field that nobody knows."""
        head = json.dumps({"finetune_id": finetune_id, "num_rollouts": 1})[:-1].encode()
        request = b', "request": {"skill": "query", "question": "?", "settings": {"max_tokens": 2}'
        return self._filled([head, request, b', "image_url": "', *self._url(), b'"}'])

    def train_step(self, finetune_id: str) -> list[bytes]:
        """As many pictures as fit, one a group."""
        head = json.dumps({"finetune_id": finetune_id, "lr": 1e-4})[:-1].encode()
        parts, lengths = [head, b', "groups": ['], 0
        separator = b""
        while lengths + len(self._picture) < self._num_bytes:
            parts += [
                separator,
                b'{"mode": "sft", "target": {"answer": "a"}, "request": {"skill": "query",',
                b' "question": "?", "image_url": "',
                *self._url(),
                b'"}}',
            ]
            lengths += len(self._picture)
            separator = b", "
        return self._filled([*parts, b"]"])

    def _url(self) -> list[bytes]:
        unique = (next(self._numbers) % (1 << 64)).to_bytes(UNIQUE_BYTES, "big")
        return [b"data:image/png;base64,", self._picture, base64.b64encode(unique)]

    def _filled(self, parts: list[bytes]) -> list[bytes]:
        num_missing = max(0, self._num_bytes - sum(map(len, parts)))
        return [*parts, b', "padding": "', b"x" * num_missing, b'"}']


def noise(num_bytes: int) -> bytes:
    """A square picture of noise as base64, whose file has about so many bytes."""
    side = max(8, int((num_bytes / 3 * 3 / 4) ** 0.5))
    file = io.BytesIO()
    Image.frombytes("RGB", (side, side), os.urandom(3 * side * side)).save(
        file, "PNG", compress_level=0
    )
    content = file.getvalue()
    return base64.b64encode(content + bytes(-len(content) % 3))


async def call(
    port: int, path: str, parts: list[bytes], *, seconds: float = 900.0, key: str = "k"
) -> Outcome:
    """POST a body, and take the answer to its end."""
    started = time.monotonic()
    sent = first = None
    status, taken, head = 0, b"", b""
    num_bytes = sum(map(len, parts))
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                lines = (
                    f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                    f"X-Moondream-Auth: {key}\r\nContent-Length: {num_bytes}\r\n\r\n"
                )
                writer.write(lines.encode())
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                sent = time.monotonic()
                head = await reader.readuntil(b"\r\n\r\n")
                first = time.monotonic()
                status = int(head.split()[1])
                while block := await reader.read(_READ_BYTES):
                    taken = block if status != 200 else b""
            finally:
                writer.close()
    except (OSError, EOFError, TimeoutError, ValueError) as error:
        status, taken = 0, repr(error).encode()
    ended = time.monotonic()
    return Outcome(
        path=path,
        status=status,
        seconds=ended - started,
        silent_seconds=(first or ended) - (sent or started),
        num_bytes=num_bytes,
        message=_message(taken) if status != 200 else "",
        retry_after=_retry_after(head),
    )


def _message(taken: bytes) -> str:
    try:
        return json.loads(taken)["message"]
    except (ValueError, KeyError, TypeError):
        return taken.decode(errors="replace")


def _retry_after(head: bytes) -> int | None:
    _, found, rest = head.lower().partition(b"retry-after: ")
    return int(rest.split()[0]) if found else None


async def flood(
    port: int, finetune_ids: list[str], *, clients: int, rounds: int, body_bytes: int
) -> None:
    """All calls; each is told on stdout when it has ended."""
    bodies = Bodies(body_bytes)

    async def work(index: int) -> None:
        finetune_id = finetune_ids[index % len(finetune_ids)]
        for number in range(rounds):
            if (index + number) % 2:
                parts = bodies.train_step(finetune_id)
                outcome = await call(port, "/v1/tuning/train_step", parts)
            else:
                outcome = await call(port, "/v1/tuning/rollouts", bodies.rollouts(finetune_id))
            _tell(dataclasses.asdict(outcome))

    await asyncio.gather(*(work(index) for index in range(clients)))


def _tell(outcome: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(outcome) + "\n")
    sys.stdout.flush()


def main() -> None:
    """As the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.flood", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("finetune_ids", nargs="+")
    parser.add_argument("--clients", type=int, default=NUM_CLIENTS)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--body-bytes", type=int, default=NUM_BODY_BYTES)
    arguments = parser.parse_args()
    os.nice(LOWEST_PRIORITY)
    asyncio.run(
        flood(
            arguments.port,
            arguments.finetune_ids,
            clients=arguments.clients,
            rounds=arguments.rounds,
            body_bytes=arguments.body_bytes,
        )
    )


if __name__ == "__main__":
    main()
