"""Watches this process for product code that unpickles: classes looked up by what a file says.

`pickle.find_class` is told by the interpreter whenever any unpickler, also the one in C, looks up
something that could run. Tests and their tools may do that; what `contract`, `server` and `trainer`
call may not. `torch.load(weights_only=True)` has an unpickler of its own, which tells nothing and
knows tensors only. Bar S5.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from server.children import CODE_ROOT

PRODUCT = tuple(f"{CODE_ROOT / package}/" for package in ("contract", "server", "trainer"))

found: list[str] = []
"""What was looked up, and the product code that was running."""


def watch() -> None:
    """Begin; for the rest of the process."""
    sys.addaudithook(_hook)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "pickle.find_class":
        return
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename.startswith(PRODUCT):
            where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            found.append(f"{'.'.join(map(str, arguments))} was looked up from {where}")
            raise RuntimeError(f"unpickling in product code: {found[-1]}")
        frame = frame.f_back
