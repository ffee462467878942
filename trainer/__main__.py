"""`python -m trainer [VERB] ...`: without a verb the worker; with one, a command of `moontune`.

Imports nothing before it knows what is wanted: `doctor` has to run where torch does not.
"""

from __future__ import annotations

import importlib
import sys

WORKER = "trainer.process"
VERBS = {
    "doctor": "trainer.doctor.commands",
    "export": "trainer.exchange.commands",
    "import": "trainer.exchange.commands",
    "inspect": "trainer.catalog.commands",
    "list": "trainer.catalog.commands",
    "pull": "trainer.catalog.commands",
}
"""By verb: the module whose `main` reads the arguments, the verb among them."""


def main() -> int:
    """Run what the first argument names; returns the exit status."""
    verb = sys.argv[1] if len(sys.argv) > 1 else ""
    return importlib.import_module(VERBS.get(verb, WORKER)).main()


if __name__ == "__main__":
    sys.exit(main())
