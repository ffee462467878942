"""What was found, part by part: a file that survives being cut off, and a table at the end."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

RESULTS_FILE = "gpu.json"

Result = TypeVar("Result")
Part = dict[str, Any]
"""What one part found, by name."""


class Report:
    """What was found so far, on disk after every part.

    Args:
        facts: What the numbers belong to: the machine, the date, the scale.
        seconds: No part starts later than this.
    """

    def __init__(self, directory: Path, facts: dict[str, Any], seconds: float):
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / RESULTS_FILE
        self._started = time.monotonic()
        self._seconds = seconds
        self._lines: list[str] = []
        self.checks: list[dict[str, Any]] = []
        self.parts: dict[str, Part] = {}
        self._content = {**facts, "checks": self.checks, "parts": self.parts}
        self.save()

    def run(
        self, name: str, work: Callable[[Part], Result], *, is_verdict: bool = False
    ) -> Result | None:
        """Run one part, which fills a dictionary; what it raises is recorded and goes no further.

        Args:
            is_verdict: A part that does not come to its end counts as a failed check.

        Returns:
            What the part returns; None where it did not come to its end.
        """
        part: Part = {"status": "running"}
        result = None
        self.parts[name] = part
        started = time.monotonic()
        if started - self._started > self._seconds:
            part["status"] = "skipped"
        else:
            try:
                result = work(part)
                part["status"] = "done"
            except Exception as error:
                part["status"] = "failed"
                part["traceback"] = traceback.format_exc()
                # One line; a refusal to load may name hundreds of tensors.
                part["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        part["part_seconds"] = round(time.monotonic() - started, 2)
        if part["status"] != "done":
            self._lines.append(f"{part['status'].upper()}  {name}: {part.get('error', '')}")
            if is_verdict:
                self.checks.append({"name": name, "passed": False})
        self.save()
        shown = {key: value for key, value in part.items() if key != "traceback"}
        print(f"[{time.monotonic() - self._started:5.1f} s] {name}: {short(shown)}", flush=True)
        return result

    def check(self, name: str, value: float, *, bound: float, is_floor: bool = False) -> None:
        """A verdict: `value` may not exceed `bound` (or not fall below it)."""
        is_passed = value >= bound if is_floor else value <= bound  # false for NaN
        self.checks.append(
            {
                "name": name,
                "value": value,
                "bound": bound,
                "is_floor": is_floor,
                "passed": is_passed,
            }
        )
        sign = ">=" if is_floor else "<="
        verdict = "ok    " if is_passed else "FAILED"
        self._lines.append(f"{verdict}  {name:58s} {value:8.1e}  wanted {sign} {bound:.2g}")

    def line(self, text: str) -> None:
        """One line of the final table."""
        self._lines.append(f"        {text}")

    def save(self) -> None:
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self._content, indent=1) + "\n")
        temporary.replace(self._path)

    def print_table(self) -> None:
        print("\n" + "\n".join(self._lines), flush=True)


def short(values: Part) -> str:
    """The plain values of a dictionary on one line."""
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in values.items()
        if isinstance(value, int | float | str)
    )
