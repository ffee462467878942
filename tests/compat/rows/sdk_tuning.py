"""Every public method of the official SDK's finetune client."""

from __future__ import annotations

import urllib.error
from collections.abc import Callable
from typing import Any

import moondream as md
from moondream.types import (
    Base64EncodedImage,
    CheckpointListOutput,
    MetricsLogOutput,
    RolloutsResponse,
    SaveCheckpointOutput,
    TrainStepOutput,
)

from tests.compat.as_typed import assert_fits
from tests.compat.bench import KEY, Bench
from tests.compat.case import Client, Table
from tests.compat.scripts.pictures import boxed, photo
from tests.factories import make_image_url, make_sft_group

TABLE = Table(Client.SDK_TUNING)


def sft(answer: str = "a circle") -> dict[str, Any]:
    request = {"skill": "query", "image": photo(1)[0], "question": "What is this?"}
    return {"mode": "sft", "request": request, "target": {"answer": answer}}


def status_of(call: Callable[[], Any]) -> int:
    """The status that the SDK raised."""
    try:
        call()
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    return 200


@TABLE.row("`md.ft(api_key, name, rank, endpoint)`", "ft")
def create(bench: Bench) -> str:
    name = bench.new_name()
    first = md.ft("a", name=name, rank=16, endpoint=bench.live.tuning)
    again = md.ft("b", name=name, rank=16, endpoint=f"{bench.live.tuning}/")
    assert first.finetune_id == again.finetune_id
    assert (again.name, again.rank) == (name, 16)
    return "the same name and rank give the same finetune"


@TABLE.row("`md.ft(api_key, name, rank, endpoint)`, the name taken with another rank", "ft")
def create_conflict(bench: Bench) -> str:
    name = bench.finetune(rank=8).name
    refused = lambda: md.ft("a", name=name, rank=16, endpoint=bench.live.tuning)  # noqa: E731
    assert status_of(refused) == 409
    return "409 at once, not resent"


@TABLE.row("`md.ft(api_key, finetune_id, endpoint)`", "ft")
def take_up(bench: Bench) -> str:
    made = bench.finetune(rank=24)
    taken = md.ft("a", finetune_id=made.finetune_id, endpoint=bench.live.tuning)
    lower = md.ft("a", finetune_id=made.finetune_id.lower(), endpoint=bench.live.tuning)
    assert (taken.name, taken.rank) == (lower.name, lower.rank) == (made.name, 24)
    return "name and rank come back"


@TABLE.row("`ft.rollouts(skill, image, question, num_rollouts, settings)`", "Finetune.rollouts")
def rollouts_query(bench: Bench) -> str:
    answer = bench.finetune().rollouts(
        "query",
        image=photo(1)[0],
        question="What shape is this?",
        num_rollouts=4,
        settings={"temperature": 1.0, "top_p": 0.95, "max_tokens": 10},
    )
    assert_fits(answer, RolloutsResponse)
    assert len(answer["rollouts"]) == 4
    assert answer["rewards"] is None
    return "4 rollouts, `rewards` null"


@TABLE.row("`ft.rollouts(skill, image, question, reasoning, spatial_refs)`", "Finetune.rollouts")
def rollouts_reasoning(bench: Bench) -> str:
    answer = bench.finetune().rollouts(
        "query",
        image=photo(1)[0],
        question="What is here?",
        reasoning=True,
        spatial_refs=[[0.5, 0.5], [0.1, 0.1, 0.9, 0.9]],
    )
    assert_fits(answer, RolloutsResponse)
    assert set(answer["rollouts"][0]["output"]) == {"answer", "reasoning"}
    return "`output.reasoning` has text and grounding"


@TABLE.row("`ft.rollouts(skill, image, object, ground_truth)`: point, detect", "Finetune.rollouts")
def rollouts_objects(bench: Bench) -> str:
    finetune = bench.finetune()
    image, boxes = boxed(4)
    for skill, key in (("point", "points"), ("detect", "objects")):
        answer = finetune.rollouts(
            skill, image=image, object="shape", num_rollouts=3, ground_truth={"boxes": boxes}
        )
        assert_fits(answer, RolloutsResponse)
        assert all(set(rollout["output"]) == {key} for rollout in answer["rollouts"])
        assert len(answer["rewards"]) == 3
        assert all(0 <= reward <= 1 for reward in answer["rewards"])
    return "a reward in 0-1 for each rollout"


@TABLE.row("`ft.rollouts(image)` with an image that is encoded already", "Finetune.rollouts")
def rollouts_encoded(bench: Bench) -> str:
    image = Base64EncodedImage(image_url=make_image_url())
    answer = bench.finetune().rollouts("query", image=image, question="What color?")
    assert answer["request"]["request"]["image_url"] == image.image_url
    return "the request comes back with its image"


@TABLE.row(
    "`ft.rollout_stream(requests, max_concurrency, buffer_size)` beside `train_step`",
    "Finetune.rollout_stream",
)
def rollout_stream(bench: Bench) -> str:
    finetune = bench.finetune()
    requests = [
        (number, {"skill": "query", "image": photo(number)[0], "question": "What?"})
        for number in range(8)
    ]
    seen, steps = [], []
    for number, answer in finetune.rollout_stream(requests, max_concurrency=4, buffer_size=2):
        seen.append(number)
        group = {"mode": "rl", "request": answer["request"], "rollouts": answer["rollouts"]}
        steps.append(finetune.train_step([{**group, "rewards": [1.0]}])["step"])
    assert sorted(seen) == list(range(8))
    assert steps == list(range(1, 9))
    return "8 of 8, a step for each"


@TABLE.row("`ft.train_step(groups, lr)`: RL and SFT mixed", "Finetune.train_step")
def train_step(bench: Bench) -> str:
    finetune = bench.finetune()
    image, boxes = boxed(4)
    answer = finetune.rollouts(
        "detect", image=image, object="shape", num_rollouts=4, ground_truth={"boxes": boxes}
    )
    rl = {"mode": "rl", "request": answer["request"], "rollouts": answer["rollouts"]}
    rewards = [index / 4 for index in range(4)]
    result = finetune.train_step([{**rl, "rewards": rewards}, sft()], lr=1e-3)
    assert_fits(result, TrainStepOutput)
    assert (result["step"], result["applied"], result["lr"]) == (1, True, 1e-3)
    assert result["reward_mean"] == sum(rewards) / 4
    numbers = ("kl", "router_kl", "grad_norm", "reward_std", "sft_loss")
    assert all(isinstance(result[name], float) for name in numbers)
    assert finetune.train_step([sft()])["lr"] == 2e-4
    return "step 1, the documented keys are numbers; `lr` is 2e-4 when left out"


@TABLE.row(
    "`ft.train_step(groups, lr, **kwargs)`: fields that older servers do not know",
    "Finetune.train_step",
)
def train_step_kwargs(bench: Bench) -> str:
    finetune = bench.finetune()
    assert finetune.train_step([sft()], expected_step=0, unheard_of=True)["step"] == 1
    keyed = {"idempotency_key": "once", "expected_step": 1}
    first = finetune.train_step([sft()], **keyed)
    assert finetune.train_step([sft()], **keyed) == first
    assert status_of(lambda: finetune.train_step([sft()], expected_step=0)) == 409
    return "`expected_step` and `idempotency_key` hold, others are ignored"


@TABLE.row("`ft.log_metrics(step, metrics)`", "Finetune.log_metrics")
def log_metrics(bench: Bench) -> str:
    finetune = bench.finetune()
    metrics = {"eval/mAP@50": 0.25, "eval/f1": 1}
    answer = finetune.log_metrics(step=0, metrics=metrics)
    assert_fits(answer, MetricsLogOutput)
    assert answer == {"ok": True, "step": 0, "logged_count": 2}
    return "`logged_count` 2, before any training"


@TABLE.row("`ft.save_checkpoint()`", "Finetune.save_checkpoint")
def save_checkpoint(bench: Bench) -> str:
    finetune = bench.finetune()
    finetune.train_step([sft()])
    saved = finetune.save_checkpoint()
    assert_fits(saved, SaveCheckpointOutput)
    assert finetune.save_checkpoint()["checkpoint"] == saved["checkpoint"]
    return "saving again gives the same checkpoint"


@TABLE.row("`ft.save_checkpoint()` before the first step", "Finetune.save_checkpoint")
def save_nothing(bench: Bench) -> str:
    assert status_of(bench.finetune().save_checkpoint) == 404
    return "404 at once"


@TABLE.row("`ft.list_checkpoints(limit, cursor)`", "Finetune.list_checkpoints")
def list_checkpoints(bench: Bench) -> str:
    finetune = bench.finetune()
    for _ in range(3):
        finetune.train_step([sft()])
        finetune.save_checkpoint()
    whole = finetune.list_checkpoints()
    assert_fits(whole, CheckpointListOutput)
    assert ([c["step"] for c in whole["checkpoints"]], whole["has_more"]) == ([1, 2, 3], False)
    first = finetune.list_checkpoints(limit=2)
    rest = finetune.list_checkpoints(limit=2, cursor=first["next_cursor"])
    assert [c["step"] for page in (first, rest) for c in page["checkpoints"]] == [1, 2, 3]
    assert finetune.list_checkpoints(limit=1000)["next_cursor"] is None
    return "ascending, in pages"


@TABLE.row("`ft.delete_checkpoint(step)`", "Finetune.delete_checkpoint")
def delete_checkpoint(bench: Bench) -> str:
    finetune = bench.finetune()
    finetune.train_step([sft()])
    finetune.save_checkpoint()
    finetune.delete_checkpoint(1)
    finetune.delete_checkpoint(1)
    model = bench.model(finetune.model(1))
    assert status_of(lambda: model.query(photo(1)[0], "What?")) == 404
    assert finetune.train_step([sft()])["step"] == 2
    return "twice; the model is gone, training goes on"


@TABLE.row("`ft.delete()`", "Finetune.delete")
def delete(bench: Bench) -> str:
    finetune = bench.finetune()
    finetune.delete()
    finetune.delete()
    assert status_of(lambda: finetune.rollouts("query", question="Hello?")) == 404
    return "twice; then 404"


@TABLE.row("`ft.model(step)`", "Finetune.model")
def model(bench: Bench) -> str:
    finetune = bench.finetune()
    finetune.train_step([sft()])
    finetune.save_checkpoint()
    said = bench.model(finetune.model(1)).query(photo(1)[0], "What?")
    assert isinstance(said["answer"], str)
    return "the id answers in `md.vl`"


@TABLE.row("`md.ft` with a wrong key, 30 MB of body on the way", "Finetune.train_step")
def wrong_key(bench: Bench) -> str:
    finetune = md.ft(KEY, name=bench.new_name(), rank=8, endpoint=bench.keyed.tuning)
    finetune.api_key = "wrong"
    padding = "x" * 30_000_000
    assert status_of(lambda: finetune.train_step([make_sft_group()], padding=padding)) == 401
    finetune.api_key = KEY
    assert finetune.train_step([make_sft_group()])["step"] == 1
    return "the body is read, 401 arrives, nothing is resent"


@TABLE.row(
    "`md.ft(name)` with a space in the name",
    "ft",
    differs="the space of one sample is refused; the message proposes a hyphen",
)
def name_with_space(bench: Bench) -> str:
    refused = lambda: md.ft("a", name="my finetune", rank=8, endpoint=bench.live.tuning)  # noqa: E731
    assert status_of(refused) == 422
    answer = bench.http.post("/v1/tuning/finetunes", json={"name": "my finetune", "rank": 8})
    assert "my-finetune" in answer.json()["message"]
    return "422"
