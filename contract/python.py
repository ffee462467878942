"""The oldest Python that runs this; an older one has to be able to read this file."""

from __future__ import annotations

OLDEST = (3, 11)


def complaint(version: tuple[object, ...]) -> str | None:
    """Say what is wrong with a version of Python such as `sys.version_info`, if anything is."""
    major, minor = int(str(version[0])), int(str(version[1]))
    if (major, minor) >= OLDEST:
        return None
    return f"Python {major}.{minor} runs this; moontune needs {OLDEST[0]}.{OLDEST[1]} or later."
