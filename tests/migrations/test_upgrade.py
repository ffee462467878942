"""Data of every schema that was released: upgraded, a client goes on where it was."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import httpx
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, event, select
from structlog.testing import capture_logs

from server.app import create_app
from server.backup import BACKUP_FILE, FORMAT, Backup, BackupError, back_up, describe
from server.config import ServerConfig
from server.db import kept_aside, migrate
from server.db.connection import Database
from server.db.models import Base, Finetune, TrainStep
from server.restore import restore
from server.verification import verify
from tests.chaos.micro_checkpoint import write_micro_checkpoint
from tests.factories import make_sft_group
from tests.fakes import FAKE_MODEL, FakeEngine, FakeImageDecoder
from tests.forked import ForkingServer
from tests.migrations.recorded import MIGRATIONS, SCHEMAS, lay_out

KILLED = 137
TUNING = "/v1/tuning"
OLDER = [schema for schema in SCHEMAS if schema != migrate.newest_schema()]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=SCHEMAS)
def recorded(request: pytest.FixtureRequest, config: ServerConfig) -> ServerConfig:
    """A data directory as the code of this schema left it."""
    lay_out(request.param, config)
    return config


@asynccontextmanager
async def serving(
    config: ServerConfig,
) -> AsyncGenerator[tuple[httpx.AsyncClient, FakeEngine]]:
    engine = FakeEngine(dataclasses.replace(FAKE_MODEL, digest=_base_digest(config)))
    app = create_app(config, engine=engine, image_decoder=FakeImageDecoder())
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        yield client, engine


@pytest.mark.anyio
async def test_after_the_upgrade_a_client_goes_on_at_the_right_step(
    recorded: ServerConfig,
) -> None:
    migrate.upgrade(recorded)
    async with serving(recorded) as (client, engine):
        listed = (await client.get(f"{TUNING}/finetunes")).json()["finetunes"]
        steps = {row["name"]: row for row in listed}
        assert "gone" not in steps
        trained = steps["trained"]["finetune_id"]
        again = await client.post(f"{TUNING}/finetunes", json={"name": "trained", "rank": 8})
        assert again.json()["finetune_id"] == trained
        saved = (await client.get(f"{TUNING}/finetunes/{trained}/checkpoints")).json()
        assert [row["step"] for row in saved["checkpoints"]] == [2]
        saved = (await client.get(f"{TUNING}/adapters/{trained}/checkpoints")).json()
        assert [row["checkpoint_id"] for row in saved["checkpoints"]] == [f"{trained}/chk_001"]
        body = {"finetune_id": trained, "groups": [make_sft_group()]}
        assert (await client.post(f"{TUNING}/train_step", json=body)).json()["step"] == 4
        saved = (await client.post(f"{TUNING}/adapters/{trained}/checkpoint")).json()
        assert saved["checkpoint_id"] == f"{trained}/chk_002"
        given = engine.commands("train_step")[0]
        for file in (given.adapter.weights, given.optimizer):
            assert _digest(Path(file.path)) == file.digest


@pytest.mark.anyio
@pytest.mark.database("sqlite")
@pytest.mark.parametrize("recorded", OLDER, indirect=True)
async def test_while_the_copy_lies_there_the_way_back_has_its_files(
    recorded: ServerConfig,
) -> None:
    before = _files(recorded)
    migrate.upgrade(recorded)
    async with serving(recorded) as (client, _):
        trained = await _train(client, num_steps=3)
    assert before <= _files(recorded)  # also the last two states, which nothing else needs now
    findings = verify(recorded)
    assert (findings.problems, findings.unnamed) == ((), ())
    assert set(findings.kept_aside) < before

    async with serving(recorded) as (client, _):
        await client.delete(f"{TUNING}/finetunes/{trained}")
    assert [path for path in _files(recorded) if trained in path] == []


@pytest.mark.anyio
@pytest.mark.database("sqlite")
@pytest.mark.parametrize("recorded", OLDER[:1], indirect=True)
async def test_without_the_copy_they_go_at_the_next_start(recorded: ServerConfig) -> None:
    migrate.upgrade(recorded)
    async with serving(recorded) as (client, _):
        await _train(client, num_steps=3)
    kept = set(verify(recorded).kept_aside)
    _only_copy(recorded).unlink()
    assert kept
    assert kept <= _files(recorded)
    async with serving(recorded):
        assert kept & _files(recorded) == set()


@pytest.mark.database("sqlite")
@pytest.mark.parametrize("recorded", OLDER[:1], indirect=True)
def test_what_any_of_several_copies_needs_is_needed(recorded: ServerConfig) -> None:
    migrate.upgrade(recorded)
    url = recorded.resolved_database_url
    of_the_first = set(kept_aside.read(url).needed)
    assert of_the_first == _files(recorded)
    first = _only_copy(recorded)
    for name in (
        "moontune.db.0000.20990101T000000Z.backup",  # after a way back: an older schema, but later
        "moontune.db.0005.20200101T000000Z.backup",
    ):
        other = shutil.copy(first, first.with_name(name))
        with closing(sqlite3.connect(other)) as database, database:
            database.execute("UPDATE train_steps SET weights_path = ? || step", (f"{name}/",))
    first.with_name("moontune.db.mine.20990101T000000Z.backup").write_bytes(b"of somebody else")
    aside = kept_aside.read(url)
    assert (len(aside.copies), aside.unread) == (3, {})
    others = set(aside.needed) - of_the_first
    assert {path.split(".")[2] for path in others} == {"0000", "0005"}
    assert of_the_first < set(aside.needed)


@pytest.mark.anyio
@pytest.mark.database("sqlite")
@pytest.mark.parametrize("content", [b"", b"not a database at all" * 500], ids=["empty", "damaged"])
@pytest.mark.parametrize("recorded", OLDER[:1], indirect=True)
async def test_while_a_copy_is_damaged_no_state_goes_and_that_is_said(
    recorded: ServerConfig, content: bytes
) -> None:
    before = _files(recorded)
    migrate.upgrade(recorded)
    copy = _only_copy(recorded)
    copy.write_bytes(content)
    with capture_logs() as logs:
        async with serving(recorded) as (client, _):
            await _train(client, num_steps=4)
            assert before <= _files(recorded)
            findings = verify(recorded)
            (problem,) = findings.problems
            assert (problem.kind, problem.path) == ("copy", copy.name)
            assert "no state of before is removed" in problem.detail
            assert (findings.unnamed, set(findings.kept_aside) < _files(recorded)) == ((), True)
            copy.unlink()  # which needs no restart
            await _train(client, num_steps=1)
    findings = verify(recorded)
    assert (findings.problems, findings.unnamed, findings.kept_aside) == ((), (), ())
    (told,) = [line for line in logs if line["event"] == "copy_aside_not_readable"]
    assert told["path"] == str(copy)
    assert told["cure"] == kept_aside.CURE


@pytest.mark.anyio
@pytest.mark.database("sqlite")
@pytest.mark.parametrize("recorded", OLDER[:1], indirect=True)
async def test_a_copy_that_is_locked_for_a_while_loses_nothing(recorded: ServerConfig) -> None:
    before = _files(recorded)
    migrate.upgrade(recorded)
    with closing(sqlite3.connect(_only_copy(recorded))) as other:
        other.execute("BEGIN EXCLUSIVE")
        async with serving(recorded) as (client, _):
            await _train(client, num_steps=3)
            other.rollback()
            await _train(client, num_steps=1)
    assert before <= _files(recorded)
    findings = verify(recorded)
    assert (findings.problems, findings.unnamed) == ((), ())
    assert set(findings.kept_aside) < before  # what was trained meanwhile is swept as ever


@pytest.mark.anyio
@pytest.mark.database("sqlite")
@pytest.mark.parametrize("recorded", OLDER[:1], indirect=True)
async def test_a_file_that_the_copy_alone_needs_is_missed_as_its_own(
    recorded: ServerConfig,
) -> None:
    migrate.upgrade(recorded)
    async with serving(recorded) as (client, _):
        trained = await _train(client, num_steps=3)
    lost = min(verify(recorded).kept_aside)
    (recorded.data_dir / lost).unlink()
    (problem,) = verify(recorded).problems
    assert (problem.kind, problem.path) == ("copy", lost)
    assert _only_copy(recorded).name in problem.detail
    async with serving(recorded) as (client, _):
        await client.delete(f"{TUNING}/finetunes/{trained}")
    assert verify(recorded).problems == ()  # what was deleted does not come back, as it is said


@pytest.mark.database("sqlite")
@pytest.mark.parametrize("recorded", OLDER, indirect=True)
def test_an_older_backup_is_upgraded_where_it_is_restored_without_a_copy_aside(
    recorded: ServerConfig, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    files = _files(recorded)
    _describe_as_backup(recorded, request.node.callspec.params["recorded"])
    restored = recorded.model_copy(update={"data_dir": tmp_path / "restored"})
    findings = restore(recorded.data_dir, restored)
    assert (findings.problems, findings.unnamed, findings.kept_aside) == ((), (), ())
    assert _files(restored) == files
    assert [*restored.data_dir.glob("*.backup")] == []

    (recorded.data_dir / max(files)).unlink()
    _describe_as_backup(recorded, request.node.callspec.params["recorded"])
    with pytest.raises(BackupError, match="not whole"):
        restore(recorded.data_dir, recorded.model_copy(update={"data_dir": tmp_path / "not-whole"}))


@pytest.mark.e2e
@pytest.mark.database("sqlite")
def test_the_next_step_is_the_same_whatever_code_made_the_ones_before(
    config: ServerConfig, tmp_path: Path
) -> None:
    """Each recorded run was the same three steps; so is the fourth, computed by today's worker."""
    model = tmp_path / "micro"
    write_micro_checkpoint(model)
    losses: set[float] = set()
    for schema in (SCHEMAS[0], SCHEMAS[-1]):  # each takes a server of its own
        own = config.model_copy(update={"data_dir": tmp_path / schema})
        lay_out(schema, own)
        with ForkingServer(own.data_dir, "--model", str(model), "--seed", "7") as server:
            body = {"name": "trained", "rank": 8}
            trained = server.post(f"{TUNING}/finetunes", body).json()["finetune_id"]
            body = {"finetune_id": trained, "groups": [make_sft_group()], "lr": 0.01}
            answer = server.post(f"{TUNING}/train_step", body)
            assert answer.status_code == 200, answer.text
            assert answer.json()["step"] == 4
            losses.add(answer.json()["sft_loss"])
    assert len(losses) == 1


def test_killed_at_any_statement_of_the_upgrade_a_second_run_ends_right(
    recorded: ServerConfig, tmp_path: Path
) -> None:
    before = _rows(recorded)
    statement = 0
    while _upgrade_and_die_at(recorded, statement):
        statement += 1
        assert statement < 1000
    assert statement > 3  # it was killed at some
    migrate.upgrade(recorded)
    assert _rows(recorded) == before
    database = Database(recorded.resolved_database_url)
    with database.writer.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    database.close()


def test_the_revisions_say_what_the_models_say(config: ServerConfig) -> None:
    """`alembic check`."""
    migrate.upgrade(config)
    database = Database(config.resolved_database_url)
    settings = Config()
    settings.set_main_option("script_location", str(MIGRATIONS))
    with database.writer.connect() as connection, connection.begin():
        settings.attributes["connection"] = connection
        command.check(settings)
    database.close()


async def _train(client: httpx.AsyncClient, *, num_steps: int) -> str:
    body = {"name": "trained", "rank": 8}
    trained = (await client.post(f"{TUNING}/finetunes", json=body)).json()["finetune_id"]
    body = {"finetune_id": trained, "groups": [make_sft_group()]}
    for _ in range(num_steps):
        assert (await client.post(f"{TUNING}/train_step", json=body)).status_code == 200
    return trained


@pytest.mark.database("sqlite")  # the only kind that `moontune backup` copies
@pytest.mark.parametrize("recorded", OLDER, indirect=True)
def test_a_backup_of_an_older_schema_is_refused_in_a_sentence(
    recorded: ServerConfig, tmp_path: Path
) -> None:
    with pytest.raises(BackupError, match="use the release that made it"):
        back_up(recorded, tmp_path / "backup")
    assert not (tmp_path / "backup" / BACKUP_FILE).exists()


def _describe_as_backup(config: ServerConfig, schema: str) -> None:
    """Write what `moontune backup` of that time would say of the directory."""
    folder = config.data_dir
    backup = Backup(
        format=FORMAT,
        release="moontune of then",
        schema=schema,
        made_at="2026-11-29T05:00:00+00:00",
        database=describe(folder, "moontune.db"),
        files=tuple(describe(folder, path) for path in sorted(_files(config))),
    )
    (folder / BACKUP_FILE).write_text(json.dumps(dataclasses.asdict(backup)))


def _only_copy(config: ServerConfig) -> Path:
    (copy,) = config.data_dir.glob("moontune.db.*.backup")
    return copy


def _files(config: ServerConfig) -> set[str]:
    found = (config.data_dir / "finetunes").rglob("*.safetensors")
    return {path.relative_to(config.data_dir).as_posix() for path in found}


def _upgrade_and_die_at(config: ServerConfig, statement: int) -> bool:
    """Upgrade in a child that dies before its n-th statement; whether there were as many."""
    child = os.fork()
    if child == 0:
        gc.disable()  # a search of all objects that is due in the parent would be due in each child
        seen: Counter[str] = Counter()

        def die(*_args: object) -> None:
            if seen["statements"] == statement:
                os._exit(KILLED)
            seen["statements"] += 1

        event.listen(Engine, "before_cursor_execute", die)
        event.listen(Engine, "commit", die)
        try:
            migrate.upgrade(config)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, KILLED)
    return code == KILLED


def _rows(config: ServerConfig) -> list[tuple[object, ...]]:
    """What no upgrade may change, read in a way that every schema knows."""
    database = Database(config.resolved_database_url)
    columns = (Finetune.name, Finetune.step, TrainStep.step, TrainStep.weights_digest)
    query = select(*columns).join(TrainStep, TrainStep.finetune_id == Finetune.id)
    try:
        return sorted(
            tuple(row)
            for row in database.read_blocking(lambda session: session.execute(query).all())
        )
    finally:
        database.close()


def _base_digest(config: ServerConfig) -> str:
    database = Database(config.resolved_database_url)
    query = select(Finetune.base_model_digest).where(Finetune.name == "trained")
    digest = database.read_blocking(lambda session: session.scalar(query))
    database.close()
    assert digest is not None
    return digest


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
