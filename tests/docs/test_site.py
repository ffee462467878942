"""The check of the built site sees what it is there for; `make site` runs it on the real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.site import faults


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "searchindex.js").touch()
    (tmp_path / "a.png").touch()
    (tmp_path / "a.html").write_text('<img src="a.png"><a href="https://x.example">x</a>')
    return tmp_path


def test_a_site_that_stands_alone_has_no_faults(site: Path) -> None:
    assert list(faults(site)) == []


@pytest.mark.parametrize(
    "line",
    [
        '<script src="https://x.example/a.js"></script>',
        '<link rel="stylesheet" href="//x.example/a.css">',
        '<img src="https://x.example/a.png">',
        '<img src="b.png">',
        '<script src="/a.js"></script>',
        '<a href="b.html">b</a>',
        '<a href="http://x.example">x</a>',
    ],
)
def test_what_comes_from_elsewhere_or_from_nowhere_is_told(site: Path, line: str) -> None:
    (site / "b_.html").write_text(line)
    assert len(list(faults(site))) == 1


def test_fonts_from_elsewhere_are_told(site: Path) -> None:
    (site / "a.css").write_text("@font-face { src: url(https://x.example/a.woff) }")
    assert len(list(faults(site))) == 1
