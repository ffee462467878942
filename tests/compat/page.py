"""docs/compatibility.md: written from what was seen, and read again by its test."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from importlib.metadata import version

from tests.compat.case import Client
from tests.compat.node_calls import FOLDER
from tests.compat.outcome import Seen

PAGE = "docs/compatibility.md"

INTRODUCTION = """\
# Compatibility

Every public method of the official SDK, the documented HTTP forms, an OpenAI client and the Node
SDK, each run against a live server on the bundled tiny model; and public training scripts, written
anew from their descriptions with generated pictures in place of their data sets. `moondream`
{moondream}, `openai` {openai} and `moondream` {node} for Node are unmodified; under the last lies
a later sharp, whose binary comes from npm.

This page is written by `make compat` from `tests/compat/`; `make test` runs every row again and
compares. *Works*: as published. *Differs*: otherwise than some publication has it, on purpose, and
how. Scripts ran {counts}.
"""
FULL = "at their full counts"
CUT = "with fewer steps and smaller evaluations; A7 keeps its counts"

_ROW = re.compile(r"\| (?P<call>.+) \| (?P<observed>.*) \| (?P<outcome>.+) \|")


def render(seen: Iterable[Seen], *, is_full: bool) -> str:
    """The page."""
    node = json.loads((FOLDER / "package.json").read_text())["dependencies"]["moondream"]
    parts = [
        INTRODUCTION.format(
            moondream=version("moondream"),
            openai=version("openai"),
            node=node,
            counts=FULL if is_full else CUT,
        )
    ]
    rows = list(seen)
    for client in Client:
        lines = [
            f"| {one.case.call} | {_cell(one.observed)} | {_cell(one.outcome)} |"
            for one in rows
            if one.case.client is client
        ]
        parts.append("\n".join([f"## {client.value}\n", *_HEAD, *lines]) + "\n")
    return "\n".join(parts)


_HEAD = ("| Call | Observed | Outcome |", "|---|---|---|")


def rows_of(page: str) -> list[tuple[str, str, str]]:
    """Heading, call and outcome of every row of a page."""
    found = []
    heading = ""
    for line in page.splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif (row := _ROW.fullmatch(line)) and line not in _HEAD:
            found.append((heading, row["call"], row["outcome"]))
    return found


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
