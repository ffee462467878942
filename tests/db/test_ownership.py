"""One server per PostgreSQL database."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import psycopg
import pytest

from server.config import ServerConfig
from server.db import ownership
from server.db.ownership import NotOwnerError, own_database
from tests import postgres

pytestmark = pytest.mark.database("postgresql")


@pytest.fixture
def config(tmp_path: Path, database_kind: str, monkeypatch: pytest.MonkeyPatch) -> ServerConfig:
    monkeypatch.setattr(ownership, "LOOK_SECONDS", 0.01)
    return ServerConfig(data_dir=tmp_path, database_url=postgres.fresh())


def never(reason: str) -> None:
    raise AssertionError(reason)


def test_a_second_server_is_refused_and_told_who_has_it(config: ServerConfig) -> None:
    with (
        own_database(config, on_loss=never),
        pytest.raises(NotOwnerError, match=rf"moontune process {os.getpid()} started 20.* on "),
        own_database(config, on_loss=never),
    ):
        pass
    with own_database(config, on_loss=never):
        pass


def test_after_a_restart_of_the_database_it_is_owned_again(config: ServerConfig) -> None:
    server = postgres.server()
    with own_database(config, on_loss=never):
        server.stop()
        server.start()
        with server.connect(postgres.shared_name()) as look:
            while not num_holders(look):
                threading.Event().wait(0.01)


def test_who_lost_the_database_to_another_is_told(config: ServerConfig) -> None:
    lost = threading.Event()
    with (
        own_database(config, on_loss=lambda _reason: lost.set()),
        postgres.server().connect(postgres.shared_name()) as other,
    ):
        is_ours = False
        while not is_ours:  # the first owner may be faster
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks"
                " WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
            )
            taken = other.execute("SELECT pg_try_advisory_lock(%s)", (ownership.OWNER_LOCK,))
            is_ours = bool(taken.fetchone()[0])  # pyright: ignore[reportOptionalSubscript]
        assert lost.wait(10)


@pytest.fixture
def cut_off(config: ServerConfig):
    """An owner whose connection broke, and what PostgreSQL still keeps of it."""
    owner = ownership._Owner(config.resolved_database_url)
    owner.take()
    kept, owner._connection = owner._connection, None
    assert kept is not None
    yield owner, kept
    owner.ended.set()
    kept.close()
    owner.release()


def test_an_owner_waits_for_its_own_session_that_is_not_yet_known_to_be_dead(
    cut_off, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, kept = cut_off
    take, num_taken, tried = owner.take, 0, threading.Event()

    def counted() -> None:
        nonlocal num_taken
        num_taken += 1
        if num_taken == 3:
            tried.set()
        take()

    monkeypatch.setattr(owner, "take", counted)
    lost: list[str] = []
    watch = threading.Thread(target=owner.watch, args=(lost.append,))
    watch.start()
    assert tried.wait(10)
    kept.close()
    with postgres.server().connect(postgres.shared_name()) as look:
        while not (watch.is_alive() and owner._connection is not None and num_holders(look)):
            assert not lost
            threading.Event().wait(0.01)
    owner.ended.set()
    watch.join()
    assert lost == []


def test_an_owner_does_not_wait_for_its_own_session_for_ever(
    cut_off, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, _ = cut_off
    monkeypatch.setattr(ownership, "RETAKE_SECONDS", 0.0)
    lost: list[str] = []
    owner.watch(lost.append)
    assert len(lost) == 1


def test_a_session_of_an_owner_that_says_nothing_ends(
    config: ServerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when its host lost power: no FIN, no RST."""
    monkeypatch.setattr(ownership, "_SILENT_MS", 50)
    silent = ownership._Owner(config.resolved_database_url)
    silent.take()
    with postgres.server().connect(postgres.shared_name()) as look:
        while num_holders(look):
            threading.Event().wait(0.01)
    silent.release()


def num_holders(connection: psycopg.Connection) -> int:
    found = connection.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
    return found.fetchone()[0]  # pyright: ignore[reportOptionalSubscript]


def test_a_sqlite_database_needs_no_lock_of_its_own(tmp_path: Path) -> None:
    config = ServerConfig(data_dir=tmp_path)
    with own_database(config, on_loss=never), own_database(config, on_loss=never):
        pass
