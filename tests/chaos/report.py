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
            entries = old["bars"] if old["tier"] == tier else {}
        return cls(path=path, tier=tier, revision=_revision(), entries=entries)

    def has_passed(self, bar_id: str) -> bool:
        """Whether a bar passed at this very revision; a changed tree is none."""
        entry = self.entries.get(bar_id)
        is_clean = not self.revision.endswith("-dirty")
        return bool(entry and is_clean and entry["passed"] and entry["revision"] == self.revision)

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


def line_of(entry: dict[str, Any]) -> str:
    """One line about a bar, then its violations, if there are any."""
    outcome = "passed" if entry["passed"] else "FAILED"
    head = f"{entry['id']:>3} {outcome} in {entry['seconds']:.1f} s (seed {entry['seed']})"
    lines = [f"{head}: {entry['title']}: {figures_text(entry['figures'])}"]
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
