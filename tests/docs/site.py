"""Look through a built site: nothing is loaded from elsewhere, and what it loads is there.

python -m tests.docs.site dist/site
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
    "object": "data",
}
_NOT_LOADED = frozenset({"canonical", "next", "prev", "author", "copyright"})
_CSS_URL = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")


class _Page(HTMLParser):
    """Collects what a page loads and where it leads."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "link" and values.get("rel") in _NOT_LOADED:
            return
        if (attribute := LOADED.get(tag)) and attribute in values:
            self.loaded.append(values[attribute])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])


def faults(site: Path) -> Iterator[str]:
    """What keeps a site from being read from its files alone."""
    pages = sorted(site.rglob("*.html"))
    if not pages or not (site / "searchindex.js").is_file():
        yield f"{site} has no pages, or no index to search them"
    for path in pages:
        page = _Page()
        page.feed(path.read_text())
        for target in page.loaded:
            if why := _fault(path, target, may_leave=False):
                yield f"{path}: it loads {target}: {why}"
        for target in page.links:
            if why := _fault(path, target, may_leave=True):
                yield f"{path}: a link to {target}: {why}"
    for path in sorted(site.rglob("*.css")):
        for match in _CSS_URL.finditer(path.read_text()):
            target = match[1] or match[2]
            if not target.startswith(("data:", "#")) and urlsplit(target).netloc:
                yield f"{path}: it loads {target}"


def _fault(page: Path, target: str, *, may_leave: bool) -> str | None:
    parts = urlsplit(target)
    if parts.scheme == "data":
        return None
    if parts.scheme or parts.netloc:
        return None if may_leave and parts.scheme == "https" else "it is elsewhere"
    if parts.path.startswith("/"):
        return "it begins at the root of a server"
    if parts.path and not (page.parent / unquote(parts.path)).exists():
        return "there is no such file"
    return None


def main() -> int:
    """Print what is wrong; end with 1 if anything is."""
    found = list(faults(Path(sys.argv[1])))
    for fault in found:
        sys.stderr.write(f"{fault}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
