"""What all scripts ask on the command line: where the server is, and the key."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any


def run(main: Callable[..., dict[str, Any]]) -> None:
    """Run a script's `main` and print what it saw."""
    parser = argparse.ArgumentParser(description=sys.modules[main.__module__].__doc__)
    parser.add_argument("--endpoint", default="http://127.0.0.1:8000")
    parser.add_argument("--api-key", default="none")
    arguments = parser.parse_args()
    seen = main(arguments.endpoint.rstrip("/"), arguments.api_key)
    sys.stdout.write(json.dumps(seen, indent=1, default=str) + "\n")
