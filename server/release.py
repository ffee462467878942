"""Which release this is, for those who meet what it left."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def release_name() -> str:
    """Such as `moontune 0.1.0`."""
    try:
        return f"moontune {version('moontune')}"
    except PackageNotFoundError:  # a checkout that was never installed
        return "moontune of a checkout"
