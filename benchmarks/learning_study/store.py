"""The finished runs of the study in a file: a line each, so that a study goes on where it ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.learning_study.finetune import Curve, Learned
from benchmarks.learning_study.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Run:
    plan: Plan
    learned: Learned


class Runs:
    """A file of JSON lines; the first says how and where they were made."""

    def __init__(self, path: Path, about: Mapping[str, Any]):
        self._path = path
        if not path.exists():
            path.write_text(json.dumps(dict(about)) + "\n")

    def add(self, run: Run) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps({"plan": asdict(run.plan), **rounded(run.learned)}) + "\n")

    def read(self) -> list[Run]:
        lines = [json.loads(line) for line in self._path.read_text().splitlines()]
        return [from_line(line) for line in lines if "plan" in line]


def rounded(learned: Learned) -> dict[str, Any]:
    """As it is written: values to five places, which is below the noise of a held-out picture."""
    line = asdict(learned)
    for name in ("held_out", "training", "sft_losses"):
        line[name] = [(step, round(value, 5)) for step, value in line[name]]
    return {**line, "clipped": round(learned.clipped, 5), "seconds": round(learned.seconds, 1)}


def from_line(line: Mapping[str, Any]) -> Run:
    plan = dict(line["plan"])
    plan["phases"] = tuple((mode, steps) for mode, steps in plan["phases"])
    learned = {name: value for name, value in line.items() if name != "plan"}
    for name in ("held_out", "training", "sft_losses"):
        curve: Curve = [(step, value) for step, value in learned[name]]
        learned[name] = curve
    return Run(plan=Plan(**plan), learned=Learned(**learned))
