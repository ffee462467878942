"""Write the compatibility table: `python -m tests.compat.table [--full] > docs/compatibility.md`.

Exits with 1 if a row is not what it should be; says which on stderr.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.compat.all_cases import CASES
from tests.compat.bench import Bench
from tests.compat.outcome import WHY_NOT, Runner, Seen
from tests.compat.page import render


def main() -> int:
    """Run every row and print the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--full", action="store_true", help="scripts at their uncut counts")
    is_full = parser.parse_args().full
    missing = [why for why_not in WHY_NOT.values() if (why := why_not())]
    if missing:
        sys.stderr.write(f"{'; '.join(missing)}: the page needs every client\n")
        return 1
    seen: dict[str, Seen] = {}
    with (
        tempfile.TemporaryDirectory(prefix="compat-") as folder,
        Bench(Path(folder), is_full=is_full) as bench,
        Runner(bench) as runner,
    ):
        runner.begin(CASES)
        for case in sorted(CASES, key=lambda case: case.is_long):
            seen[case.name] = runner.see(case)
            sys.stderr.write(f"{case.name}: {seen[case.name].outcome:.60}\n")
    sys.stdout.write(render((seen[case.name] for case in CASES), is_full=is_full))
    return 0 if all(one.is_expected for one in seen.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
