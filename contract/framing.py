"""Messages between the two processes: a length-prefixed JSON header, then raw bytes.

    [header length, 4 bytes][body length, 8 bytes][header: JSON in UTF-8][body: the blobs, in order]

The header's `blobs` lists the length of each blob. Never pickle: a message can carry data only.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

PREFIX = struct.Struct("!IQ")
MAX_HEADER_BYTES = 1 << 30


class NotFiniteError(ValueError):
    """A header holds NaN or infinity, which JSON has no words for."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message: a plain JSON object and the raw bytes that travel with it."""

    header: dict[str, Any]
    blobs: Sequence[bytes | memoryview] = field(default_factory=tuple)


def encode(message: Message) -> list[bytes | memoryview]:
    """Return the parts to write, in order; pictures are not copied.

    Raises:
        NotFiniteError: The header holds NaN or infinity.
        ValueError: It is larger than `MAX_HEADER_BYTES`.
    """
    header = {**message.header, "blobs": [len(blob) for blob in message.blobs]}
    try:
        text = json.dumps(header, allow_nan=False, separators=(",", ":")).encode()
    except ValueError as error:
        raise NotFiniteError(str(error)) from error
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {len(text)} bytes is over {MAX_HEADER_BYTES}")
    body_length = sum(len(blob) for blob in message.blobs)
    return [PREFIX.pack(len(text), body_length), text, *message.blobs]


def decode(header_bytes: bytes, body: bytes | memoryview) -> Message:
    """Rebuild a message from what followed the prefix.

    Raises:
        ValueError: The header is not a JSON object whose `blobs` add up to the body.
    """
    header: dict[str, Any] = json.loads(header_bytes)
    if type(header) is not dict or sum(header.get("blobs", ())) != len(body):
        raise ValueError("the header does not describe the body")
    view, start, blobs = memoryview(body), 0, list[memoryview]()
    for length in header.pop("blobs"):
        blobs.append(view[start : start + length])
        start += length
    return Message(header=header, blobs=blobs)
