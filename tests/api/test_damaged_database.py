"""What damage of a database becomes."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.exc import DatabaseError, OperationalError

from server.backup import BackupError, back_up
from server.config import ServerConfig
from server.db import migrate
from server.db.trouble import is_damage
from server.verification import verify
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
    path.write_bytes(whole)  # what an operator brings back is used at once
    checkpoint(service)
    assert (await service.get(address)).status_code == 200


def checkpoint(service: Service) -> None:
    """Have all pages in the file, and none in the memory of a connection."""
    database = service.app.state.services.database
    database.readers.dispose()
    database.writer.dispose()
    with closing(sqlite3.connect(service.data_dir / "moontune.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


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
