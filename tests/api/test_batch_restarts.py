"""A batch whose server dies at any commit: every line once, in order, and nothing left behind."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from server.db.connection import Database
from server.domain.errors import OverloadedError
from server.services import books
from server.verification import verify
from tests.api.conftest import Serve
from tests.api.test_batch import BATCH, complete, ended, line, put, results, stored, text_of
from tests.fakes import FakeEngine
from tests.service import Service

pytestmark = [pytest.mark.anyio, pytest.mark.database("sqlite")]

NUM_LINES = 10
LINES = [*map(line, range(4)), b"{", *map(line, range(5, NUM_LINES))]
CONTENT = text_of(LINES)
SMALL = {"batch_chunk_lines": 4, "max_batch_output_lines": 6, "max_batch_calls": 3}
MAX_LIVES = 40


@dataclass
class Death:
    """The server dies at its n-th commit, which is lost with it or is the last thing it did."""

    at: int
    is_lost: bool
    num_commits: int = 0
    came: asyncio.Event = field(default_factory=asyncio.Event)

    def threaten(self, database: Database) -> None:
        write, read = database.write, database.read

        async def writing(work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            self._live()
            if work.__module__ == books.__name__:  # at any time, beside what is done
                return await write(work, *args, **kwargs)
            self.num_commits += 1
            if self.num_commits < self.at:
                return await write(work, *args, **kwargs)
            if not self.is_lost:
                await write(work, *args, **kwargs)
            self.came.set()
            raise OverloadedError("dead")

        async def reading(work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            self._live()
            return await read(work, *args, **kwargs)

        database.write, database.read = writing, reading  # type: ignore[method-assign]

    def _live(self) -> None:
        """After its death a process does nothing to the database, whatever its tasks still try."""
        if self.came.is_set():
            raise OverloadedError("dead")


@dataclass
class Client:
    """Uploads a batch, over as many lives of the server as it takes."""

    path: str = ""
    upload_id: str = ""
    parts: list[Any] = field(default_factory=list)
    is_completed: bool = False

    async def go_on(self, service: Service) -> bool:
        """Whether it is through; the first answer that is not 200 ends the attempt."""
        if not self.path:
            answer = await service.http.post(f"{BATCH}?action=mpu-create")
            if answer.status_code != 200:
                return False
            made = answer.json()
            self.path, self.upload_id = f"{BATCH}/{made['fileId']}", made["uploadId"]
        for number, content in enumerate((CONTENT[:70], CONTENT[70:]), 1):
            if len(self.parts) < number:
                answer = await put(service, self.path, self.upload_id, number, content)
                if answer.status_code != 200:
                    return False
                self.parts.append(answer.json())
        if not self.is_completed:
            answer = await complete(service, self.path, self.upload_id, self.parts)
            self.is_completed = answer.status_code == 200
        return self.is_completed


async def live(serve: Serve, folder: Path, client: Client, death: Death) -> bool:
    """One life of the server; whether the batch ended in it."""
    async with serve(FakeEngine(), data_dir=folder, database_url=None, **SMALL) as service:
        death.threaten(service.app.state.services.database)
        if await client.go_on(service):
            await _first(lambda: _until_ended(service, client.path), death.came.wait)
    return not death.came.is_set()


async def _first(*waits: Callable[[], Awaitable[Any]]) -> None:
    tasks = [asyncio.ensure_future(wait()) for wait in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _until_ended(service: Service, path: str) -> None:
    while True:
        answer = await service.get(path)
        if answer.status_code == 200 and answer.json()["status"] == "completed":
            return
        await asyncio.sleep(0.002)


async def check(serve: Serve, folder: Path, client: Client) -> list[dict[str, Any]]:
    """A last life, undisturbed: everything is there once, and nothing else."""
    async with serve(FakeEngine(), data_dir=folder, database_url=None, **SMALL) as service:
        assert await client.go_on(service)
        shown = await ended(service, client.path)
        assert shown["status"] == "completed", shown
        assert shown["progress"] == {"total": NUM_LINES, "completed": 9, "failed": 1}
        assert shown["usage"] == {"input_tokens": 9 * 740, "output_tokens": 9 * 3}
        rows = await results(service, shown)
        assert [row["line_index"] for row in rows] == list(range(NUM_LINES))
        assert [row["id"] for row in rows] == [
            None if number == 4 else f"line-{number}" for number in range(NUM_LINES)
        ]
        await service.app.state.services.batches.cleanup.settled()
        assert stored(service) == ["output", "output"]
        findings = verify(service.config)
        assert (findings.problems, findings.unnamed) == ((), ())
    return rows


def new_folder(tmp_path: Path, empty_database: Path, name: str) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    shutil.copy(empty_database, folder / "moontune.db")
    return folder


async def test_it_dies_at_each_commit_once(
    serve: Serve, tmp_path: Path, empty_database: Path
) -> None:
    undisturbed = Client()
    never = Death(at=10**9, is_lost=False)
    folder = new_folder(tmp_path, empty_database, "undisturbed")
    assert await live(serve, folder, undisturbed, never)
    expected = await check(serve, folder, undisturbed)
    # The upload, its two parts, its completion; the lines are counted, a model is bound; three
    # chunks of answers; the outputs; the secret with which their links are signed.
    assert never.num_commits == 1 + 2 + 1 + 2 + 3 + 1 + 1
    for at in range(1, never.num_commits + 1):
        # What is not lost differs from the next one's loss by what the client knows.
        for is_lost in (True, False) if at <= 4 else (True,):
            folder = new_folder(tmp_path, empty_database, f"{at}-{is_lost}")
            client = Client()
            assert not await live(serve, folder, client, Death(at=at, is_lost=is_lost))
            if batch := client.path.rpartition("/")[2]:  # what a death within a write would leave
                (folder / "batches" / batch).mkdir(parents=True, exist_ok=True)
                for name in (".part-00001-x.jsonl.tmp", "answers-000000-x.jsonl", "output-0000-x"):
                    (folder / "batches" / batch / name).write_bytes(b"half")
            rows = await check(serve, folder, client)
            assert rows == expected or (at == 1 and not is_lost)  # then it is another batch


async def test_it_gets_one_commit_further_in_each_life(
    serve: Serve, tmp_path: Path, empty_database: Path
) -> None:
    folder, client, num_lives = new_folder(tmp_path, empty_database, "lives"), Client(), 0
    while not await live(serve, folder, client, Death(at=2, is_lost=True)):
        num_lives += 1
        assert num_lives < MAX_LIVES
    assert num_lives >= 4
    await check(serve, folder, client)
