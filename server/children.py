"""How the service starts Python children: the same interpreter and the same code.

`-P` keeps the working directory off the module path, where a folder of the caller's that happens to
be called `trainer` would win. The working directory itself is handed down, so that relative paths
mean the same in both processes.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

CODE_ROOT = Path(__file__).resolve().parent.parent


def module_command(module: str, *arguments: str) -> list[str]:
    """The argv that runs `module` of this installation."""
    return [sys.executable, "-P", "-m", module, *arguments]


def module_environment() -> dict[str, str]:
    """Our environment, with this code importable from any working directory."""
    paths = [str(CODE_ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL|DATABASE_URL|PGPASS", re.IGNORECASE)


def environment_without_secrets() -> dict[str, str]:
    """The same for a child that works on what strangers send: it has no use for keys and tokens."""
    return {name: value for name, value in module_environment().items() if not _SECRET.search(name)}
