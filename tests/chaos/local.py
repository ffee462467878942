"""A whole service in this process: the real app, the real trainer on a micro model, no sockets.

For bars that fail one operation after the other, hundreds of times. What a client was told is
noted; `verify` starts the service anew on what is on the disk and compares.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import torch
from torch import Tensor

from contract.engine import (
    ExportCheckpoint,
    ExportedFile,
    FileRef,
    MakeRollouts,
    RolloutsMade,
    StepTrained,
    TrainStep,
)
from contract.errors import EngineError, EngineFailed
from contract.skills import Pixels
from server.app import create_app
from server.config import DATABASE_FILE, ServerConfig
from server.db import migrate
from tests.factories import make_request
from tests.fakes import FakeEngine, FakeImageDecoder
from tests.micro import loaded_micro
from trainer.budgets import Budgets
from trainer.engine import TrainerEngine
from trainer.storage import read_tensors

BUDGETS = Budgets(
    num_blocks=64, prefix_bytes=0, feature_bytes=1 << 20, host_feature_bytes=0, num_slots=2,
    host_adapter_bytes=0, max_prefill_positions=1000, train_bytes=1 << 30,
)  # fmt: skip


class LocalEngine(FakeEngine):
    """The trainer's engine in a thread; what it raises becomes what a worker would answer."""

    def __init__(self, **options: Any) -> None:
        self.trainer = TrainerEngine(loaded_micro(), budgets=BUDGETS, **options)
        super().__init__(self.trainer.describe())
        self._thread = ThreadPoolExecutor(1)

    async def stop(self, *, at_once: bool = False) -> None:
        await super().stop(at_once=at_once)
        self._thread.shutdown()

    async def make_rollouts(self, command: MakeRollouts, images: Sequence[Pixels]) -> RolloutsMade:
        return await self._run(self.trainer.make_rollouts, command, images)

    async def train_step(self, command: TrainStep, images: Sequence[Pixels]) -> StepTrained:
        return await self._run(self.trainer.train_step, command, images)

    async def export_checkpoint(self, command: ExportCheckpoint) -> ExportedFile:
        return await self._run(self.trainer.export_checkpoint, command)

    async def _run(self, verb: Callable[..., Any], *arguments: Any) -> Any:
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, verb, *arguments)
        except EngineError:
            raise
        except Exception as error:
            raise EngineFailed(f"{type(error).__name__}: {error}") from error


@dataclass(kw_only=True)
class Told:
    """What the client knows: everything here was answered with 200."""

    finetunes: list[str] = field(default_factory=list)
    steps: dict[str, dict[int, Any]] = field(default_factory=dict)
    saved: list[tuple[str, int]] = field(default_factory=list)
    metrics: list[tuple[str, int, str, float]] = field(default_factory=list)
    refusals: list[tuple[str, int, str]] = field(default_factory=list)

    @property
    def num_steps(self) -> int:
        return sum(map(len, self.steps.values()))


Relief = Callable[[httpx.Response], Awaitable[None]]


@dataclass(kw_only=True)
class Player:
    """Plays calls; one that is refused is made once more after `relief`, and must succeed."""

    http: httpx.AsyncClient
    relief: Relief
    max_reliefs: int = 1
    told: Told = field(default_factory=Told)

    async def call(self, name: str, method: str, path: str, body: Any = None) -> Any:
        answer = await self.http.request(method, f"/v1/tuning/{path}", json=body)
        for _ in range(self.max_reliefs):
            if answer.status_code == 200:
                break
            self.told.refusals.append((name, answer.status_code, answer.json()["message"]))
            await self.relief(answer)
            answer = await self.http.request(method, f"/v1/tuning/{path}", json=body)
        assert answer.status_code == 200, f"{name}, after relief: {answer.text}"
        return answer.json()

    async def create(self, name: str, origin: str | None = None) -> str:
        body = {"name": name, "rank": 8} | ({"from_checkpoint": origin} if origin else {})
        made = (await self.call("create", "POST", "finetunes", body))["finetune_id"]
        self.told.finetunes.append(made)
        self.told.steps[made] = {}
        return made

    async def train(self, finetune: str, answer: str) -> int:
        body = {
            "finetune_id": finetune,
            "groups": [{"mode": "sft", "request": query(), "target": {"answer": answer}}],
            "lr": 0.01,
        }
        trained = await self.call("train_step", "POST", "train_step", body)
        self.told.steps[finetune][trained["step"]] = trained
        return trained["step"]

    async def save(self, finetune: str) -> int:
        path = f"finetunes/{finetune}/checkpoints/save"
        step = (await self.call("save", "POST", path))["checkpoint"]["step"]
        self.told.saved.append((finetune, step))
        return step

    async def export(self, finetune: str, step: int) -> None:
        await self.call("export", "GET", f"finetunes/{finetune}/checkpoints/{step}/download")

    async def log(self, finetune: str, step: int, value: float) -> None:
        body = {"step": step, "metrics": {"eval/accuracy": value}}
        await self.call("metrics", "POST", f"finetunes/{finetune}/metrics", body)
        self.told.metrics.append((finetune, step, "eval/accuracy", value))


def query() -> dict[str, Any]:
    request = make_request("query", question="how many circles are there?")
    del request["image_url"]
    return request


async def short_story(player: Player) -> None:
    """Every call that writes, once or twice."""
    finetune = await player.create("first")
    await player.train(finetune, "two")
    await player.train(finetune, "three")
    step = await player.train(finetune, "six")  # the first state is removed
    await player.save(finetune)
    await player.export(finetune, step)
    await player.log(finetune, step, 0.5)
    other = await player.create("second", f"{finetune}@{step}")
    await player.train(other, "four")


def migrated(folder: Path) -> Path:
    """A database to copy."""
    migrate.upgrade(ServerConfig(data_dir=folder))
    return folder / DATABASE_FILE


def copied_database(data_dir: Path) -> None:
    """Make a data directory with an empty database."""
    data_dir.mkdir()
    migrate.upgrade(ServerConfig(data_dir=data_dir))


@asynccontextmanager
async def serving(
    data_dir: Path, *, micro_batch_tokens: int = 2048, **options: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """The app on a data directory whose database is there."""
    config = ServerConfig(
        **{
            "data_dir": data_dir,
            "seed": 7,
            "shutdown_grace_seconds": 0.05,
            "min_free_bytes": 0,
            **options,
        }
    )
    engine = LocalEngine(micro_batch_tokens=micro_batch_tokens)
    app = create_app(config, engine=engine, image_decoder=FakeImageDecoder())
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as http,
    ):
        yield http
        await app.state.services.cleanup.settled()


# --- what is on the disk


def pinned_files(database: Path) -> list[tuple[str, str]]:
    """Path and digest of every file that a row needs: saved, newest two, origins, exported."""
    queries = (
        "SELECT weights_path, weights_digest FROM checkpoints WHERE deleted_at_ms IS NULL",
        "SELECT exchange_path, exchange_digest FROM checkpoints WHERE deleted_at_ms IS NULL",
        "SELECT origin_weights_path, origin_weights_digest FROM finetunes WHERE step < 2",
        "SELECT s.weights_path, s.weights_digest FROM train_steps s JOIN finetunes f"
        " ON f.id = s.finetune_id WHERE s.step > f.step - 2",
        "SELECT s.optimizer_path, s.optimizer_digest FROM train_steps s JOIN finetunes f"
        " ON f.id = s.finetune_id WHERE s.step > f.step - 2",
    )
    with closing(sqlite3.connect(database)) as connection:
        rows = [row for query in queries for row in connection.execute(query)]
    return [(path, digest) for path, digest in rows if path is not None]


def damage(data_dir: Path, told: Told) -> list[str]:
    """What a disk lacks of what was told; nothing is what is wanted. Does not start anything."""
    found: list[str] = []
    database = data_dir / DATABASE_FILE
    with closing(sqlite3.connect(database)) as connection:
        if (sound := connection.execute("PRAGMA integrity_check").fetchall()) != [("ok",)]:
            found.append(f"integrity_check: {sound}")
        steps = {
            (row[0], row[1]): json.loads(row[2])
            for row in connection.execute("SELECT finetune_id, step, response FROM train_steps")
        }
        known = {row[0] for row in connection.execute("SELECT id FROM finetunes")}
        saved = set(connection.execute("SELECT finetune_id, step FROM checkpoints"))
    for finetune in told.finetunes:
        if finetune not in known:
            found.append("a finetune that was answered is not there")
    for finetune, answers in told.steps.items():
        for step, answer in answers.items():
            if steps.get((finetune, step)) != answer:
                found.append(f"step {step} was answered and is not there")
    found += [f"saved step {s} is not there" for f, s in told.saved if (f, s) not in saved]
    for path, digest in pinned_files(database):
        file = data_dir / path
        if not file.is_file():
            found.append(f"{file.name} is named and not there")
        elif hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            found.append(f"{file.name} is damaged")
    return found


def left_over(data_dir: Path) -> list[str]:
    """Files of states that no row needs; after a start there are none.

    The service leaves folders alone whose finetune it does not know, such as a copy that was cut
    off before its row; those are not counted.
    """
    with closing(sqlite3.connect(data_dir / DATABASE_FILE)) as connection:
        known = {row[0] for row in connection.execute("SELECT id FROM finetunes")}
    pinned = {path for path, _ in pinned_files(data_dir / DATABASE_FILE)}
    return [
        path.name
        for path in (data_dir / "finetunes").rglob("*")
        if path.is_file()
        and path.parent.name in known
        and str(path.relative_to(data_dir)) not in pinned
    ]


def final_states(data_dir: Path) -> list[dict[str, Tensor]]:
    """Weights and optimizer of every finetune, in their order; names of files left aside."""
    with closing(sqlite3.connect(data_dir / DATABASE_FILE)) as connection:
        rows = connection.execute(
            "SELECT s.weights_path, s.weights_digest, s.weights_num_bytes, s.optimizer_path,"
            " s.optimizer_digest, s.optimizer_num_bytes FROM train_steps s JOIN finetunes f"
            " ON f.id = s.finetune_id AND f.step = s.step ORDER BY f.ordinal"
        ).fetchall()
    states: list[dict[str, Tensor]] = []
    for row in rows:
        state: dict[str, Tensor] = {}
        for path, digest, num_bytes in (row[:3], row[3:]):
            file = FileRef(path=str(data_dir / path), digest=digest, num_bytes=num_bytes)
            state |= read_tensors(file)
        states.append(state)
    return states


def are_equal(ours: Sequence[dict[str, Tensor]], theirs: Sequence[dict[str, Tensor]]) -> bool:
    """Bit for bit."""
    return len(ours) == len(theirs) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(ours, theirs, strict=True)
    )
