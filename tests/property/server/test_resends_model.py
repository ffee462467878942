"""Train steps sent, lost, sent again, with keys and without, against a model of forty lines."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from server.app import create_app
from server.config import ServerConfig
from server.db import migrate
from server.domain.delivery import Fate
from server.services.ledger import MAX_REPLAYS
from tests.fakes import FakeEngine, FakeImageDecoder
from tests.watched import WatchedCall, post_watched

STEP = "/v1/tuning/train_step"
GROUP = {"request": {"skill": "query", "question": "?"}, "target": {"answer": "!"}}
FATES = st.sampled_from(list(Fate))
DELIVERED = (Fate.TAKEN, Fate.QUIET)


@dataclass
class Model:
    """What has to happen, told in plain words; `last` is the newest answer."""

    step: int = 0
    last: str | None = None
    is_delivered: bool = False
    num_replays: int = 0
    keys: dict[str, tuple[str, int]] = field(default_factory=dict)

    def call(self, body: dict[str, Any], fates: list[Fate]) -> tuple[int, int | None]:
        """The status and step of every one of some equal calls at once."""
        text, key, expected = (
            json.dumps(body),
            body.get("idempotency_key"),
            body.get("expected_step"),
        )
        if key in self.keys:
            known, step = self.keys[key]
            return (200, step) if known == text else (409, None)
        is_last = self.last == text
        if is_last and expected is not None and self.step == expected + 1:
            return self._replay(fates)
        if is_last and not self.is_delivered and self.num_replays < MAX_REPLAYS:
            return self._replay(fates)
        if expected not in (None, self.step):
            return 409, None
        self.step += 1
        self.last, self.num_replays = text, 0
        self.is_delivered = any(fate in DELIVERED for fate in fates)
        if key is not None:
            self.keys[key] = (text, self.step)
        return 200, self.step

    def _replay(self, fates: list[Fate]) -> tuple[int, int]:
        self.num_replays += len(fates)
        self.is_delivered |= any(fate in DELIVERED for fate in fates)
        return 200, self.step


class Resends(RuleBasedStateMachine):
    """One client, one finetune."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=_fast_folder()))
        shutil.copy(_empty_database(), self.folder / "moontune.db")
        self.runner = asyncio.Runner()
        self.engine, self.model, self.stored = FakeEngine(), Model(), dict[int, bytes]()
        self.sent: list[dict[str, Any]] = []
        self.runner.run(self._open())
        made = self._post("/v1/tuning/finetunes", {"name": "a", "rank": 8}, [Fate.TAKEN])
        self.finetune_id = made[0].json["finetune_id"]

    def teardown(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()
        shutil.rmtree(self.folder)

    @rule(
        lr=st.sampled_from([0.1, 0.2]),
        key=st.sampled_from([None, None, "a", "b"]),
        ahead=st.sampled_from([None, None, 0, 0, 1, -1]),
        fate=FATES,
    )
    def send(self, lr: float, key: str | None, ahead: int | None, fate: Fate) -> None:
        body: dict[str, Any] = {"finetune_id": self.finetune_id, "groups": [GROUP], "lr": lr}
        if key is not None:
            body["idempotency_key"] = key
        if ahead is not None:
            body["expected_step"] = max(0, self.model.step + ahead)
        self._train(body, [fate])

    @rule(back=st.integers(1, 4), fates=st.lists(FATES, min_size=1, max_size=3))
    def send_again(self, back: int, fates: list[Fate]) -> None:
        """The bytes of a call before, on one connection or on several at once."""
        if self.sent:
            self._train(self.sent[-min(back, len(self.sent))], fates)

    @rule()
    def restart(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.run(self._open())

    @invariant()
    def steps_are_those_of_the_model(self) -> None:
        if hasattr(self, "model"):
            assert len(self.engine.commands("train_step")) == self.model.step

    def _train(self, body: dict[str, Any], fates: list[Fate]) -> None:
        self.sent.append(body)
        status, step = self.model.call(body, fates)
        for call in self._post(STEP, body, fates):
            assert call.status == status, call.content
            if step is not None:
                assert call.json["step"] == step
                assert call.content == self.stored.setdefault(step, call.content)

    def _post(self, path: str, body: Any, fates: list[Fate]) -> list[WatchedCall]:
        async def post() -> list[WatchedCall]:
            calls = [post_watched(self, path, body) for _ in fates]  # pyright: ignore
            answered = [await call.answered() for call in calls]
            for call, fate in zip(answered, fates, strict=True):
                call.delivery.settle(fate)
            return answered

        return self.runner.run(post())

    async def _open(self) -> None:
        config = ServerConfig(data_dir=self.folder, seed=7, shutdown_grace_seconds=0.05)
        self.app = create_app(config, engine=self.engine, image_decoder=FakeImageDecoder())
        self.stack = AsyncExitStack()
        await self.stack.enter_async_context(self.app.router.lifespan_context(self.app))


def _fast_folder() -> str | None:
    """Memory, where there is a file system in it: durability is tested elsewhere."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


_TEMPLATE: list[Path] = []


def _empty_database() -> Path:
    """A migrated database, made once."""
    if not _TEMPLATE:
        folder = Path(tempfile.mkdtemp())
        migrate.upgrade(ServerConfig(data_dir=folder))
        _TEMPLATE.append(folder / "moontune.db")
    return _TEMPLATE[0]


TestResends = Resends.TestCase
TestResends.settings = settings(
    max_examples=15,  # bar R6 plays hundreds
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
