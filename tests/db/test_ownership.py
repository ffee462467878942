"""One server per PostgreSQL database."""

from __future__ import annotations

import os
import signal
import socket
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


def test_a_lock_that_our_own_broken_connection_still_has_is_waited_for(
    config: ServerConfig,
) -> None:
    owner = ownership._Owner(config.resolved_database_url)
    with postgres.server().connect(postgres.shared_name()) as look:
        assert owner.take()
        ((backend_pid,),) = look.execute("SELECT pid FROM pg_locks WHERE locktype = 'advisory'")
        os.kill(backend_pid, signal.SIGSTOP)  # as if it had not heard yet that the link is cut
        try:
            _cut_link(owner)
            owner._hold()
            assert num_holders(look) == 1
        finally:
            os.kill(backend_pid, signal.SIGCONT)
        while not owner.take():
            threading.Event().wait(0.01)
        owner.release()


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


def _cut_link(owner: ownership._Owner) -> None:
    assert owner._connection is not None
    link = owner._connection.connection.dbapi_connection
    assert isinstance(link, psycopg.Connection)
    with socket.socket(fileno=os.dup(link.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)


def num_holders(connection: psycopg.Connection) -> int:
    """Of this database; servers beside have locks in theirs."""
    found = connection.execute(
        "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database"
        " WHERE locktype = 'advisory' AND datname = current_database()"
    )
    return found.fetchone()[0]  # pyright: ignore[reportOptionalSubscript]


def test_a_sqlite_database_needs_no_lock_of_its_own(tmp_path: Path) -> None:
    config = ServerConfig(data_dir=tmp_path)
    with own_database(config, on_loss=never), own_database(config, on_loss=never):
        pass
