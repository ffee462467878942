"""The API process stays small, with no torch, image library or trainer; what children inherit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from server import serving
from server.children import CODE_ROOT, environment_without_secrets
from server.config import ServerConfig
from server.db.connection import Database
from server.domain.caller import Limits, Scope
from server.open_database import open_database
from server.services.keys import create_key, revoke_key


def test_the_api_imports_neither_torch_nor_the_trainer() -> None:
    code = (
        "import sys, server.app, server.logs\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(names & {'torch', 'transformers', 'trainer', 'PIL', 'numpy'}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_beyond_the_loopback_it_serves_only_behind_a_key_or_a_word(tmp_path: Path) -> None:
    def guarded(**options: object) -> None:
        serving._require_guard(ServerConfig(data_dir=tmp_path, **options))  # type: ignore[arg-type]

    def write(database: Database) -> None:
        made = database.write_blocking(
            create_key, account_id="default", name="a", scope=Scope.FULL, limits=Limits()
        )
        database.write_blocking(revoke_key, made.row.id)

    proxied = {"public_url": "https://tune.example"}
    with open_database(ServerConfig(data_dir=tmp_path)) as database:
        for options in ({}, {"host": "::1"}, {"host": "0.0.0.0", "allow_open": True},
                        {"host": "0.0.0.0", "api_key": "secret"}, {**proxied, "allow_open": True},
                        {**proxied, "api_key": "secret"}):  # fmt: skip
            guarded(**options)
        with pytest.raises(serving.CannotServeError, match="moontune keys create"):
            guarded(host="0.0.0.0")
        with pytest.raises(serving.CannotServeError, match="MOONTUNE_PUBLIC_URL leads others here"):
            guarded(**proxied)
        write(database)  # revoked at once: that lets nobody in, so it is safe to serve
        guarded(host="0.0.0.0")
        guarded(**proxied)


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
