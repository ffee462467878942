"""Node with the official SDK from npm: installed by its lockfile, run once, asked by name."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.compat.scripts.pictures import photo

FOLDER = Path(__file__).with_name("node")
PROGRAMS = ("node", "npm")
INSTALL_SECONDS = 240
CALLS_SECONDS = 120


def why_not() -> str | None:
    """Why Node cannot be run here; None if it can."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"{' and '.join(missing)} not found" if missing else None


class NodeCalls:
    """What each call of calls.mjs saw."""

    def __init__(self, endpoint: str, folder: Path):
        _install()
        picture = folder / "node.jpg"
        photo(1)[0].save(picture, quality=95)
        command = ["node", "calls.mjs", f"{endpoint}/v1", str(picture)]
        ran = _run(command, CALLS_SECONDS)
        self._seen: dict[str, dict[str, Any]] = json.loads(ran)

    def value(self, name: str) -> Any:
        """What a call returned.

        Raises:
            AssertionError: It threw.
        """
        seen = self._seen[name]
        assert "error" not in seen, f"it threw: {seen['error']}"
        return seen["value"]

    def error(self, name: str) -> str:
        """What a call threw."""
        return self._seen[name]["error"]


def _install() -> None:
    """`npm ci`, unless what the lockfile says is there."""
    installed = FOLDER / "node_modules" / ".moontune-lock.json"
    lock = (FOLDER / "package-lock.json").read_text()
    if installed.exists() and installed.read_text() == lock:
        return
    _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], INSTALL_SECONDS)
    installed.write_text(lock)


def _run(command: list[str], seconds: float) -> str:
    ran = subprocess.run(
        command, cwd=FOLDER, capture_output=True, text=True, timeout=seconds, check=False
    )
    assert ran.returncode == 0, f"{' '.join(command)}: {ran.stdout}{ran.stderr}"
    return ran.stdout
