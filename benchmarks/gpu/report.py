"""What was found, part by part: a file that survives being cut off, and a table at the end."""

from __future__ import annotations

import json
import re
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")
Part = dict[str, Any]
"""What one part found, by name."""


class Report:
    """What was found so far, on disk after every part.

    A file that is there already is gone on with: parts that run again replace what it says of them.

    Args:
        facts: What the numbers belong to: the machine, the date, the scale.
        seconds: No part starts later than this.
    """

    def __init__(self, directory: Path, facts: dict[str, Any], seconds: float):
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / results_file(facts)
        self._facts = facts
        self._started = time.monotonic()
        self._seconds = seconds
        self._has_run: list[str] = []
        self._running: Part = {}
        earlier = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.parts: dict[str, Part] = earlier.get("parts", {})
        self._content = {**facts, "parts": self.parts}

    @property
    def is_passed(self) -> bool:
        """Whether all that ran here was right; speeds do not count."""
        checks = [check for name in self._has_run for check in self.parts[name]["checks"]]
        return all(check["passed"] or check["is_speed"] for check in checks)

    def run(
        self, name: str, work: Callable[[Part], Result], *, is_verdict: bool = False
    ) -> Result | None:
        """Run one part, which fills a dictionary; what it raises is recorded and goes no further.

        Args:
            is_verdict: A part that does not come to its end counts as a failed check.

        Returns:
            What the part returns; None where it did not come to its end.
        """
        started = time.monotonic()
        if started - self._started > self._seconds:
            print(f"[{started - self._started:5.1f} s] {name}: no time left", flush=True)
            return None
        part: Part = {
            "status": "running",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "torch": self._facts["machine"]["torch"],
            "lines": [],
            "checks": [],
        }
        self.parts[name] = self._running = part
        self._has_run.append(name)
        result = None
        try:
            result = work(part)
            part["status"] = "done"
        except Exception as error:
            part["status"] = "failed"
            part["error"] = f"{type(error).__name__}: {error}"[:2000]
            part["traceback"] = traceback.format_exc()[-6000:]
            part["lines"].append(f"FAILED  {name}: {part['error'][:120]}")
            if is_verdict:
                self.check(f"{name}: comes to its end", 0.0, bound=1.0, is_floor=True)
        part["part_seconds"] = round(time.monotonic() - started, 2)
        self._save()
        shown = {key: value for key, value in part.items() if key not in ("traceback", "torch")}
        print(f"[{time.monotonic() - self._started:5.1f} s] {name}: {short(shown)}", flush=True)
        return result

    def check(self, name: str, value: float, *, bound: float, is_floor: bool = False) -> None:
        """A verdict: `value` may not exceed `bound` (or not fall below it)."""
        self._judge(name, value, bound, is_floor=is_floor, is_speed=False)

    def target(self, name: str, value: float, *, bound: float, is_floor: bool = False) -> None:
        """How fast it should be; a full model on a GPU is meant, anything else is only told."""
        self._judge(name, value, bound, is_floor=is_floor, is_speed=True)

    def line(self, text: str) -> None:
        """One line of the final table."""
        self._running["lines"].append(f"        {text}")

    def print_table(self) -> None:
        lines = [line for part in self.parts.values() for line in part["lines"]]
        print("\n" + "\n".join(lines) + f"\n\n{self.path}", flush=True)

    def _judge(
        self, name: str, value: float, bound: float, *, is_floor: bool, is_speed: bool
    ) -> None:
        is_passed = value >= bound if is_floor else value <= bound  # false for NaN
        self._running["checks"].append(
            {
                "name": name,
                "value": value,
                "bound": bound,
                "is_floor": is_floor,
                "is_speed": is_speed,
                "passed": is_passed,
            }
        )
        words = ("met   ", "MISSED") if is_speed else ("ok    ", "FAILED")
        is_judged = not is_speed or self._facts["is_judged_by_speed"]
        verdict = words[not is_passed] if is_judged else "      "
        sign = ">=" if is_floor else "<="
        number = f"{value:8.4g}" if is_speed else f"{value:8.1e}"
        self._running["lines"].append(f"{verdict}  {name:58s} {number}  wanted {sign} {bound:.3g}")

    def _save(self) -> None:
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self._content, indent=1) + "\n")
        temporary.replace(self.path)


def results_file(facts: Mapping[str, Any]) -> str:
    """Named after the hardware and the scale, such as gpu-nvidia-h200-full.json."""
    name = facts["machine"].get("gpu", facts["machine"]["device"])
    return f"gpu-{re.sub('[^a-z0-9]+', '-', name.lower())}-{facts['scale']}.json"


def short(values: Part) -> str:
    """The plain values of a dictionary on one line."""
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in values.items()
        if isinstance(value, int | float | str)
    )
