"""Units of work: nothing lost, nothing half done, and what waiting comes to, on each database."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from server.db import engines, metrics
from server.db.connection import Database
from server.db.models import Finetune, Meta
from server.domain.errors import OverloadedError, StorageFullError
from tests import postgres

NUM_THREADS = 8
NUM_INCREMENTS = 10


def increment(session: Session) -> None:
    row = session.get(Meta, "count")
    if row is None:
        session.add(Meta(key="count", value="1"))
    else:
        row.value = str(int(row.value) + 1)


def count(session: Session) -> int:
    row = session.get(Meta, "count")
    return 0 if row is None else int(row.value)


def test_no_update_is_lost_between_threads_and_processes(
    database: Database, other: Database
) -> None:
    def work(number: int) -> None:
        for _ in range(NUM_INCREMENTS):
            (database if number % 2 else other).write_blocking(increment)

    with ThreadPoolExecutor(NUM_THREADS) as threads:
        list(threads.map(work, range(NUM_THREADS)))
    assert database.read_blocking(count) == NUM_THREADS * NUM_INCREMENTS


def test_a_unit_that_fails_leaves_nothing(database: Database) -> None:
    def work(session: Session) -> None:
        increment(session)
        session.flush()
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        database.write_blocking(work)
    assert database.read_blocking(count) == 0


def test_an_error_of_the_database_does_not_show_what_a_caller_sent(database: Database) -> None:
    def work(session: Session) -> None:
        for value in ("SECRET", "SECRET again"):
            session.execute(
                text("INSERT INTO meta (key, value) VALUES ('one', :value)"), {"value": value}
            )

    with pytest.raises(SQLAlchemyError) as caught:
        database.write_blocking(work)
    assert "INSERT INTO meta" in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_a_reader_cannot_write(database: Database) -> None:
    with pytest.raises((SQLAlchemyError, OverloadedError)):
        database.read_blocking(increment)
    assert database.read_blocking(count) == 0


def test_a_reader_sees_one_view_however_much_is_written(
    database: Database, other: Database
) -> None:
    def work(session: Session) -> tuple[int, int]:
        before = count(session)
        other.write_blocking(increment)
        session.expire_all()
        return before, count(session)

    assert database.read_blocking(work) == (0, 0)
    assert database.read_blocking(count) == 1


def test_a_write_waits_for_another_one_and_is_refused_after_a_while(
    database: Database, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "BUSY_TIMEOUT_MS", 50)
    hasty = Database(url)

    def work(session: Session) -> None:
        increment(session)
        session.flush()
        with pytest.raises(OverloadedError):
            hasty.write_blocking(increment)
        assert hasty.read_blocking(count) == 0  # reading never waits

    database.write_blocking(work)
    hasty.write_blocking(increment)
    assert database.read_blocking(count) == 2
    hasty.close()


@pytest.mark.database("postgresql")
def test_a_writer_that_fell_silent_loses_the_write_lock(
    url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "_SILENT_TRANSACTION_MS", 1500)
    silent = Database(url)

    def work(session: Session) -> None:
        increment(session)
        session.flush()
        database.write_blocking(increment)  # waits for less than its own time-out

    with pytest.raises(OverloadedError):
        silent.write_blocking(work)
    assert database.read_blocking(count) == 1
    silent.close()


@pytest.mark.anyio
async def test_a_full_disk_is_said_and_changes_nothing(
    database: Database, database_kind: str
) -> None:
    def work(session: Session) -> None:
        increment(session)
        session.flush()
        if database_kind == "sqlite":  # as small as it is: the next page does not fit
            session.execute(text("PRAGMA max_page_count = 1"))
            session.add(Meta(key="large", value="x" * 100_000))
        else:
            session.execute(text("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '53100'; END $$"))

    with pytest.raises(StorageFullError):
        await database.write(work)
    assert await database.read(count) == 0


def test_a_fault_of_ours_is_not_called_a_busy_database(database: Database) -> None:
    with pytest.raises(SQLAlchemyError):
        database.read_blocking(lambda session: session.execute(text("SELECT * FROM nowhere")))


def test_names_have_one_order_on_every_database(database: Database) -> None:
    def work(session: Session) -> list[str]:
        session.add(
            Finetune(
                id="F", account_id="default", name="a", rank=8, adapter_seed=0, step=0,
                created_at_ms=0, updated_at_ms=0,
            )
        )  # fmt: skip
        session.flush()
        values = {"a": 1.0, "B": 2.0, "a/b": 3.0, "_c": 4.0}
        metrics.upsert(session, "F", step=0, values=values, at_ms=0)
        metrics.upsert(session, "F", step=0, values={"a": 5.0}, at_ms=1)
        after_b = metrics.list_by_step(
            session, "F", name=None, from_step=None, after=(0, "B"), limit=9
        )
        return [row.name for row in after_b]

    assert database.write_blocking(work) == ["_c", "a", "a/b"]


@pytest.mark.database("postgresql")
def test_after_a_restart_of_the_server_the_connections_heal(database: Database) -> None:
    database.write_blocking(increment)
    assert database.read_blocking(count) == 1
    server = postgres.server()
    server.stop()
    for work in (database.read_blocking, database.write_blocking):
        with pytest.raises(OverloadedError):
            work(count)
    server.start()
    started_at = time.monotonic()
    database.write_blocking(increment)
    assert database.read_blocking(count) == 2
    assert time.monotonic() - started_at < 5


@pytest.mark.database("postgresql")
def test_when_the_server_goes_in_the_middle_the_call_may_be_tried_again(
    database: Database,
) -> None:
    server = postgres.server()

    def work(session: Session) -> None:
        increment(session)
        session.flush()
        server.stop()

    with pytest.raises(OverloadedError):
        database.write_blocking(work)
    server.start()
    database.write_blocking(increment)
    assert database.read_blocking(count) == 1
