"""What of the repository goes to the builder: the context, by .dockerignore.

Of its patterns the forms are known that ours uses: `*`, `?`, `**`, and `!` for what comes back; the
last one that matches a path or a folder above it counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """One line of .dockerignore."""

    expression: re.Pattern[str]
    keeps: bool


def patterns(text: str) -> list[Pattern]:
    """Read a .dockerignore.

    Raises:
        ValueError: A form that is not known here.
    """
    found: list[Pattern] = []
    for raw in text.splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        keeps = line.startswith("!")
        found.append(Pattern(expression=_expression(line.lstrip("!").strip("/")), keeps=keeps))
    return found


def is_ignored(path: str, rules: list[Pattern]) -> bool:
    """Whether a file of the repository, by its path from the root, does not reach the builder."""
    parts = path.split("/")
    above = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    ignored = False
    for rule in rules:
        if any(rule.expression.fullmatch(place) for place in above):
            ignored = not rule.keeps
    return ignored


def files(root: Path, source: str, rules: list[Pattern]) -> Iterator[str]:
    """The files that a source of COPY means, as paths from the root.

    Raises:
        FileNotFoundError: There is none, or all are ignored.
    """
    there = root / source
    found = sorted(there.rglob("*")) if there.is_dir() else [there]
    names = [path.relative_to(root).as_posix() for path in found if path.is_file()]
    kept = [name for name in names if not is_ignored(name, rules)]
    if not kept:
        raise FileNotFoundError(f"{source}: not there, or ignored by .dockerignore")
    yield from kept


def _expression(pattern: str) -> re.Pattern[str]:
    if set("[]\\") & set(pattern):
        raise ValueError(f".dockerignore: {pattern}: this form is not known here")
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    wild = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(wild.get(piece, re.escape(piece)) for piece in pieces))
