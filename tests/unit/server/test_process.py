"""The API process stays small: no torch, no image library, nothing of the trainer."""

from __future__ import annotations

import subprocess
import sys


def test_the_api_imports_neither_torch_nor_the_trainer() -> None:
    code = (
        "import sys, server.app, server.logs\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(names & {'torch', 'transformers', 'trainer', 'PIL', 'numpy'}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
