"""A PostgreSQL server for tests: in a folder of its own, on a Unix socket, as nobody of weight.

One per test process, started when first asked for. Databases are copies of one that was migrated.
"""

from __future__ import annotations

import atexit
import functools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import psycopg

from server.config import ServerConfig
from server.db import migrate

_FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/local/pgsql/bin")
_START_SECONDS = 60
_TEMPLATE = "template_moontune"
_LARGE_TABLE_BYTES = 1 << 20
_FAST = ("fsync=off", "full_page_writes=off", "autovacuum=off", "max_connections=200")


class PostgresServer:
    """One server; `start` after `stop` brings the same data back.

    Args:
        programs: The folder that they are in.
        settings: Such as `fsync=off`, beside the default ones.
    """

    def __init__(self, programs: Path, settings: Sequence[str] = ()):
        self.programs = programs
        self._settings = tuple(settings)
        self.folder = Path(tempfile.mkdtemp(prefix="moontune-postgres-"))
        self._user = _unprivileged_user()
        if self._user is not None:
            shutil.chown(self.folder, self._user)
        self._process: subprocess.Popen[bytes] | None = None
        self._run(
            "initdb", "--pgdata", f"{self.folder}/data", "--username", "moontune",
            "--auth", "trust", "--encoding", "UTF8", "--no-sync", "--no-instructions",
            # A language whose order differs from that of code points, as on real servers.
            "--locale", "C.UTF-8", "--locale-provider", "icu", "--icu-locale", "en-US",
        )  # fmt: skip

    def start(self) -> None:
        """Start, and return when it answers."""
        log = (self.folder / "log").open("ab")
        settings = [word for setting in self._settings for word in ("-c", setting)]
        command = [str(self.programs / "postgres"), "-D", f"{self.folder}/data"]
        command += ["-c", "listen_addresses=", "-k", str(self.folder), *settings]
        with log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, user=self._user, cwd=self.folder
            )
        give_up_at = time.monotonic() + _START_SECONDS
        while True:
            try:
                self.connect("postgres").close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > give_up_at or self._process.poll() is not None:
                    raise
                time.sleep(0.02)

    def stop(self, number: int = signal.SIGQUIT) -> None:
        """End it at once, as a crash would: it recovers at the next start. Harmless twice.

        Args:
            number: The signal; SIGINT ends it as an operator does.
        """
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        """End it and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def connect(self, name: str) -> psycopg.Connection:
        return psycopg.connect(
            host=str(self.folder), user="moontune", dbname=name, autocommit=True, connect_timeout=3
        )

    def url(self, name: str) -> str:
        return f"postgresql://moontune@/{name}?host={self.folder}"

    def create(self, *, template: str = "template0", name: str | None = None) -> str:
        """Make a database; return its name."""
        name = name or f"t{uuid4().hex}"
        with self.connect("postgres") as connection:
            connection.execute(
                f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY"  # pyright: ignore
            )
        return name

    def drop(self, name: str) -> None:
        """Remove a database, whoever is connected."""
        with self.connect("postgres") as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")  # pyright: ignore

    def _run(self, program: str, *words: str) -> None:
        command: Sequence[str] = [str(self.programs / program), *words]
        done = subprocess.run(
            command, user=self._user, cwd=self.folder, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed: {done.stderr}")


def why_not() -> str | None:
    """Why there can be no server here; None if there can."""
    return None if _programs() else "PostgreSQL is not installed (`make postgres` does, as root)"


@functools.cache
def server() -> PostgresServer:
    """The server of this process."""
    return start_server(_FAST)


def start_server(settings: Sequence[str] = ()) -> PostgresServer:
    """Another server, which is removed when this process ends."""
    programs = _programs()
    assert programs is not None, why_not()
    made = PostgresServer(programs, settings)
    atexit.register(made.remove)
    made.start()
    return made


@functools.cache
def migrated_template() -> str:
    """The name of a database at the newest schema, to be copied."""
    name = server().create(name=_TEMPLATE)
    migrate.upgrade(ServerConfig(database_url=server().url(name)))
    return name


@functools.cache
def shared_name() -> str:
    """The name of the one database that tests have one after the other; a copy costs more."""
    name = server().create(template=migrated_template())
    with server().connect(name) as connection:
        connection.execute("CREATE SCHEMA made; CREATE TABLE made.accounts AS TABLE accounts")
    return name


def fresh() -> str:
    """The URL of the shared database, as it was when it was made; one test at a time.

    Tables of few rows are emptied by DELETE, without checks of foreign keys: TRUNCATE makes new
    files for each and takes twenty times as long.
    """
    name = shared_name()
    with server().connect(name) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        tables = connection.execute(
            "SELECT quote_ident(tablename),"
            " pg_total_relation_size(quote_ident(tablename)::regclass) FROM pg_tables"
            " WHERE schemaname = 'public' AND tablename NOT IN ('accounts', 'alembic_version')"
        ).fetchall()
        statements = ["SET session_replication_role = replica"]
        statements += [
            f"TRUNCATE {table} CASCADE" if size > _LARGE_TABLE_BYTES else f"DELETE FROM {table}"
            for table, size in tables
        ]
        statements += ["DELETE FROM accounts", "INSERT INTO accounts SELECT * FROM made.accounts"]
        statements += [
            "SELECT setval(format('%I', sequencename)::regclass, start_value, false)"
            " FROM pg_sequences"
        ]
        connection.execute("; ".join(statements))  # pyright: ignore
    return server().url(name)


@functools.cache
def database_of(data_dir: Path) -> str:
    """The URL of the database that belongs to a data directory, made when first asked for."""
    return server().url(server().create(template=migrated_template()))


def _programs() -> Path | None:
    for pattern in _FOLDERS:
        for folder in sorted(Path("/").glob(pattern.removeprefix("/")), reverse=True):
            if (folder / "postgres").exists():
                return folder
    found = shutil.which("postgres")
    return Path(found).resolve().parent if found else None


def _unprivileged_user() -> str | None:
    """Whom to run it as: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return "nobody"
