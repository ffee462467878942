"""Rows whose routes are not built yet, by name, with what they wait for.

They are run and have to fail: one that works has to leave this list.
"""

from __future__ import annotations

NOT_YET: dict[str, str] = {}
