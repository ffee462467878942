"""The API process stays small, with no torch, image library or trainer; what children inherit."""

from __future__ import annotations

import subprocess
import sys

import pytest

from server.children import CODE_ROOT, environment_without_secrets


def test_the_api_imports_neither_torch_nor_the_trainer() -> None:
    code = (
        "import sys, server.app, server.logs\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(names & {'torch', 'transformers', 'trainer', 'PIL', 'numpy'}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_children_that_work_for_strangers_inherit_no_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secrets = ("MOONTUNE_API_KEY", "MOONTUNE_DATABASE_URL", "HF_TOKEN", "PGPASSWORD", "aws_secret")
    for name in (*secrets, "MOONTUNE_DEVICE", "FAKETIME"):
        monkeypatch.setenv(name, "value")
    environment = environment_without_secrets()
    assert not set(secrets) & set(environment)
    assert {"MOONTUNE_DEVICE", "FAKETIME", "PATH"} <= set(environment)
    assert environment["PYTHONPATH"].startswith(str(CODE_ROOT))
