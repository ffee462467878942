"""What the errors of a database become, where no other test meets the real thing."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DatabaseError

from server.db.trouble import translate
from server.domain.errors import OverloadedError, StateDamagedError


@pytest.mark.parametrize("place", [0, 4096])
def test_a_damaged_database_is_a_lasting_refusal_and_its_path_is_for_the_log(
    tmp_path: Path, place: int
) -> None:
    path = tmp_path / "moontune.db"
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE numbers (value INTEGER)")
        made.executemany("INSERT INTO numbers VALUES (?)", [(value,) for value in range(5000)])
    made.close()
    content = bytearray(path.read_bytes())
    content[place : place + 4096] = b"\xa5" * 4096
    path.write_bytes(content)
    engine = create_engine(f"sqlite:///{path}")
    with pytest.raises(DatabaseError) as met, engine.connect() as connection:
        connection.execute(text("SELECT sum(value) FROM numbers"))
    engine.dispose()
    refusal = translate(met.value, engine)
    assert isinstance(refusal, StateDamagedError)
    assert refusal.status == 409
    assert "moontune verify" in refusal.message
    assert str(tmp_path) not in refusal.message


@pytest.mark.parametrize(
    ("met", "refusal"),
    [
        (psycopg.errors.DataCorrupted(), StateDamagedError),
        (psycopg.errors.IndexCorrupted(), StateDamagedError),
        (psycopg.errors.IoError(), OverloadedError),
        (psycopg.errors.UndefinedTable(), type(None)),
    ],
)
def test_what_postgresql_says_of_itself(met: psycopg.Error, refusal: type) -> None:
    engine = create_engine("postgresql+psycopg://")
    assert isinstance(translate(DatabaseError("SELECT", {}, met), engine), refusal)
