"""Calls sent, lost, sent again, with keys and without, days later, against a model in plain words.

Train steps have most of it; the calls that have a natural key are sent one to five times, and end
as if they had been sent once.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from server.app import create_app
from server.config import ServerConfig
from server.db import migrate
from server.domain import clock as wall
from server.domain.delivery import Fate
from server.services.ledger import MAX_REPLAYS
from tests.fakes import FakeEngine, FakeImageDecoder
from tests.watched import WatchedCall, post_watched

STEP, FINETUNES = "/v1/tuning/train_step", "/v1/tuning/finetunes"
GROUP = {"request": {"skill": "query", "question": "?"}, "target": {"answer": "!"}}
FATES = st.sampled_from(list(Fate))
DELIVERED = (Fate.TAKEN, Fate.QUIET)
KEPT_HOURS, STALE_HOURS, KEY_HOURS = 24.0, 48.0, 168.0


@dataclass(frozen=True)
class Sent:
    """A train step as it is sent; the key of the header holds, if both have one."""

    body: dict[str, Any]
    header: str | None = None

    @property
    def key(self) -> str | None:
        return self.header or self.body.get("idempotency_key")

    @property
    def text(self) -> str:
        return json.dumps(self.body)


@dataclass
class Model:
    """What has to happen, told in plain words; `last` is the newest answer, hours are of a clock.

    `kept_until` is None while the present process has not looked at the newest answer yet.
    """

    step: int = 0
    last: tuple[str, str | None] | None = None
    is_delivered: bool = False
    num_replays: int = 0
    done_at: float = 0.0
    kept_until: float | None = 0.0
    keys: dict[str, tuple[str, int, float]] = field(default_factory=dict)

    def call(self, sent: Sent, fates: list[Fate], now: float) -> tuple[int, int | None]:
        """The status and step of every one of some equal calls at once."""
        key, expected = sent.key, sent.body.get("expected_step")
        if key in self.keys and now - self.keys[key][2] < KEY_HOURS:
            known, step, _ = self.keys[key]
            return (200, step) if known == sent.text else (409, None)
        if self.kept_until is None:
            self.kept_until = now + (0.0 if now - self.done_at > STALE_HOURS else KEPT_HOURS)
        is_last = self.last == (sent.text, key)
        if is_last and expected is not None and self.step == expected + 1:
            return self._replay(sent, fates, now)
        is_kept = now < self.kept_until and self.num_replays < MAX_REPLAYS
        if is_last and not self.is_delivered and is_kept:
            return self._replay(sent, fates, now)
        if expected not in (None, self.step):
            return 409, None
        self.step += 1
        self.last, self.num_replays = (sent.text, key), 0
        self.done_at, self.kept_until = now, now + KEPT_HOURS
        self.is_delivered = key is not None or any(fate in DELIVERED for fate in fates)
        if key is not None:
            self.keys[key] = (sent.text, self.step, now)
        return 200, self.step

    def _replay(self, sent: Sent, fates: list[Fate], now: float) -> tuple[int, int]:
        self.num_replays += 1 if sent.key else len(fates)  # with a key, equal calls at once are one
        self.is_delivered |= sent.key is not None or any(fate in DELIVERED for fate in fates)
        return 200, self.step


class Resends(RuleBasedStateMachine):
    """One client, one finetune."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=_fast_folder()))
        shutil.copy(_empty_database(), self.folder / "moontune.db")
        self.runner = asyncio.Runner()
        self.engine, self.model, self.stored = FakeEngine(), Model(), dict[int, bytes]()
        self.sent: list[Sent] = []
        self.hours = 0.0
        self.saved: dict[int, str] = {}
        self.metrics: dict[tuple[int, str], float] = {}
        self.patches = ExitStack()
        self.patches.enter_context(patch.object(wall, "time", _Later(self)))
        self.runner.run(self._open())
        made = self._post(FINETUNES, {"name": "a", "rank": 8}, [Fate.TAKEN])
        self.finetune_id = made[0].json["finetune_id"]

    def teardown(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()
        self.patches.close()
        shutil.rmtree(self.folder)

    @rule(
        lr=st.sampled_from([0.1, 0.2]),
        key=st.sampled_from([None, None, "a", "b"]),
        header=st.sampled_from([None, None, None, "a"]),
        ahead=st.sampled_from([None, None, 0, 0, 1, -1]),
        fate=FATES,
    )
    def send(
        self, lr: float, key: str | None, header: str | None, ahead: int | None, fate: Fate
    ) -> None:
        body: dict[str, Any] = {"finetune_id": self.finetune_id, "groups": [GROUP], "lr": lr}
        if key is not None:
            body["idempotency_key"] = key
        if ahead is not None:
            body["expected_step"] = max(0, self.model.step + ahead)
        self._train(Sent(body, header), [fate])

    @rule(back=st.integers(1, 4), fates=st.lists(FATES, min_size=1, max_size=3))
    def send_again(self, back: int, fates: list[Fate]) -> None:
        """The bytes of a call before, on one connection or on several at once."""
        if self.sent:
            self._train(self.sent[-min(back, len(self.sent))], fates)

    @rule()
    def restart(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.run(self._open())
        self.model.kept_until = None

    @rule(hours=st.sampled_from([7.5, 25.0, 100.0]))
    def let_time_pass(self, hours: float) -> None:
        self.hours += hours

    @rule(times=st.integers(1, 5), name=st.sampled_from(["a", "b"]))
    def create(self, times: int, name: str) -> None:
        """By name: the same finetune each time, and never another one."""
        made = self._times(times, "POST", FINETUNES, {"name": name, "rank": 8})
        if name == "a":
            assert made["finetune_id"] == self.finetune_id
        names = [row["name"] for row in self._ask("GET", FINETUNES)["finetunes"]]
        assert len(names) == len(set(names)), names

    @rule(times=st.integers(1, 5))
    def save(self, times: int) -> None:
        """By step: one checkpoint, however often it is saved or deleted and saved again."""
        if self.model.step:
            path = f"{FINETUNES}/{self.finetune_id}/checkpoints/save"
            saved = self._times(times, "POST", path, None)["checkpoint"]
            assert saved["step"] == self.model.step
            known = self.saved.setdefault(self.model.step, saved["checkpoint_id"])
            assert saved["checkpoint_id"] == known
            self._look()

    @rule(times=st.integers(1, 5), back=st.integers(0, 3))
    def delete_checkpoint(self, times: int, back: int) -> None:
        """Once gone it stays so; the newest ones only, which is where a save could undo it."""
        step = self.model.step - back
        if step in self.saved:
            path = f"{FINETUNES}/{self.finetune_id}/checkpoints/{step}"
            self._times(times, "DELETE", path, None)
            del self.saved[step]
            self._look()

    @rule(times=st.integers(1, 5), step=st.integers(0, 2), value=st.sampled_from([0.5, 1.5]))
    def log_metrics(self, times: int, step: int, value: float) -> None:
        """By step and name: the last value."""
        body = {"step": step, "metrics": {"eval/score": value}}
        self._times(times, "POST", f"{FINETUNES}/{self.finetune_id}/metrics", body)
        self.metrics[step, "eval/score"] = value
        self._look()

    def _look(self) -> None:
        """What was made is there once, and nothing else."""
        listed = self._ask("GET", f"{FINETUNES}/{self.finetune_id}/checkpoints?limit=100")
        assert {c["step"]: c["checkpoint_id"] for c in listed["checkpoints"]} == self.saved
        told = self._ask("GET", f"{FINETUNES}/{self.finetune_id}/metrics?name=eval/score")
        rows = {(m["step"], m["name"]): m["value"] for m in told["metrics"]}
        assert (rows, len(told["metrics"])) == (self.metrics, len(self.metrics))

    @invariant()
    def steps_are_those_of_the_model(self) -> None:
        if hasattr(self, "model"):
            assert len(self.engine.commands("train_step")) == self.model.step

    def _train(self, sent: Sent, fates: list[Fate]) -> None:
        self.sent.append(sent)
        status, step = self.model.call(sent, fates, self.hours)
        headers = {} if sent.header is None else {"idempotency_key": sent.header}
        for call in self._post(STEP, sent.body, fates, **headers):
            assert call.status == status, call.content
            if step is not None:
                assert call.json["step"] == step
                assert call.content == self.stored.setdefault(step, call.content)

    def _post(self, path: str, body: Any, fates: list[Fate], **headers: str) -> list[WatchedCall]:
        async def post() -> list[WatchedCall]:
            calls = [post_watched(self, path, body, **headers) for _ in fates]  # pyright: ignore
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
        self.app.state.services.ledger._clock = lambda: time.monotonic() + 3600 * self.hours
        transport = httpx.ASGITransport(app=self.app)
        self.http = await self.stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://localhost")
        )

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.runner.run(self.http.request(method, path, json=body))
        assert answer.status_code == 200, answer.text
        return answer.json()

    def _times(self, times: int, method: str, path: str, body: Any) -> Any:
        """So many equal calls; the answers are equal, too."""
        answers = [self._ask(method, path, body) for _ in range(times)]
        assert all(answer == answers[0] for answer in answers), answers
        return answers[0]


class _Later:
    """The module `time` of the wall clock, some hours later."""

    def __init__(self, machine: Resends):
        self._machine = machine

    def time_ns(self) -> int:
        return time.time_ns() + round(3600e9 * self._machine.hours)

    def time(self) -> float:
        return time.time() + 3600 * self._machine.hours


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
