"""`python -m tests.chaos commit|full [R1 R2 ...] --report FILE`: run bars, say how they went.

Exit status 1 when one fails. The report is written after each bar, so that a run that was cut off
goes on: bars that passed at the same revision are not run again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import ModuleType

from tests.chaos.bars import find_bars
from tests.chaos.bench import SEED, TIERS, Bench, Verdict, default_seed
from tests.chaos.forge import Forge
from tests.chaos.report import Report, line_of
from tests.chaos.undisturbed import Undisturbed


def main() -> int:
    arguments = _parse()
    bars = find_bars(arguments.bars)
    report = Report.open(arguments.report, tier=arguments.tier)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    open_bars = [bar for bar in bars if arguments.again or not report.has_passed(bar.ID)]
    for bar in bars:
        if bar not in open_bars:
            _say(f"{bar.ID} passed before at this revision")
    failed: list[str] = []
    skipped: list[str] = []
    if open_bars:
        with Forge(folder) as forge:
            _say(f"micro model of {forge.num_parameters} parameters, data in {folder}")
            undisturbed = Undisturbed(forge, SEED)
            for bar in open_bars:
                seed = default_seed() if arguments.seed is None else arguments.seed
                started = time.monotonic()
                verdict = _judge(
                    bar,
                    Bench(forge=forge, undisturbed=undisturbed, tier=arguments.tier, seed=seed),
                )
                entry = report.add(bar, verdict, seed=seed, seconds=time.monotonic() - started)
                _say(line_of(entry))
                if verdict.violations:
                    failed.append(line_of(entry))
                skipped += [f"{bar.ID}: {sentence}" for sentence in verdict.skipped]
    if skipped:
        _say("\n    ".join(["skipped in this run:", *skipped]))
    if failed or arguments.keep:
        _say(f"data and logs are kept in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    _say(
        "\n    ".join(
            [f"{len(open_bars) - len(failed)} bars passed, {len(failed)} failed", *failed]
        )
    )
    return int(bool(failed))


def _judge(bar: ModuleType, bench: Bench) -> Verdict:
    """Run a bar; whatever it raises is a violation, too."""
    try:
        return bar.run(bench)
    except Exception as error:
        traceback.print_exc()
        return Verdict(violations=[f"{type(error).__name__}: {error}"])


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("tier", choices=TIERS)
    parser.add_argument("bars", nargs="*", help="such as R1 R4; absent: all")
    parser.add_argument("--report", type=Path, help="a JSON file to write, and to go on from")
    parser.add_argument("--seed", type=int, help="of all that is random; absent: drawn, printed")
    parser.add_argument("--again", action="store_true", help="also bars that passed before")
    parser.add_argument("--keep", action="store_true", help="keep data and logs")
    return parser.parse_args()


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - it talks to a person


if __name__ == "__main__":
    sys.exit(main())
