"""The same train steps where nothing goes wrong: what the weights and the optimizer must be.

A step depends on the root seed, on the ordinal of its finetune and on the bodies before it; so the
run is repeated with the same seed, the same finetunes in the same order, and the same bodies.
"""

from __future__ import annotations

import hashlib
import json
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import text

from tests.chaos.forge import Forge
from tests.chaos.service import Service
from tests.chaos.state_files import tensors_digest

ANSWER_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Run:
    """The life of one finetune: its place among the finetunes, and the bodies that were applied."""

    ordinal: int
    rank: int
    bodies: tuple[bytes, ...]

    @property
    def key(self) -> str:
        """Equal for equal runs, whatever id the finetune had."""
        plain = [_without_id(body) for body in self.bodies]
        facts = json.dumps([self.ordinal, self.rank, plain], sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class State:
    """Digests of the tensors of a finetune's newest state; None where it is still fresh."""

    weights: str | None
    optimizer: str | None


class Undisturbed:
    """Knows the state after a run; computes each once."""

    def __init__(self, forge: Forge, seed: int):
        self._forge = forge
        self._seed = seed
        self._known: dict[str, State] = {}
        self.num_steps = 0

    def states(self, runs: Sequence[Run]) -> list[State]:
        """The state at the end of each run."""
        new = [run for run in runs if run.key not in self._known]
        if new:
            self._compute(new)
        return [self._known[run.key] for run in runs]

    def _compute(self, runs: Sequence[Run]) -> None:
        by_ordinal = {run.ordinal: run for run in runs}
        with Service(self._forge, "undisturbed", seed=self._seed) as service:
            service.start()
            for ordinal in range(1, max(by_ordinal) + 1):
                run = by_ordinal.get(ordinal)
                rank = run.rank if run else 8
                made = _post(service, "/finetunes", {"name": f"run-{ordinal}", "rank": rank})
                if run is None:
                    continue
                for body in run.bodies:
                    payload = {**_without_id(body), "finetune_id": made["finetune_id"]}
                    payload.pop("expected_step", None)
                    _post(service, "/train_step", payload)
                    self.num_steps += 1
                self._known[run.key] = newest_state(service, made["finetune_id"])
            assert service.stop() == 0, "the undisturbed run ended in disorder"


def newest_state(service: Service, finetune_id: str) -> State:
    """What the newest row of a finetune names."""
    query = text(
        "SELECT weights_path, optimizer_path FROM train_steps WHERE finetune_id = :id"
        " ORDER BY step DESC LIMIT 1"
    )
    with service.look() as database:
        row = database.execute(query, {"id": finetune_id}).one_or_none()
    weights, optimizer = row or (None, None)
    return State(
        weights=weights and tensors_digest(Path(service.data_dir, weights)),
        optimizer=optimizer and tensors_digest(Path(service.data_dir, optimizer)),
    )


def _without_id(body: bytes) -> dict[str, Any]:
    payload = json.loads(body)
    payload.pop("finetune_id")
    for group in payload.get("groups", []):
        if isinstance(group.get("request"), dict):
            group["request"].pop("finetune_id", None)
    return payload


def _post(service: Service, path: str, payload: Any) -> Any:
    request = urllib.request.Request(
        f"{service.tuning}{path}", json.dumps(payload).encode(), {"X-Moondream-Auth": "k"}
    )
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
        return json.load(answer)
