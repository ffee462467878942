"""Checks of the database: that it can be reached, is whole, and has a schema that we know."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import Session

from contract.findings import Finding, fault, ok, warning
from server.config import DATABASE_FILE, ServerConfig
from server.db import kept_aside, migrate
from server.db.connection import Database
from server.doctor.machine import Machine
from server.masks import mask_url
from server.words import quoted, readable_bytes

SKEW_MS = 60_000
"""How far the clock may stand behind the newest row."""

_STAMPS = ("finetunes", "train_requests", "checkpoints")


def check_database(machine: Machine, config: ServerConfig) -> list[Finding]:
    """The checks of the kind of database that is configured."""
    if config.database_url is None:
        return _check_sqlite(machine, config)
    return _check_other(machine, config, config.database_url)


def check_copies(config: ServerConfig) -> Finding | None:
    """Whether copies from before an upgrade keep files from being removed."""
    try:
        aside = kept_aside.read(config.resolved_database_url)
    except ArgumentError:
        return None  # told of the database
    for path, reason in aside.unread.items():
        return warning(
            "copies",
            f"{path} cannot be read ({reason}); while it lies there no state of before is removed,"
            " and the disk fills.",
            f"rm {quoted(path)}, if you will not go back to the release that it is of",
        )
    if not aside.copies:
        return ok("copies", "None is kept from before an upgrade.")
    sizes = [size for path in aside.needed if (size := _size(config.data_dir / path)) is not None]
    dates = ", ".join(sorted({kept_aside.made_on(copy) for copy in aside.copies}))
    files = " ".join(quoted(copy) for copy in aside.copies)
    return warning(
        "copies",
        f"The copy of the database of {dates} keeps the files that it names, also what was deleted"
        f" since: {len(sizes)} files, {readable_bytes(sum(sizes))}.",
        f"rm {files} and start the server again, if you will not go back to the release before"
        " (moontune verify counts what only it needs)",
    )


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _check_sqlite(machine: Machine, config: ServerConfig) -> list[Finding]:
    path = config.data_dir / DATABASE_FILE
    if not path.is_file():
        lost = migrate.lost_database(config)
        return [_lost(lost) if lost else ok("database", "It is made at the first start.")]
    damage = _damage(path)
    if damage is not None:
        aside = quoted(path.with_name(f"{path.name}.damaged"))
        return [
            fault(
                "database",
                f"{path} is damaged: {damage}.",
                f"stop the server; mv {quoted(path)} {aside};"
                " moontune restore BACKUP --data-dir NEW",
            )
        ]
    found, newest = _look(config)
    return [found, *_check_stamps(machine, newest)]


def _lost(sentence: str) -> Finding:
    cure = "put it back, set MOONTUNE_DATABASE_URL, or moontune restore BACKUP --data-dir NEW"
    return fault("database", f"{sentence}.", cure)


def _check_other(machine: Machine, config: ServerConfig, url: str) -> list[Finding]:
    try:
        make_url(url)
    except ArgumentError:
        return [
            fault(
                "database",
                "MOONTUNE_DATABASE_URL is no URL of a database.",
                "export MOONTUNE_DATABASE_URL=postgresql://USER@HOST/NAME",
            )
        ]
    try:
        found, newest = _look(config)
    except ImportError:
        return [
            fault(
                "database",
                "The driver of PostgreSQL is missing.",
                "pip install 'moontune[postgres]'",
            )
        ]
    except (SQLAlchemyError, ValueError) as error:
        return [_unreachable(url, _reason(error))]
    return [found, *_check_stamps(machine, newest)]


def _look(config: ServerConfig) -> tuple[Finding, int | None]:
    """The finding about the schema, and the stamp of the newest row where it is known."""
    database = Database(config.resolved_database_url)
    try:
        try:
            schema = migrate.schema_of(database)
        except migrate.SchemaError as error:
            sentence, _, advice = str(error).partition("; ")
            return fault("database", f"{sentence}.", advice or "restore a backup"), None
        if schema is None:
            lost = migrate.lost_database(config)
            empty = ok("database", "It is empty; the first start fills it.")
            return (_lost(lost) if lost else empty), None
        if schema != migrate.newest_schema():
            old = warning(
                "database",
                f"It has schema {schema}; this release needs {migrate.newest_schema()}.",
                "moontune serve upgrades it, after a copy (`moontune backup` makes another)",
            )
            return old, None
        newest = database.read_blocking(_newest_stamp)
    finally:
        database.close()
    return ok("database", f"It can be read, and has schema {schema}."), newest


def _newest_stamp(session: Session) -> int | None:
    stamps = [
        session.execute(text(f"SELECT max(created_at_ms) FROM {table}")).scalar()
        for table in _STAMPS
    ]
    return max((int(stamp) for stamp in stamps if stamp is not None), default=None)


def _check_stamps(machine: Machine, newest: int | None) -> list[Finding]:
    if newest is None:
        return []
    behind = newest - machine.now_ms()
    if behind > SKEW_MS:
        return [
            fault(
                "clock-and-rows",
                f"The clock stands {behind // 1000} s before the newest row of the database.",
                "sudo timedatectl set-ntp true",
            )
        ]
    return [ok("clock-and-rows", "No row is of the future.")]


def _damage(path: Path) -> str | None:
    """What SQLite says against a file; it is opened for reading alone."""
    try:
        with closing(
            sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True)
        ) as file:
            (answer,) = file.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        return None if "locked" in str(error) else str(error)
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if answer == "ok" else str(answer).splitlines()[-1]


def _unreachable(url: str, reason: str) -> Finding:
    """Say what stands between us and PostgreSQL, as far as its words tell."""
    parsed = make_url(url)
    user, host, name = parsed.username or "USER", parsed.host or "HOST", parsed.database or "NAME"
    cures: tuple[tuple[Callable[[str], bool], str], ...] = (
        (
            lambda said: "password" in said or "authentication" in said,
            f"export MOONTUNE_DATABASE_URL=postgresql://{user}:PASSWORD@{host}/{name} with the"
            f" right password, or as an administrator: ALTER ROLE {user} PASSWORD '...'",
        ),
        (lambda said: "does not exist" in said and "database" in said, f"createdb {name}"),
        (lambda said: "does not exist" in said, f"createuser {user}"),
    )
    usual = f"start PostgreSQL on {host} (pg_isready -h {host}), or unset MOONTUNE_DATABASE_URL"
    cure = next((cure for fits, cure in cures if fits(reason)), usual)
    return fault("database", f"{mask_url(url)} cannot be used: {reason.rstrip('.')}.", cure)


def _reason(error: Exception) -> str:
    """The last line of what the driver says: the one with the cause."""
    original = getattr(error, "orig", None) or error
    lines = [line.strip() for line in str(original).splitlines() if line.strip()]
    told = [line for line in lines if "FATAL" in line or "failed" in line or "Error" in line]
    return (told or lines or [type(error).__name__])[0]
