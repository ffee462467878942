"""Files that travel with the package: in a checkout beside it, in a wheel inside it."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def find(name: str) -> Path:
    """Return where `examples`, `migrations` or `tiny/checkpoint` lies or ought to lie."""
    bundled = PACKAGE / "_bundled" / name
    return bundled if bundled.exists() else PACKAGE.parent / name
