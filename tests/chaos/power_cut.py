"""What a power cut may leave of a directory, from a log of the operations on it.

The model of a disk is the most careless one that POSIX allows: what was not flushed is there, or
not, or up to some page of 4 kB; a name that was made, changed or removed since its directory was
flushed is as before or as after, each for itself.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from contract.durable import Operation

PAGE_BYTES = 4096
MAX_STATES_PER_CUT = 48


@dataclass
class _Content:
    """A file by itself, whatever its names: bytes, and how many of them are on the disk."""

    data: bytearray = field(default_factory=bytearray)
    num_flushed: int = 0

    def survivors(self) -> list[bytes]:
        """What may be left: everything flushed, and any number of pages of the rest."""
        whole, flushed = bytes(self.data), self.num_flushed
        if flushed == len(whole):
            return [whole]
        ends = {flushed, len(whole)}
        ends |= {end for end in range(0, len(whole), PAGE_BYTES) if end > flushed}
        kept = sorted(ends)
        if len(kept) > 4:  # the first, the last and two between them
            kept = [kept[0], kept[1], kept[len(kept) // 2], kept[-1]]
        return [whole[:end] for end in kept]


class Disk:
    """Names and contents, each with what is flushed of it."""

    def __init__(self) -> None:
        self._live: dict[Path, _Content] = {}
        self._flushed: dict[Path, _Content] = {}

    def apply(self, operation: Operation) -> None:
        path = operation.path
        match operation.kind:
            case "create":
                self._live[path] = _Content()
            case "write":
                self._live[path].data += operation.data
            case "sync":
                self._live[path].num_flushed = len(self._live[path].data)
            case "rename":
                assert operation.target is not None
                self._live[operation.target] = self._live.pop(path)
            case "remove":
                self._live.pop(path, None)
            case "sync_directory":
                for known in {*self._live, *self._flushed}:
                    if known.parent == path:
                        self._flush_name(known)
            case "make_directory":
                pass

    def _flush_name(self, path: Path) -> None:
        if path in self._live:
            self._flushed[path] = self._live[path]
        else:
            self._flushed.pop(path, None)

    def survivors(self, draw: random.Random) -> Iterator[dict[Path, bytes]]:
        """States that a cut now may leave: all, or a sample that has the extremes."""
        names = sorted({*self._live, *self._flushed})
        choices: list[list[tuple[Path, _Content | None]]] = []
        for name in names:
            before, after = self._flushed.get(name), self._live.get(name)
            options = [before] if before is after else [before, after]
            choices.append([(name, option) for option in options])
        contents = {id(c): c for options in choices for _, c in options if c is not None}
        leftovers = {key: content.survivors() for key, content in contents.items()}
        num_states = 1
        for options in (*choices, *leftovers.values()):
            num_states *= len(options)
        if num_states <= MAX_STATES_PER_CUT:
            for named in itertools.product(*choices):
                for left in itertools.product(*leftovers.values()):
                    yield _state(named, dict(zip(leftovers, left, strict=True)))
            return
        for end in (0, -1):  # nothing that was not flushed, and all of it
            for other in (0, -1):
                left = {key: options[other] for key, options in leftovers.items()}
                yield _state([options[end] for options in choices], left)
        for _ in range(MAX_STATES_PER_CUT - 4):
            left = {key: draw.choice(options) for key, options in leftovers.items()}
            yield _state([draw.choice(options) for options in choices], left)


def _state(
    named: Sequence[tuple[Path, _Content | None]], left: dict[int, bytes]
) -> dict[Path, bytes]:
    return {name: left[id(content)] for name, content in named if content is not None}
