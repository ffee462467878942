"""Cuts the pictures out of a body before it is parsed, and puts them back into what is sent.

A picture is most of a body, and nobody needs it before the call has its turn. So the value of each
long `image_url`, or `url` as in chat, is replaced by a short text that says where its bytes lie in
the stored body, and the rest is parsed. Only what stands in the JSON as it is (no escapes,
printable ASCII) is cut, so that the bytes of a slice are the text, and may stand in an answer's
JSON as they are. What else a client writes (escapes, other prefixes) is parsed like any text.

The text names its body by 128 random bits: nobody can write one for a body that is not theirs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from server.bodies.stored import StoredBody
from server.domain.json_text import stands_as_it_is

MIN_SLICE_BYTES = 4096

_HEAD = b'"data:'
_KEY = re.compile(rb'(?<!\\)"(?:image_)?url"[ \t\r\n]*:[ \t\r\n]*\Z')
_LOOK_BACK_BYTES = 64
_WINDOW_BYTES = 256 << 10
_SLICE = re.compile(r"slice:([0-9a-f]{32}):(\d+):(\d+)")


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Where in a body a text lies: from `start` to before `stop`."""

    body_id: str
    start: int
    stop: int

    def __str__(self) -> str:
        return f"slice:{self.body_id}:{self.start}:{self.stop}"


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A part of a body that is replaced, and the slice that is named instead.

    That is itself, or an equal one that came before: equal pictures have one name.
    """

    start: int
    stop: int
    slice: Slice


def slice_of(text: str) -> Slice | None:
    """The slice that a text names, if it does."""
    match = _SLICE.fullmatch(text)
    if match is None:
        return None
    return Slice(body_id=match[1], start=int(match[2]), stop=int(match[3]))


def find_cuts(body: StoredBody) -> list[Cut]:
    """Find the pictures of a body, in order; reads it once, a piece at a time."""
    cuts: list[Cut] = []
    known: dict[bytes, Slice] = {}
    for start in _candidates(body):
        if cuts and start < cuts[-1].stop:
            continue
        stop, digest = _end_of_text(body, start)
        if stop is not None and stop - start >= MIN_SLICE_BYTES:
            own = Slice(body_id=body.id, start=start, stop=stop)
            cuts.append(Cut(start=start, stop=stop, slice=known.setdefault(digest, own)))
    return cuts


def without(body: StoredBody, cuts: list[Cut]) -> bytes:
    """The body with the names of slices in the place of its pictures."""
    parts: list[bytes] = []
    at = 0
    for cut in cuts:
        parts += (body.read(at, cut.start - at), str(cut.slice).encode())
        at = cut.stop
    parts.append(body.read(at, body.num_bytes - at))
    return b"".join(parts)


def with_slices(body: StoredBody, text: bytes) -> list[bytes | Slice]:
    """Split JSON at the names of this body's slices, each of which is to be sent instead."""
    parts: list[bytes | Slice] = []
    at = 0
    for match in re.finditer(rb"slice:" + body.id.encode() + rb":(\d+):(\d+)", text):
        parts.append(text[at : match.start()])
        parts.append(Slice(body_id=body.id, start=int(match[1]), stop=int(match[2])))
        at = match.end()
    return [*parts, text[at:]]


def _candidates(body: StoredBody) -> Iterator[int]:
    """Where the text of an `image_url` or `url` begins that may be long.

    In JSON, an unescaped quote that the name and a colon precede is the beginning of a value.
    """
    base = 0
    while base < body.num_bytes:
        first = max(0, base - _LOOK_BACK_BYTES - len(_HEAD))
        window = body.read(first, base - first + _WINDOW_BYTES)
        # One character is looked for fifty times faster than several, and pictures have no quotes.
        at = window.find(_HEAD) if b'"' in window else -1
        while at >= 0:
            is_new = first + at + len(_HEAD) > base
            is_short = window.find(b'"', at + 1, at + 1 + MIN_SLICE_BYTES) >= 0
            if is_new and not is_short and _KEY.search(window, max(0, at - _LOOK_BACK_BYTES), at):
                yield first + at + 1
            at = window.find(_HEAD, at + 1)
        base += _WINDOW_BYTES


def _end_of_text(body: StoredBody, start: int) -> tuple[int | None, bytes]:
    """Where the closing quote of a text is, and its SHA-256; no place if it is not to be cut."""
    fingerprint = hashlib.sha256()
    at = start
    for block in body.blocks(start, body.num_bytes):
        end = block.find(b'"')
        piece = block if end < 0 else block[:end]
        if not stands_as_it_is(piece):
            break
        fingerprint.update(piece)
        at += len(piece)
        if end >= 0:
            return at, fingerprint.digest()
    return None, b""
