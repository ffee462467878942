"""The production worker, with its visits to fault points written down if that was asked for."""

from __future__ import annotations

import sys

from tests.chaos import visits
from trainer import process as trainer


def main() -> int:
    """Work as `python -m trainer` does."""
    visits.write_if_asked("worker")
    return trainer.main()


if __name__ == "__main__":
    sys.exit(main())
