"""The changelog is one, and what a release asks of it."""

from __future__ import annotations

import pytest

from tools.release import ROOT, changelog_faults, changes

GOOD = """# Changelog

## [Unreleased]

### Added
- something

## [0.2.0] - 2026-12-24

### Fixed
- a fault

## [0.1.0] - 2026-11-30

### Added
- everything
"""


def test_the_changelog_has_the_form_that_programs_read() -> None:
    assert changelog_faults((ROOT / "CHANGELOG.md").read_text()) == []


def test_a_good_changelog_has_no_faults() -> None:
    assert changelog_faults(GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("## [Unreleased]\n", "", "does not begin with Unreleased"),
        ("[0.2.0] - 2026-12-24", "0.2.0", "is not '## [1.2.3]"),
        ("2026-12-24", "2026-12-32", "is not '## [1.2.3]"),
        ("[0.2.0]", "[0.0.9]", "not in order"),
        ("[0.2.0]", "[0.1.0]", "not in order"),
        ("### Fixed", "### Mended", "'Mended' as a kind"),
        ("- a fault\n", "- a fault\n\n### Fixed\n- another\n", "has Fixed twice"),
    ],
)
def test_what_is_not_in_the_form_is_named(old: str, new: str, fault: str) -> None:
    (found,) = changelog_faults(GOOD.replace(old, new))
    assert fault in found


def test_the_changes_of_a_release_end_where_the_next_one_begins() -> None:
    assert changes(GOOD, "0.2.0") == "### Fixed\n- a fault"
    assert changes(GOOD, "0.1.0") == "### Added\n- everything"
    assert changes(GOOD, "0.3.0") == ""
