"""`python -m server`: the same as `moontune serve`."""

from __future__ import annotations

import sys

from server.cli import app

if __name__ == "__main__":
    app(["serve", *sys.argv[1:]])
