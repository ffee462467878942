"""`python -m tests.chaos.proxy_table`: the figures of bar P1, written into docs/proxies.md."""

from __future__ import annotations

import json
from typing import Any

from server.children import CODE_ROOT

RESULTS = CODE_ROOT / "benchmarks" / "results" / "proxies.json"
PAGE = CODE_ROOT / "docs" / "proxies.md"
BEGIN, END = "<!-- written by `make proxies`", "<!-- end of what is written -->\n"

COLUMNS = {
    "Calls": "raced_calls",
    "Attempts given up": "abandoned_attempts",
    "Joined": "joined",
    "Replayed": "replayed",
    "Lost": "lost",
    "Doubled": "doubled",
    "Usual ms of a step": "usual_ms",
}
HEAD = """\
{begin} from benchmarks/results/proxies.json -->

Run of {day} at revision `{revision}`, on {machine}: nginx {nginx}, HAProxy {haproxy}.

"""
EXACT = """
With `expected_step`, and with `idempotency_key`, {calls} calls each through each proxy, time-outs
drawn alike: **0 lost, 0 doubled**.

"""


def section(report: dict[str, Any]) -> str:
    """What stands between the two marks, both of them included.

    Raises:
        ValueError: The run did not pass, or is not of the full tier.
    """
    bar = report["bars"]["P1"]
    if not bar["passed"] or bar["skipped"] or report["tier"] != "full":
        raise ValueError("only a full run that passed goes into the documents")
    figures: dict[str, dict[str, Any]] = bar["figures"]
    text = HEAD.format(
        begin=BEGIN,
        day=bar["ended_at"][:10],
        revision=bar["revision"],
        machine=report["machine"],
        nginx=figures["nginx"]["version"],
        haproxy=figures["haproxy"]["version"],
    )
    rows = [["Behind", *COLUMNS], ["---"] * (1 + len(COLUMNS))]
    for name, seen in figures.items():
        files = {"nginx": "nginx, as deployed here", "haproxy": "HAProxy, as deployed here"}
        title = files.get(name, name.replace("haproxy", "HAProxy"))
        rows.append([title, *(f"{seen[key]:.0f}" for key in COLUMNS.values())])
    text += "".join(f"| {' | '.join(row)} |\n" for row in rows)
    calls = {seen.get(way) for seen in figures.values() for way in EXACT_FIGURES} - {None}
    (number,) = calls
    return text + EXACT.format(calls=number) + END


EXACT_FIGURES = ("expected_step_calls", "idempotency_key_calls")


def inserted(page: str, text: str) -> str:
    """The page with another section between its marks."""
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    return before + text + after


def main() -> None:
    """Write the page."""
    PAGE.write_text(inserted(PAGE.read_text(), section(json.loads(RESULTS.read_text()))))


if __name__ == "__main__":
    main()
