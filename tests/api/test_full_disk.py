"""A full disk: refused before the work where it can be foreseen, and good again without restart."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from contract import disk
from contract.errors import StorageFull
from server import logs
from server.db import trouble
from tests.service import refusal

pytestmark = pytest.mark.anyio
WEIGHTS_BYTES = 8 * 10_000  # of rank 8, as the fake model has it


@pytest.fixture
def room(monkeypatch):
    """How much the disk says is free."""
    sizes = {"free": 1 << 40}
    monkeypatch.setattr(disk, "free_bytes", lambda _path: sizes["free"])
    return sizes


@pytest.mark.parametrize("short", [1, 0])
async def test_a_step_is_refused_when_it_would_leave_too_little(serve, room, short, capsys):
    async with serve(min_free_bytes=1000) as service:
        finetune = await service.create()
        room["free"] = 1000 + 3 * WEIGHTS_BYTES - short  # weights and two moments
        answer = await service.train(finetune)
        if not short:
            assert answer.status_code == 200
            return
        message = refusal(answer, 507, "storage_full")["message"]
        assert str(1000 + 3 * WEIGHTS_BYTES) in message
        assert str(room["free"]) in message
        assert str(service.data_dir) not in answer.text
        assert str(service.data_dir) in capsys.readouterr().out  # the log has the path
        assert service.engine.calls == []
        room["free"] = 1 << 40
        assert (await service.train(finetune)).json()["step"] == 1


async def test_an_export_and_a_copy_are_refused_as_well(serve, room):
    async with serve(min_free_bytes=1000) as service:
        finetune = await service.create()
        await service.train(finetune)
        await service.save(finetune)
        room["free"] = 1000
        link = f"/v1/tuning/finetunes/{finetune}/checkpoints/1/download"
        refusal(await service.get(link), 507, "storage_full")
        copy = {"name": "copy", "rank": 8, "from_checkpoint": f"{finetune}@1"}
        refusal(await service.post("/v1/tuning/finetunes", copy), 507, "storage_full")
        assert (await service.save(finetune)).status_code == 200
        room["free"] = 1 << 40
        assert (await service.get(link)).status_code == 200
        assert (await service.post("/v1/tuning/finetunes", copy)).status_code == 200


async def test_a_disk_that_ends_in_the_middle_says_what_was_needed(service):
    finetune = await service.create()
    service.engine.faults.append(StorageFull("of /data", needed_bytes=777, free_bytes=55))
    message = refusal(await service.train(finetune), 507, "storage_full")["message"]
    assert "777" in message
    assert "55" in message
    assert "/data" not in message
    assert (await service.train(finetune)).json()["step"] == 1


@pytest.mark.database("sqlite")
async def test_a_database_without_room_says_so(service, monkeypatch):
    """Pages of the database are limited where they are, as a full disk would."""
    database = service.app.state.services.database

    def limit(session, pages: int) -> None:
        session.connection().exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    monkeypatch.setattr(trouble, "storage_full", _known_free)
    finetune = await service.create()
    await database.write(limit, 1)  # SQLite takes the present size
    numbers = {f"metric{n}": float(n) for n in range(100)}
    address = f"/v1/tuning/finetunes/{finetune}/metrics"
    answers = [await service.post(address, {"step": step, "metrics": numbers}) for step in range(9)]
    message = refusal(answers[-1], 507, "storage_full")["message"]
    assert "4096 are free" in message
    await database.write(limit, 1 << 30)
    again = await service.post(address, {"step": 8, "metrics": numbers})
    assert again.status_code == 200


@pytest.mark.database("sqlite")
async def test_a_database_that_cannot_be_written_changes_nothing_and_goes_on(service):
    """No file may grow: SQLite meets a real I/O error at its first write."""
    finetune = await service.create()
    assert (await service.train(finetune)).json()["step"] == 1
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        with capture_logs():  # which may lie in a file, too
            refused = await service.train(finetune, lr=0.5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    refusal(refused, 503, "overloaded")
    assert len(service.engine.commands("train_step")) == 1
    assert (await service.train(finetune, lr=0.5)).json()["step"] == 2
    sound = service.app.state.services.database.read_blocking(
        lambda session: session.execute(text("PRAGMA integrity_check")).scalar_one()
    )
    assert sound == "ok"


def _known_free(_path: Path, *, num_bytes: int) -> StorageFull:
    return StorageFull("db", needed_bytes=num_bytes, free_bytes=4096)


def test_a_log_that_cannot_be_written_does_not_matter():
    class Full:
        def write(self, *_text: str) -> int:
            raise OSError(28, "No space left on device")

        flush = write

    stream = logs.Lossy(Full())  # type: ignore[arg-type]
    assert stream.write("a line\n") == len("a line\n")
    stream.flush()
