"""`python -m tests.chaos commit|full [R1 R2 ...] --report FILE`: run bars, say how they went.

Exit status 1 when one fails. The report is written after each bar, so that a run that was cut off
goes on: bars that passed at the same revision are not run again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.bars import find_bars
from tests.chaos.bench import TIERS, default_seed
from tests.chaos.lanes import run_bars
from tests.chaos.report import Report, line_of


def main() -> int:
    arguments = _parse()
    bars = {bar.ID: bar for bar in find_bars(arguments.bars)}
    report = Report.open(arguments.report, tier=arguments.tier)
    open_bars = [bar for bar in bars.values() if arguments.again or not report.has_passed(bar.ID)]
    for bar in bars.values():
        if bar not in open_bars:
            _say(f"{bar.ID} passed before at this revision")
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    _say(f"{len(open_bars)} bars, data in {folder}")
    drawn = {bar_id: default_seed() for bar_id in bars}
    failed: list[str] = []
    skipped: list[str] = []
    for result in run_bars(
        open_bars,
        drawn if arguments.seed is None else dict.fromkeys(bars, arguments.seed),
        folder=folder,
        tier=arguments.tier,
        num_lanes=arguments.lanes,
    ):
        entry = report.add(
            bars[result.bar_id], result.verdict, seed=result.seed, seconds=result.seconds
        )
        _say(line_of(entry))
        if result.verdict.violations:
            failed.append(line_of(entry))
        skipped += [f"{result.bar_id}: {sentence}" for sentence in result.verdict.skipped]
    if skipped:
        _say("\n    ".join(["skipped in this run:", *skipped]))
    if failed or arguments.keep:
        _say(f"data and logs are kept in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    _say("\n".join([f"{len(open_bars) - len(failed)} bars passed, {len(failed)} failed", *failed]))
    return int(bool(failed))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("tier", choices=TIERS)
    parser.add_argument("bars", nargs="*", help="such as R1 R4; absent: all")
    parser.add_argument("--report", type=Path, help="a JSON file to write, and to go on from")
    parser.add_argument("--seed", type=int, help="of all that is random; absent: drawn, printed")
    parser.add_argument("--again", action="store_true", help="also bars that passed before")
    parser.add_argument("--keep", action="store_true", help="keep data and logs")
    parser.add_argument("--lanes", type=int, default=1, help="how many bars side by side")
    return parser.parse_args()


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - it talks to a person


if __name__ == "__main__":
    sys.exit(main())
