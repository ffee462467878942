"""What clients do all day: rollouts, a step on them, now and then a save and a metric."""

from __future__ import annotations

import http.client
import itertools
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.bench import Crew
from tests.chaos.history import History, describe
from tests.chaos.sdk import Client, Tuned, question, rl, sft

BROKEN = (ConnectionError, http.client.HTTPException)
"""How the SDK tells that an answer broke off, which it does not resend. The user's script ends
then, and is started again."""


def unlike(number: int) -> float:
    """A learning rate by which no two bodies are alike."""
    return 1e-2 * (1 + number * 1e-6)


def _fetched(url: str, body: Any = None) -> bytes:
    """GET, or POST a body; no answer but 200 will do."""
    content = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, content), timeout=60.0) as answer:
        return answer.read()


@dataclass(kw_only=True)
class Load:
    """Clients at work, each on a finetune of its own.

    Attributes:
        may_break: A broken answer is expected; the same call is then made again.
        num_broken: How many there were.
        has_all_calls: Besides training, clients list, ask, export and delete what they saved.
    """

    history: History
    tuning: str
    crew: Crew
    may_break: bool = False
    num_broken: int = 0
    has_all_calls: bool = False
    _numbers: itertools.count = field(default_factory=itertools.count)

    def add(self, name: str) -> None:
        """One more client, which trains until the crew is told to stop."""
        client = Client(self.history, self.tuning, name)
        self.crew.start(lambda: self._work(client, name))

    def _work(self, client: Client, name: str) -> None:
        tuned: Tuned = self._persist(lambda: client.create(name, may_fail=self.may_break))
        while not self.crew.stop.is_set():
            number = next(self._numbers)
            self._one_round(tuned, number)

    def _one_round(self, tuned: Tuned, number: int) -> None:
        may_fail = self.may_break
        groups = [sft(number)]
        if number % 2 == 0:
            groups.append(rl(self._persist(lambda: tuned.rollouts(number, may_fail=may_fail))))
        answer = self._persist(lambda: tuned.train(groups, lr=unlike(number), may_fail=may_fail))
        if number % 3 == 0:
            self._persist(lambda: tuned.save(may_fail=may_fail))
        if number % 5 == 0:
            step = answer["step"]
            self._persist(lambda: tuned.log_metrics(step, may_fail=may_fail, loss=1.0 / step))
        if self.has_all_calls and number % 3 == 0:
            self._use(tuned, number, answer["step"])

    def _use(self, tuned: Tuned, number: int, step: int) -> None:
        """What was just saved is asked, sometimes exported, and mostly deleted again."""
        known = tuned.checkpoints()
        assert any(saved["step"] == step for saved in known), f"step {step} is not listed"
        body = {"model": f"moondream3-preview/{tuned.id}@{step}", **question(number)}
        del body["skill"]
        said = json.loads(_fetched(self.tuning.replace("/tuning", "/query"), body))
        assert isinstance(said["answer"], str), said
        if number % 2 == 0:
            path = f"/finetunes/{tuned.id}/checkpoints/{step}/download"
            assert _fetched(tuned.ask("export", "GET", path)["url"]), "an empty file"
        if number % 5 != 0:
            tuned.delete_checkpoint(step)

    def _persist(self, call: Callable[[], Any]) -> Any:
        """Make a call as a script does that is started again when it broke."""
        while True:
            try:
                return call()
            except BROKEN as error:
                if not self.may_break:
                    raise
                self.num_broken += 1
                if self.crew.stop.is_set() and self.num_broken > 1000:
                    raise RuntimeError(f"it breaks for ever: {describe(error)}") from error
            except urllib.error.URLError as error:
                raise RuntimeError(
                    f"the server was away for too long: {describe(error)}"
                ) from error
