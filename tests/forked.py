"""Servers and commands whose trainers are forked from one zygote of this test process.

What runs is the production code, from the arguments of a process on, with what it inherits. Cold
starts are a matter of their own: tests of the command, the wheel, the unit and the image have them.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.forge import ZygoteProcess
from tests.live import LiveServer

_SCRIPT = Path(__file__).with_name("forking.py")


@functools.cache
def _zygote() -> ZygoteProcess:
    """The one of this process; it ends with it."""
    folder = Path(tempfile.mkdtemp(prefix="moontune-zygote-"))  # its socket needs a short path
    zygote = ZygoteProcess("trainer", folder)
    atexit.register(zygote.close)
    zygote.until_ready()  # else its log stays, which is named
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return zygote


def moontune(*words: str) -> list[str]:
    """The argv that runs the command `moontune` with these words."""
    return [sys.executable, "-P", str(_SCRIPT), str(_zygote().path), *words]


class ForkingServer(LiveServer):
    """`moontune serve` of this checkout, with forked trainers."""

    @property
    def program(self) -> Sequence[str]:
        return moontune("serve")
