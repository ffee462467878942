"""`python -m tests.chaos.render REPORT.json PAGE.md`: the report of a run as a page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.chaos.report import figures_text, outcome_of

HEAD = """# Chaos: the bars of reliability

Written by `python -m tests.chaos.render` from `{source}`, which `make chaos` makes; what each bar
demands stands in `tests/chaos/bars/`. Bars drive the production API and worker with the SDK
`moondream` 2.6.1, whose time-outs alone are scaled, on a random Moondream 3 of 168,758 parameters.
Those that fail one operation after the other (R9, R10, R15, R16) play the real app and trainer in
one process, and some of the same faults through both and the SDK; those about sockets, locks and
addresses have clients of their own (R11, R13, R19, R20, S bars); R6 and S3 have a fake engine.

Tier `{tier}`; {machine}; Python {python}. {num_passed} of {num_bars} bars passed in {minutes:.0f}
minutes altogether. Seconds depend on the machine, which was not idle.

| Bar | | Outcome | Seconds | Seed | Revision |
|---|---|---|---|---|---|
"""


def page_of(report: dict[str, Any], source: str) -> str:
    """The page of a report."""
    bars = list(report["bars"].values())
    text = HEAD.format(
        source=source,
        tier=report["tier"],
        machine=report["machine"],
        python=report["python"],
        num_passed=sum(outcome_of(bar, failed="failed") == "passed" for bar in bars),
        num_bars=len(bars),
        minutes=sum(bar["seconds"] for bar in bars) / 60,
    )
    text += "".join(_row(bar) for bar in bars)
    return text + "".join(_section(bar) for bar in bars)


def _row(bar: dict[str, Any]) -> str:
    outcome = outcome_of(bar, failed="**failed**")
    cells = (bar["id"], bar["title"], outcome, bar["seconds"], bar["seed"], bar["revision"])
    return f"| {' | '.join(map(str, cells))} |\n"


def _section(bar: dict[str, Any]) -> str:
    lines = [f"\n## {bar['id']}: {bar['title']}\n"]
    for name, value in bar["figures"].items():
        told = figures_text(value) if isinstance(value, dict) else _text(value)
        lines.append(f"- {name.replace('_', ' ')}: {told}")
    lines += [f"- **skipped**: {sentence}" for sentence in bar["skipped"]]
    lines += [f"- **violated**: {violation}" for violation in bar["violations"]]
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Write the page."""
    source, page = Path(sys.argv[1]), Path(sys.argv[2])
    page.write_text(page_of(json.loads(source.read_text()), source.name))


if __name__ == "__main__":
    main()
