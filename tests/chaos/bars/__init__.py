"""One file a bar: what must hold, how often it is tried, and how.

Each has an `ID`, a `TITLE` and `run(bench)`, which returns the figures and what was violated.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from types import ModuleType


def find_bars(ids: Sequence[str] = ()) -> list[ModuleType]:
    """The bars with these ids, or all, in order of their files.

    Raises:
        SystemExit: There is no such bar.
    """
    modules = [
        importlib.import_module(f"{__name__}.{found.name}")
        for found in sorted(pkgutil.iter_modules(__path__), key=lambda found: found.name)
    ]
    bars = {module.ID: module for module in modules}
    unknown = [name for name in ids if name.upper() not in bars]
    if unknown:
        raise SystemExit(f"{', '.join(unknown)}: no such bar; there are {', '.join(bars)}")
    return [bars[name.upper()] for name in ids] or list(bars.values())
