"""The report of a run of bars: JSON that grows bar by bar, and one line for a person."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from server.children import CODE_ROOT
from tests.chaos.checker import Verdict

MAX_VIOLATIONS_SHOWN = 5


@dataclass(kw_only=True)
class Report:
    """Entries by bar; written to `path` after each, if there is one."""

    path: Path | None
    tier: str
    revision: str
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path | None, *, tier: str) -> Self:
        """Go on with a report of the same tier, or begin one."""
        entries: dict[str, dict[str, Any]] = {}
        if path is not None and path.exists():
            old = json.loads(path.read_text())
            if old["tier"] == tier:
                entries = {name: {"skipped": [], **entry} for name, entry in old["bars"].items()}
        return cls(path=path, tier=tier, revision=_revision(), entries=entries)

    def has_passed(self, bar_id: str) -> bool:
        """Whether a bar passed, all of it, at this very revision; a changed tree is none."""
        entry = self.entries.get(bar_id)
        is_clean = not self.revision.endswith("-dirty")
        is_whole = bool(entry and entry["passed"] and not entry["skipped"])
        return bool(is_whole and is_clean and entry and entry["revision"] == self.revision)

    def add(
        self, bar: ModuleType, verdict: Verdict, *, seed: int, seconds: float
    ) -> dict[str, Any]:
        """Note how a bar went."""
        entry = {
            "id": bar.ID,
            "title": bar.TITLE,
            "passed": not verdict.violations,
            "figures": verdict.figures,
            "violations": verdict.violations,
            "skipped": verdict.skipped,
            "seconds": round(seconds, 1),
            "seed": seed,
            "revision": self.revision,
            "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self.entries[bar.ID] = entry
        if self.path is not None:
            self._write(self.path)
        return entry

    def _write(self, path: Path) -> None:
        content = {
            "tier": self.tier,
            "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, {platform.system()}",
            "python": platform.python_version(),
            "bars": dict(sorted(self.entries.items(), key=lambda item: bar_order(item[0]))),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(json.dumps(content, indent=1) + "\n")
        partial.rename(path)


def bar_order(bar_id: str) -> tuple[str, int]:
    return bar_id[0], int(bar_id[1:])


def outcome_of(entry: dict[str, Any], *, failed: str) -> str:
    """`passed`, or `skipped` where nothing was tried, or the word for a failure."""
    if not entry["passed"]:
        return failed
    return "skipped" if entry["skipped"] and not entry["figures"] else "passed"


def line_of(entry: dict[str, Any]) -> str:
    """One line about a bar, then what was skipped and its violations, if there are any."""
    outcome = outcome_of(entry, failed="FAILED")
    head = f"{entry['id']:>3} {outcome} in {entry['seconds']:.1f} s (seed {entry['seed']})"
    figures = figures_text(entry["figures"])
    lines = [f"{head}: {entry['title']}{figures and f': {figures}'}"]
    lines += [f"    skipped: {sentence}" for sentence in entry["skipped"]]
    violations = entry["violations"]
    lines += [f"    {violation}" for violation in violations[:MAX_VIOLATIONS_SHOWN]]
    if len(violations) > MAX_VIOLATIONS_SHOWN:
        lines.append(f"    and {len(violations) - MAX_VIOLATIONS_SHOWN} more")
    return "\n".join(lines)


def figures_text(figures: dict[str, Any]) -> str:
    """Such as `kills 24, kills by phase (computing 9, writing 3)`."""
    return ", ".join(_figure(name.replace("_", " "), value) for name, value in figures.items())


def _figure(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"{name} ({figures_text(value)})"
    if isinstance(value, float):
        return f"{name} {value:.3g}"
    return f"{name} {value}"


def _revision() -> str:
    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(CODE_ROOT), *words], capture_output=True, text=True, check=False
        ).stdout.strip()

    return git("rev-parse", "--short=12", "HEAD") + (
        "-dirty" if git("status", "-s", "-uno") else ""
    )
