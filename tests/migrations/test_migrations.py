"""The chain of revisions: up from empty, down again, one head, tables equal models."""

from __future__ import annotations

import errno
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect
from sqlalchemy.exc import IntegrityError

from contract import disk, durable
from server.config import ServerConfig
from server.db import kept_aside, migrate
from server.db.connection import Database
from server.db.migrate import SchemaError
from server.db.models import Base

MIGRATIONS = Path(migrate.__file__).parents[2] / "migrations"


def alembic(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


@pytest.fixture
def database(config: ServerConfig):
    migrate.upgrade(config)
    opened = Database(config.resolved_database_url)
    yield opened
    opened.close()


def test_there_is_one_head_and_every_step_back_exists() -> None:
    script = ScriptDirectory(str(MIGRATIONS))
    assert len(script.get_heads()) == 1
    for revision in script.walk_revisions():
        assert revision.module.downgrade is not None


def test_the_tables_equal_the_models(database: Database) -> None:
    with database.writer.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Base.metadata) == []
        names = set(inspect(connection).get_table_names())
    assert names == set(Base.metadata.tables) | {"alembic_version"}


def test_checks_and_indexes_are_those_of_the_models(database: Database) -> None:
    with database.writer.connect() as connection:
        seen = inspect(connection)
        for table in Base.metadata.tables.values():
            indexes = {index["name"] for index in seen.get_indexes(table.name)}
            assert {index.name for index in table.indexes} <= indexes
            checks = {check["name"] for check in seen.get_check_constraints(table.name)}
            assert checks == {
                constraint.name
                for constraint in table.constraints
                if str(constraint.name).startswith("ck_")
            }


def test_going_down_is_refused_while_it_would_forget_an_origin(database: Database) -> None:
    row = (
        "INSERT INTO finetunes (id, account_id, name, rank, adapter_seed, origin, step,"
        " created_at_ms, updated_at_ms) VALUES ('x', 'default', 'mine', 8, 0, 'y@1', 0, 0, 0)"
    )
    with database.writer.connect() as connection, connection.begin():
        connection.exec_driver_sql(row)
    with (
        database.writer.connect() as connection,
        connection.begin(),
        pytest.raises(RuntimeError, match="mine"),
    ):
        command.downgrade(alembic(connection), "0001")


def test_going_down_is_refused_while_keys_guard_the_service(database: Database) -> None:
    row = (
        "INSERT INTO api_keys (id, account_id, digest, prefix, name, scope, created_at_ms)"
        " VALUES ('x', 'default', 'd', 'mt_', 'laptop', 'full', 0)"
    )
    with database.writer.connect() as connection, connection.begin():
        connection.exec_driver_sql(row)
    with (
        database.writer.connect() as connection,
        connection.begin(),
        pytest.raises(RuntimeError, match="laptop"),
    ):
        command.downgrade(alembic(connection), "0003")


def test_saves_are_numbered_in_their_order_deleted_ones_included(config: ServerConfig) -> None:
    """Whatever the clock said: steps only grow, and the living save of a step is its last."""
    saves = (  # finetune, step, created, deleted, and the number
        ("y", 7, 50, "NULL", 1),
        ("x", 1, 90, "NULL", 1),
        ("x", 2, 30, "31", 2),
        ("x", 2, 35, "40", 3),
        ("x", 2, 10, "NULL", 4),
        ("x", 9, 5, "6", 5),
    )
    config.data_dir.mkdir(parents=True)
    database = Database(config.resolved_database_url)
    before = ScriptDirectory(str(MIGRATIONS)).get_revision("0006").down_revision
    with database.writer.connect() as connection, connection.begin():
        command.upgrade(alembic(connection), before)
        for finetune_id in ("x", "y"):
            connection.exec_driver_sql(
                "INSERT INTO finetunes (id, account_id, name, rank, adapter_seed, step,"
                f" created_at_ms, updated_at_ms) VALUES ('{finetune_id}', 'default',"
                f" '{finetune_id}', 8, 1, 9, 0, 0)"
            )
        for index, (finetune_id, step, created, deleted, _) in enumerate(saves):
            connection.exec_driver_sql(
                "INSERT INTO checkpoints (id, finetune_id, step, created_at_ms, updated_at_ms,"
                f" deleted_at_ms) VALUES ('{9 - index}', '{finetune_id}', {step}, {created}, 0,"
                f" {deleted})"
            )
    wanted = [(str(9 - index), save[-1]) for index, save in enumerate(saves)][::-1]
    query = "SELECT id, number FROM checkpoints ORDER BY id"
    for there in ("head", before, "head"):
        move = command.downgrade if there == before else command.upgrade
        with database.writer.connect() as connection, connection.begin():
            move(alembic(connection), there)
            if there == "head":
                assert connection.exec_driver_sql(query).all() == wanted
    database.close()


def test_going_down_leaves_nothing_and_up_again_works(database: Database) -> None:
    with database.writer.connect() as connection, connection.begin():
        command.downgrade(alembic(connection), "base")
    with database.writer.connect() as connection:
        assert inspect(connection).get_table_names() == ["alembic_version"]
    with database.writer.connect() as connection, connection.begin():
        command.upgrade(alembic(connection), "head")
    migrate.require_current(database)


def test_ordinals_are_never_reused(database: Database) -> None:
    insert = (
        "INSERT INTO finetunes (id, account_id, name, rank, adapter_seed, step, created_at_ms,"
        " updated_at_ms, deleted_at_ms) VALUES ('{}', 'default', 'a', 8, 1, 0, 0, 0, {})"
    )
    with database.writer.connect() as connection, connection.begin():
        connection.exec_driver_sql(insert.format("1", "5"))
        connection.exec_driver_sql(insert.format("2", "NULL"))
        connection.exec_driver_sql("DELETE FROM finetunes")
        connection.exec_driver_sql(insert.format("4", "NULL"))
        rows = connection.exec_driver_sql("SELECT ordinal FROM finetunes").all()
    assert rows == [(3,)]


def test_two_living_finetunes_cannot_have_one_name(database: Database) -> None:
    insert = (
        "INSERT INTO finetunes (id, account_id, name, rank, adapter_seed, step, created_at_ms,"
        " updated_at_ms) VALUES ('{}', 'default', 'a', 8, 1, 0, 0, 0)"
    )
    with database.writer.connect() as connection, connection.begin():
        connection.exec_driver_sql(insert.format("1"))
        with pytest.raises(IntegrityError):
            connection.exec_driver_sql(insert.format("2"))


def test_an_up_to_date_database_is_left_alone(config: ServerConfig) -> None:
    migrate.upgrade(config)
    migrate.upgrade(config)
    assert {path.name for path in config.data_dir.glob("*backup*")} == set()


@pytest.mark.database("sqlite")
@pytest.mark.parametrize("left", ["nothing", "no byte", "no table"])
def test_finetunes_whose_database_is_gone_are_not_hidden_by_a_new_one(
    config: ServerConfig, left: str
) -> None:
    folder = config.data_dir / "finetunes" / "01M8MS0GYXHXRKY2T8YH14GT5Y"
    folder.mkdir(parents=True)
    migrate.upgrade(config)  # an empty folder is of a create that died before its row
    (config.data_dir / "moontune.db").unlink()
    if left == "no byte":
        (config.data_dir / "moontune.db").touch()
    if left == "no table":  # as a command leaves it that only looks
        empty = Database(config.resolved_database_url)
        assert migrate.schema_of(empty) is None
        empty.close()
        assert (config.data_dir / "moontune.db").stat().st_size > 0
    (folder / "00000001-a.weights.safetensors").write_bytes(b"x")
    with pytest.raises(SchemaError, match=r"holds finetunes, but no moontune\.db"):
        migrate.upgrade(config)


def test_a_newer_database_is_refused_in_a_sentence(config: ServerConfig) -> None:
    migrate.upgrade(config)
    database = Database(config.resolved_database_url)
    with database.writer.connect() as connection, connection.begin():
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        connection.exec_driver_sql("UPDATE meta SET value = 'moontune 9.9' WHERE key = 'release'")
    with pytest.raises(SchemaError, match=r"a newer release made \(moontune 9\.9\)"):
        migrate.upgrade(config)
    with pytest.raises(SchemaError, match="a newer release made"):
        migrate.require_current(database)
    database.close()


@pytest.mark.database("sqlite")
def test_an_older_database_is_backed_up_then_upgraded(
    config: ServerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate.upgrade(config)
    head = add_revision(tmp_path, monkeypatch)
    migrate.upgrade(config)
    (backup,) = config.data_dir.glob(f"moontune.db.{head}.*.backup")
    assert tables(backup) == tables(config.data_dir / "moontune.db") - {"news"}
    with sqlite3.connect(config.data_dir / "moontune.db") as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [
            ("next",)
        ]
    connection.close()


@pytest.mark.database("sqlite")
def test_upgrades_that_fail_leave_one_copy_as_long_as_it_is_right(
    config: ServerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate.upgrade(config)
    add_revision(tmp_path, monkeypatch, after="    op.execute('nonsense')\n")
    stamps = map(str, range(10))
    monkeypatch.setattr(kept_aside, "file_stamp", lambda: next(stamps))
    for _ in range(3):
        with pytest.raises(SchemaError, match=r"from schema .* is as it was: .*nonsense"):
            migrate.upgrade(config)
        assert len(backups(config)) == 1
    change(config, "INSERT INTO meta (key, value) VALUES ('more', 'x')")
    with pytest.raises(SchemaError):
        migrate.upgrade(config)
    assert len(backups(config)) == 2  # the first one lacks a row
    for kept in backups(config):
        (config.data_dir / kept).write_bytes(b"damaged" * 1000)
    with pytest.raises(SchemaError):
        migrate.upgrade(config)
    assert len(backups(config)) == 3


@pytest.mark.database("sqlite")
@pytest.mark.parametrize("is_foreseen", [True, False])
def test_a_copy_for_which_there_is_no_space_leaves_nothing(
    config: ServerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_foreseen: bool
) -> None:
    migrate.upgrade(config)
    add_revision(tmp_path, monkeypatch)
    for ending in ("", "-journal"):  # of a process that was killed
        left = f".moontune.db.0001.20260101T000000Z.backup.partial{ending}"
        (config.data_dir / left).write_bytes(b"x")
    if is_foreseen:
        monkeypatch.setattr(disk, "free_bytes", lambda _path: 4096)
    else:
        monkeypatch.setattr(durable, "sync", no_space)
    with pytest.raises(SchemaError, match="could not be copied aside before its upgrade: "):
        migrate.upgrade(config)
    assert not list(config.data_dir.glob("*backup*"))
    assert not list(config.data_dir.glob(".*"))


def no_space(_path: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def backups(config: ServerConfig) -> list[str]:
    return [path.name for path in config.data_dir.glob("*backup*")]


def change(config: ServerConfig, statement: str) -> None:
    with closing(sqlite3.connect(config.data_dir / "moontune.db")) as connection:
        connection.execute(statement)
        connection.commit()


def add_revision(folder: Path, monkeypatch: pytest.MonkeyPatch, *, after: str = "") -> str | None:
    """Have one revision more than there is; returns the newest that there is."""
    head = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    newer = folder / "migrations"
    shutil.copytree(MIGRATIONS, newer)
    (newer / "versions" / "next.py").write_text(
        "import sqlalchemy as sa\n"
        "from alembic import op\n"
        f"revision, down_revision, branch_labels, depends_on = 'next', '{head}', None, None\n"
        "def upgrade():\n"
        "    op.create_table('news', sa.Column('id', sa.Integer(), primary_key=True))\n"
        f"{after}"
        "def downgrade():\n"
        "    op.drop_table('news')\n"
    )
    monkeypatch.setattr(migrate, "_folder", lambda: newer)
    return head


def tables(path: Path) -> set[str]:
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    connection.close()
    return {name for (name,) in rows}
