"""The calls that a sweep of fault points is made over: how each is prepared, made and judged."""

from __future__ import annotations

import hashlib
import itertools
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.chaos import batches
from tests.chaos.batches import Upload
from tests.chaos.history import History
from tests.chaos.load import unlike
from tests.chaos.sdk import Client, Tuned, question, sft, thing
from tests.chaos.service import Service

NUM_LINES = 3
"""Of a batch; one chunk."""
BRIEF = {"max_tokens": 4, "max_objects": 1}


@dataclass(kw_only=True)
class World:
    """One service and what lives in it."""

    service: Service
    history: History
    client: Client
    tuned: Tuned
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def train(self, *, may_fail: bool = False) -> dict[str, Any]:
        """A step unlike any other."""
        return self.train_like(next(self.numbers), may_fail=may_fail)

    def train_like(self, number: int, *, may_fail: bool = False) -> dict[str, Any]:
        return self.tuned.train([sft(number)], lr=unlike(number), may_fail=may_fail)

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with self.service.database() as database:
            return database.execute(sql, values).fetchall()


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A call of the API.

    Attributes:
        prepare: Makes what one call needs; without faults.
        call: Made with what was prepared, again after a broken answer.
        is_cold: The start of both processes belongs to it.
        is_steady: Each call visits the same points equally often.
        judge: With what was prepared and what was answered; the sentence that is wrong, if any.
    """

    name: str
    prepare: Callable[[World], Any]
    call: Callable[[World, Any], Any]
    judge: Callable[[World, Any, Any], str | None]
    is_cold: bool = False
    is_steady: bool = True


def _number(world: World) -> int:
    return next(world.numbers)


def _judge_created(world: World, number: int, made: Tuned) -> str | None:
    found = world.rows("SELECT id FROM finetunes WHERE name = ?", f"made-{number}")
    return None if found == [(made.id,)] else f"made {made.id}, rows are {found}"


def _a_save_to_start_from(world: World) -> dict[str, Any]:
    number = next(world.numbers)
    _a_saved_step(world)
    saves = "SELECT max(number) FROM checkpoints WHERE finetune_id = ?"
    ((newest,),) = world.rows(saves, world.tuned.id)
    origin = f"{world.tuned.id}/chk_{newest:03d}"
    return {"name": f"begun {number}", "rank": 8, "from_checkpoint": origin}


def _start(world: World, wish: dict[str, Any]) -> Any:
    return world.tuned.ask("start", "POST", "/adapters", wish, may_fail=True)


def _judge_started(world: World, wish: dict[str, Any], answer: dict[str, Any]) -> str | None:
    """One row, whose copy has the digest of what was saved."""
    found = world.rows(
        "SELECT id, origin_weights_digest FROM finetunes WHERE name = ?", wish["name"]
    )
    number = int(wish["from_checkpoint"].rpartition("_")[2])
    ((digest,),) = world.rows(
        "SELECT weights_digest FROM checkpoints WHERE finetune_id = ? AND number = ?",
        world.tuned.id, number,
    )  # fmt: skip
    right = [(answer["adapter_id"], digest)]
    return None if found == right else f"wanted is {right}, rows are {found}"


def _judge_rollouts(_world: World, _number: int, answer: dict[str, Any]) -> str | None:
    return None if len(answer["rollouts"]) == 2 else f"{len(answer['rollouts'])} rollouts, not 2"


def _judge_step(world: World, _number: int, answer: dict[str, Any]) -> str | None:
    found = world.rows("SELECT step FROM finetunes WHERE id = ?", world.tuned.id)
    return None if found == [(answer["step"],)] else f"answered {answer['step']}, row is {found}"


def _judge_saved(world: World, step: int, answer: dict[str, Any]) -> str | None:
    found = world.rows(
        "SELECT step FROM checkpoints WHERE finetune_id = ? AND step = ?", world.tuned.id, step
    )
    saved = answer["checkpoint"]["step"]
    right = saved == step and found == [(step,)]
    return None if right else f"saved {saved}, wanted is {step}, rows are {found}"


def _a_saved_step(world: World) -> int:
    step = world.train()["step"]
    world.tuned.save()
    return step


def _a_doomed_finetune(world: World) -> Tuned:
    doomed = world.client.create(f"doomed-{next(world.numbers)}")
    doomed.train([sft(0)])
    doomed.save()
    return doomed


def _judge_deleted(world: World, doomed: Tuned, _answer: Any) -> str | None:
    (gone,) = world.rows("SELECT deleted_at_ms IS NOT NULL FROM finetunes WHERE id = ?", doomed.id)
    return None if gone == (1,) else "the finetune is still there"


def _judge_checkpoint_deleted(world: World, step: int, _answer: Any) -> str | None:
    living = world.rows(
        "SELECT step FROM checkpoints WHERE finetune_id = ? AND step = ? AND deleted_at_ms IS NULL",
        world.tuned.id, step,
    )  # fmt: skip
    return "the checkpoint is still there" if living else None


def _log_metrics(world: World, number: int) -> Any:
    return world.tuned.log_metrics(1, may_fail=True, **{f"number_{number}": float(number)})


def _judge_metrics(world: World, number: int, _answer: Any) -> str | None:
    name = f"number_{number}"
    found = world.rows("SELECT value FROM metrics WHERE name = ?", name)
    return None if found == [(float(number),)] else f"{name} is {found}"


def _export(world: World, step: int) -> bytes:
    """Ask for the link as the SDK asks, and follow it."""
    link = world.tuned.ask(
        "export", "GET", f"/finetunes/{world.tuned.id}/checkpoints/{step}/download", may_fail=True
    )
    with urllib.request.urlopen(link["url"], timeout=60.0) as file:
        return file.read()


def _judge_export(world: World, step: int, data: bytes) -> str | None:
    found = world.rows(
        "SELECT exchange_digest FROM checkpoints WHERE finetune_id = ? AND step = ?",
        world.tuned.id, step,
    )  # fmt: skip
    digest = hashlib.sha256(data).hexdigest()
    return None if found == [(digest,)] else f"the file has {digest}, its row {found}"


def _answer(world: World, step: int) -> Any:
    """A query to a saved step. `md.vl` never repeats a call; a script that is started again does.

    Another question each time, so that nothing is answered from a cache.
    """
    request = question(next(world.numbers))
    body = {"model": f"moondream3-preview/{world.tuned.id}@{step}", **request, "settings": BRIEF}
    del body["skill"]
    return batches.ask(world.service, "POST", "/v1/query", json.dumps(body).encode())


def _judge_answered(_world: World, _step: int, answer: dict[str, Any]) -> str | None:
    return None if isinstance(answer.get("answer"), str) else f"answered {answer}"


def _upload(world: World) -> Upload:
    return batches.begin(world.service)


def _batch(world: World, upload: Upload) -> list[dict[str, Any]]:
    """Two parts, the end of the batch, and its results."""
    lines: list[dict[str, Any]] = [
        {**thing(n), "id": n, "image": thing(n)["image_url"], "settings": BRIEF}
        for n in range(NUM_LINES)
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    middle = len(content) // 2
    path = batches.submit(world.service, [content[:middle], content[middle:]], upload)
    return batches.results(batches.until_ended(world.service, path, seconds=60.0))


def _judge_batch(world: World, upload: Upload, rows: list[dict[str, Any]]) -> str | None:
    """Every line has one answer, and rows and results count the same."""
    got = [(row["id"], row.get("error", {}).get("code")) for row in rows]
    if got != [(number, None) for number in range(NUM_LINES)]:
        return f"the lines of the batch are {got}"
    found = world.rows(
        "SELECT state, num_answered, num_failed, output_tokens FROM batches WHERE id = ?",
        upload.batch_id,
    )
    cost = sum(row["usage"]["output_tokens"] for row in rows)
    right = [("completed", NUM_LINES, 0, cost)]
    return None if found == right else f"wanted is {right}, the row is {found}"


def _abandoned_upload(world: World) -> Upload:
    upload = batches.begin(world.service)
    batches.put(world.service, upload, 1, b"{}")
    return upload


def _judge_aborted(world: World, upload: Upload, _answer: Any) -> str | None:
    left = world.rows(
        "SELECT state FROM batches WHERE id = ? AND state != 'removed'", upload.batch_id
    )
    return f"the upload is {left}" if left else None


OPERATIONS = (
    Operation(
        name="create",
        prepare=_number,
        call=lambda world, number: world.client.create(f"made-{number}", may_fail=True),
        judge=_judge_created,
    ),
    Operation(
        name="rollouts",
        prepare=_number,
        call=lambda world, number: world.tuned.rollouts(number, may_fail=True),
        judge=_judge_rollouts,
    ),
    Operation(
        name="train_step",
        prepare=_number,
        call=lambda world, number: world.train_like(number, may_fail=True),
        judge=_judge_step,
    ),
    Operation(
        name="save",
        prepare=lambda world: world.train()["step"],
        call=lambda world, _: world.tuned.save(may_fail=True),
        judge=_judge_saved,
    ),
    Operation(name="start", prepare=_a_save_to_start_from, call=_start, judge=_judge_started),
    Operation(
        name="delete",
        prepare=_a_doomed_finetune,
        call=lambda _, doomed: doomed.delete(may_fail=True) or True,
        judge=_judge_deleted,
    ),
    Operation(
        name="delete_checkpoint",
        prepare=_a_saved_step,
        call=lambda world, step: world.tuned.delete_checkpoint(step, may_fail=True) or True,
        judge=_judge_checkpoint_deleted,
    ),
    Operation(name="metrics", prepare=_number, call=_log_metrics, judge=_judge_metrics),
    Operation(name="export", prepare=_a_saved_step, call=_export, judge=_judge_export),
    Operation(name="answer", prepare=_a_saved_step, call=_answer, judge=_judge_answered),
    Operation(  # its lines are written down in one piece or in several, as they come
        name="batch", prepare=_upload, call=_batch, judge=_judge_batch, is_steady=False
    ),
    Operation(
        name="abort",
        prepare=_abandoned_upload,
        call=lambda world, upload: batches.abort(world.service, upload) or True,
        judge=_judge_aborted,
    ),
    Operation(
        name="cold rollouts",
        prepare=_number,
        call=lambda world, number: world.tuned.rollouts(number, may_fail=True),
        judge=_judge_rollouts,
        is_cold=True,
    ),
)


def refusal_of(error: urllib.error.HTTPError) -> str:
    """What a server says with a status, for a report."""
    said = getattr(error, "said", "")
    try:
        told = json.loads(said)
        return f"{error.code} {told['error']['code']}: {told['message']}"
    except (ValueError, KeyError):
        return f"{error.code} {said[:200]}"
