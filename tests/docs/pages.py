"""The documents of the repository, and what is in them: code blocks, links, headings, backticks."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,}|~{3,})(?P<language>[^`\s]*)\s*$")
_LIST_ITEM = re.compile(r"^\s*([-*+]|\d+\.)\s")
_LINK = re.compile(r"(?<!\\)!?\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<target>[^()\s]+)\)")
_HEADING = re.compile(r"^#{1,6}\s+(?P<text>.+?)\s*#*$")
_SPAN = re.compile(r"(?<!`)`(?P<code>[^`]+)`(?!`)")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of code; `line` is that of its first line of code, counted from 1."""

    page: str
    line: int
    language: str
    code: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file_name(self) -> str | None:
        """What its first line says that it is saved as: `# query_rl.py`."""
        match = re.match(r"^# ([\w-]+\.py)$", self.code.partition("\n")[0])
        return match[1] if match else None


@cache
def tracked() -> frozenset[str]:
    """Every file of the repository, ignored ones apart; new ones count before they are added."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return frozenset(name for name in listed.split("\0") if name and (ROOT / name).exists())


@cache
def pages() -> tuple[str, ...]:
    """All Markdown files."""
    return tuple(sorted(name for name in tracked() if name.endswith(".md")))


@cache
def documents() -> tuple[str, ...]:
    """Those that describe today: neither the changelog nor results that were measured once."""
    return tuple(
        name
        for name in pages()
        if name != "CHANGELOG.md" and name.partition("/")[0] not in ("benchmarks", "tiny", "tests")
    )


@cache
def text_of(page: str) -> str:
    return (ROOT / page).read_text()


@cache
def blocks_of(page: str) -> tuple[Block, ...]:
    """The fenced blocks of a page, in order."""
    return tuple(block for block, _ in _parts(page) if block is not None)


@cache
def prose_of(page: str) -> tuple[tuple[int, str], ...]:
    """The other lines, with their numbers."""
    return tuple(prose for _, prose in _parts(page) if prose is not None)


def _parts(page: str) -> Iterator[tuple[Block | None, tuple[int, str] | None]]:
    opened: re.Match[str] | None = None
    begun, code = 0, []
    for number, line in enumerate(text_of(page).splitlines(), start=1):
        fence = _FENCE.match(line)
        if opened is None and fence is None:
            yield None, (number, line)
        elif opened is None:
            opened, begun, code = fence, number + 1, []
        elif fence and fence["ticks"].startswith(opened["ticks"]) and not fence["language"]:
            text = "".join(f"{entry.removeprefix(opened['indent'])}\n" for entry in code)
            yield Block(page=page, line=begun, language=opened["language"], code=text), None
            opened = None
        else:
            code.append(line)
    assert opened is None, f"{page}:{begun}: this block is never closed"


def indented_code(page: str) -> list[int]:
    """Lines of code that only their indentation marks, which names no language."""
    found, in_list, after_blank = [], False, True
    for number, line in prose_of(page):
        if not line.strip():
            after_blank = True
            continue
        if line.startswith("    ") and not in_list and after_blank:
            found.append(number)
            continue
        in_list = bool(_LIST_ITEM.match(line)) or (in_list and line.startswith("  "))
        after_blank = False
    return found


def links_of(page: str) -> list[tuple[int, str]]:
    """Where each link and picture of a page goes, with its line."""
    return [
        (number, match["target"])
        for number, line in prose_of(page)
        for match in _LINK.finditer(_SPAN.sub("``", line))
    ]


def spans_of(page: str) -> list[tuple[int, str]]:
    """What stands in backticks."""
    return [
        (number, match["code"]) for number, line in prose_of(page) for match in _SPAN.finditer(line)
    ]


@cache
def anchors_of(page: str) -> frozenset[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    seen: dict[str, int] = {}
    anchors = set()
    for _, line in prose_of(page):
        if match := _HEADING.match(line):
            slug = _slug(match["text"])
            count = seen.get(slug, 0)
            seen[slug] = count + 1
            anchors.add(f"{slug}-{count}" if count else slug)
    return frozenset(anchors)


def _slug(heading: str) -> str:
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
