"""Links lead to files and headings that are there, or outside by https; nothing is fetched."""

from __future__ import annotations

import posixpath
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.pages import ROOT, anchors_of, links_of, pages, tracked


@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere(page: str) -> None:
    faults = [
        f"{page}:{line}: {to}: {why}" for line, to in links_of(page) if (why := fault(page, to))
    ]
    assert faults == []


def fault(page: str, target: str) -> str | None:
    """Why a link leads nowhere."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        is_right = parts.scheme == "https" and "." in parts.netloc
        return None if is_right else "links to elsewhere begin with https"
    beside = PurePosixPath(page).parent / unquote(parts.path)
    path = posixpath.normpath(str(beside)) if parts.path else page
    if path.startswith(".."):
        return "it leaves the repository"
    if path not in tracked() and not _is_folder(path):
        return "there is no such file"
    if parts.fragment and (not path.endswith(".md") or parts.fragment not in anchors_of(path)):
        return "there is no such heading"
    return None


def _is_folder(path: str) -> bool:
    return (ROOT / path).is_dir() and any(name.startswith(f"{path}/") for name in tracked())


@pytest.mark.parametrize(
    ("target", "is_right"),
    [
        ("docs/architecture.md", True),
        ("docs/architecture.md#data-on-disk", True),
        ("docs/", True),
        ("https://moondream.ai", True),
        ("docs/nowhere.md", False),
        ("docs/architecture.md#nowhere", False),
        ("../elsewhere", False),
        ("http://moondream.ai", False),
    ],
)
def test_a_link_that_leads_nowhere_is_seen(target: str, is_right: bool) -> None:
    assert (fault("README.md", target) is None) is is_right


def test_headings_have_the_anchors_that_github_gives_them() -> None:
    assert "the-form-of-december-2025" in anchors_of("docs/adapters.md")
    assert "rate_limited" in anchors_of("docs/errors.md")
