"""What damage of a database becomes."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog
from sqlalchemy.exc import DatabaseError, OperationalError

from server.backup import BackupError, back_up
from server.config import ServerConfig
from server.db import migrate
from server.db.trouble import is_damage
from server.services import keyring
from server.verification import verify
from tests.accounts import calling_with, make_key, ring_by_hand, services_of
from tests.databases import damage
from tests.service import Service, refusal

PAGE_BYTES = 4096


def spoil(path: Path, *, begin: int) -> None:
    """Overwrite a database from there to its end, as a lost sector would."""
    with path.open("r+b") as file:
        file.seek(begin)
        file.write(b"\xa5" * (os.fstat(file.fileno()).st_size - begin))


@pytest.mark.anyio
@pytest.mark.database("sqlite")
async def test_a_call_on_a_damaged_database_is_refused_for_good(service: Service) -> None:
    path = service.data_dir / "moontune.db"
    finetune_id = await service.create()
    address = f"/v1/tuning/finetunes/{finetune_id}/metrics"
    for step in range(100):  # more pages than are looked at by any other call
        await service.post(address, {"step": step, "metrics": {f"m{n}": 1.0 for n in range(40)}})
    checkpoint(service)
    whole = path.read_bytes()
    spoil(path, begin=8 * PAGE_BYTES)
    answer = await service.get(address)
    message = refusal(answer, 409, "state_damaged")["message"]
    assert "restore a backup" in message
    assert str(service.data_dir) not in answer.text
    path.write_bytes(whole)
    checkpoint(service)  # as a restart does: a connection keeps the pages that it has read
    assert (await service.get(address)).status_code == 200


def checkpoint(service: Service) -> None:
    """Have all pages in the file, and none in the memory of a connection."""
    database = service.app.state.services.database
    database.readers.dispose()
    database.writer.dispose()
    with closing(sqlite3.connect(service.data_dir / "moontune.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def fail(*_: Any, **__: Any) -> Any:
    raise damage()


@pytest.mark.anyio
@pytest.mark.database("sqlite")
async def test_keys_that_were_known_go_on_for_a_while_and_then_all_calls_are_refused_for_good(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By 409 each time, not by 503 until they are read again and 409 then."""
    ring, now = ring_by_hand(service, monkeypatch)
    key = await make_key(service)
    assert (await ring.caller_of(key)).account_id == "default"
    whole = ring._database.read
    monkeypatch.setattr(ring._database, "read", fail)
    for _ in range(8):
        now[0] += keyring.TRUSTED_SECONDS / 10
        assert (await ring.caller_of(key)).account_id == "default"
    now[0] += keyring.TRUSTED_SECONDS
    async with calling_with(service, key) as caller:
        for _ in range(4):
            now[0] += keyring.FRESH_SECONDS / 2
            refusal(await caller.get("/v1/tuning/finetunes"), 409, "state_damaged")
        monkeypatch.setattr(ring._database, "read", whole)
        now[0] += keyring.FRESH_SECONDS
        assert (await caller.get("/v1/tuning/finetunes")).status_code == 200


@pytest.mark.anyio
@pytest.mark.database("sqlite")
async def test_a_sweep_that_meets_damage_says_so_and_a_later_one_makes_it_good(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune_id = await service.create()
    for _ in range(3):
        await service.train(finetune_id)
    await service.settled()
    (service.data_dir / "finetunes" / finetune_id / "00000001-x.weights.safetensors").touch()
    services = services_of(service)
    whole = services.database.read
    monkeypatch.setattr(services.database, "read", fail)
    with structlog.testing.capture_logs() as logs:
        services.cleanup.sweep_soon(finetune_id)
        await service.settled()
    assert [entry["event"] for entry in logs] == ["sweep_failed"]
    monkeypatch.setattr(services.database, "read", whole)
    services.cleanup.sweep_soon(finetune_id)
    await service.settled()
    assert not any(name.startswith("00000001-x") for name in service.state_files(finetune_id))


@pytest.mark.parametrize("begin", [0, PAGE_BYTES])
def test_a_damaged_database_is_a_finding_and_no_backup(tmp_path: Path, begin: int) -> None:
    config = ServerConfig(data_dir=tmp_path)
    migrate.upgrade(config)
    assert verify(config).is_good
    spoil(tmp_path / "moontune.db", begin=begin)
    (problem,) = verify(config).problems
    assert (problem.kind, problem.path) == ("database", "moontune.db")
    assert problem.detail in ("file is not a database", "database disk image is malformed")
    with pytest.raises(BackupError, match=f"cannot be copied: .*{problem.detail}. `moontune doc"):
        back_up(config, tmp_path / "copy")
    assert not (tmp_path / "copy" / "backup.json").exists()


@pytest.mark.parametrize(
    ("met", "is_damaged"),
    [
        (psycopg.errors.DataCorrupted(), True),
        (psycopg.errors.IndexCorrupted(), True),
        (psycopg.errors.IoError(), False),
        (psycopg.errors.UndefinedTable(), False),
    ],
)
def test_what_postgresql_says_of_itself(met: psycopg.Error, is_damaged: bool) -> None:
    for kind in (DatabaseError, OperationalError):
        assert is_damage(kind("SELECT", {}, met)) is is_damaged
