"""The real SDK, written down: `md.ft` of moondream 2.6.1 with its patience scaled, nothing else.

Scaled are its module constants. `_REQUEST_TIMEOUT` became a default argument when the module was
imported, so the default is set along with it.
"""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

import moondream.finetune as sdk
from moondream.types import Base64EncodedImage, SamplingSettings

from tests.chaos.history import Call, Created, History
from tests.factories import make_image_url, make_request, make_sft_group

SETTINGS = {"temperature": 1.0, "max_tokens": 4, "max_objects": 1}
COLORS = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (90, 90, 10))
WORDS = ("a car", "red", "two", "teal circle", "no", "left of it", "12", "blue")


@dataclass(frozen=True, kw_only=True)
class Patience:
    """The four constants; seconds. The defaults keep calls alive through anything but a hang."""

    request: float = 60.0
    train: float = 120.0
    base_delay: float = 0.02
    max_delay: float = 0.5


@contextmanager
def patience(patience: Patience) -> Iterator[None]:
    """Scale the SDK in this process for a while."""
    call = sdk.Finetune._request_json
    names = ("_REQUEST_TIMEOUT", "_TRAIN_REQUEST_TIMEOUT", "_RETRY_BASE_DELAY", "_RETRY_MAX_DELAY")
    before = {name: getattr(sdk, name) for name in names}, call.__defaults__
    try:
        set_patience(patience)
        yield
    finally:
        for name, value in before[0].items():
            setattr(sdk, name, value)
        call.__defaults__ = before[1]


def set_patience(patience: Patience) -> None:
    """Set the constants; `patience()` puts the old ones back."""
    sdk._REQUEST_TIMEOUT = patience.request
    sdk._TRAIN_REQUEST_TIMEOUT = patience.train
    sdk._RETRY_BASE_DELAY = patience.base_delay
    sdk._RETRY_MAX_DELAY = patience.max_delay
    defaults = sdk.Finetune._request_json.__defaults__
    assert defaults is not None
    sdk.Finetune._request_json.__defaults__ = (*defaults[:-1], patience.request)


class EmptyAnswerError(ConnectionError):
    """The SDK returned `{}`: the answer broke off before its body began."""


class Client:
    """One user of the SDK; every call goes into the history.

    Args:
        tuning: The endpoint, `.../v1/tuning`.
        name: Of the user, for reports.
    """

    def __init__(self, history: History, tuning: str, name: str = "client"):
        self.history = history
        self.tuning = tuning
        self.name = name

    def create(self, name: str, rank: int = 8, *, may_fail: bool = False) -> Tuned:
        """`md.ft` by name."""
        body = _body({"name": name, "rank": rank})
        call = self.history.invoke(self.name, "create", "", body, may_fail=may_fail)
        tuned: sdk.Finetune = self._written(
            call, lambda: sdk.ft("k", name=name, rank=rank, endpoint=self.tuning)
        )
        call.finetune_id = tuned.finetune_id
        self.history.note_created(Created(id=tuned.finetune_id, name=name, rank=rank))
        return Tuned(self, tuned)

    def take(self, created: Created) -> Tuned:
        """A finetune that is known, without a call."""
        made = sdk.Finetune(
            api_key="k",
            endpoint=self.tuning,
            finetune_id=created.id,
            name=created.name,
            rank=created.rank,
        )
        return Tuned(self, made)

    def _written(self, call: Call, work: Callable[[], Any]) -> Any:
        try:
            result = work()
            if result == {}:
                raise EmptyAnswerError("the SDK returned {}, as for an answer that broke off")
        except BaseException as error:
            if isinstance(error, urllib.error.HTTPError):
                with suppress(OSError, ValueError):
                    error.said = error.read(2000).decode(errors="replace")  # pyright: ignore
            self.history.end(call, error=error)
            raise
        self.history.end(call, result=result)
        return result


class Tuned:
    """A finetune in the hands of a client."""

    def __init__(self, client: Client, finetune: sdk.Finetune):
        self._client = client
        self.finetune = finetune
        self.id = finetune.finetune_id

    def train(
        self,
        groups: Sequence[Any],
        lr: float = 1e-2,
        *,
        may_fail: bool = False,
        **fields: Any,
    ) -> dict[str, Any]:
        payload = {"finetune_id": self.id, "groups": list(groups), "lr": lr, **fields}
        call = self._invoke("train_step", payload, may_fail)
        return self._client._written(
            call, lambda: self.finetune.train_step(groups, lr=lr, **fields)
        )

    def rollouts(
        self, index: int = 0, *, num_rollouts: int = 2, may_fail: bool = False, **settings: Any
    ) -> dict[str, Any]:
        """Rollouts of the index-th picture. Points, because a random model's text may be any."""
        request = thing(index)
        call = self._invoke("rollouts", request, may_fail)
        return self._client._written(
            call,
            lambda: self.finetune.rollouts(
                "point",
                image=Base64EncodedImage(image_url=request["image_url"]),
                object=request["object"],
                num_rollouts=num_rollouts,
                settings=cast("SamplingSettings", {**SETTINGS, **settings}),
            ),
        )

    def save(self, *, may_fail: bool = False) -> dict[str, Any]:
        call = self._invoke("save", None, may_fail)
        return self._client._written(call, self.finetune.save_checkpoint)

    def checkpoints(self) -> list[dict[str, Any]]:
        """All of them, page by page."""
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            call = self._invoke("list_checkpoints", None, False)
            page = self._client._written(
                call, lambda at=cursor: self.finetune.list_checkpoints(limit=100, cursor=at)
            )
            found += page["checkpoints"]
            cursor = page.get("next_cursor")
            if not page.get("has_more"):
                return found

    def log_metrics(self, step: int, *, may_fail: bool = False, **metrics: float) -> Any:
        call = self._invoke("metrics", {"step": step, "metrics": metrics}, may_fail)
        return self._client._written(call, lambda: self.finetune.log_metrics(step, metrics))

    def delete_checkpoint(self, step: int, *, may_fail: bool = False) -> None:
        call = self._invoke("delete_checkpoint", None, may_fail)
        self._client._written(call, lambda: self.finetune.delete_checkpoint(step))

    def ask(
        self,
        verb: str,
        method: str,
        path: str,
        payload: dict[str, Any] | None = None,
        *,
        may_fail: bool = False,
    ) -> Any:
        """A call that the SDK has no method for, made as it makes all others."""
        call = self._invoke(verb, payload, may_fail)
        return self._client._written(
            call, lambda: self.finetune._request_json(method, path, payload)
        )

    def delete(self, *, may_fail: bool = False) -> None:
        call = self._invoke("delete", None, may_fail)
        self._client._written(call, self.finetune.delete)

    def _invoke(self, verb: str, payload: Any, may_fail: bool) -> Call:
        body = b"" if payload is None else _body(payload)
        return self._client.history.invoke(
            self._client.name, verb, self.id, body, may_fail=may_fail
        )


def _body(payload: Any) -> bytes:
    return json.dumps(payload).encode("utf-8")  # as the SDK does


def question(index: int) -> dict[str, Any]:
    """The index-th query; there are 8 x 4 of them."""
    return make_request(
        "query",
        question=f"what is {WORDS[index % len(WORDS)]}?",
        image_url=make_image_url(COLORS[index // len(WORDS) % len(COLORS)]),
    )


def thing(index: int) -> dict[str, Any]:
    """The index-th request to point; as many as queries."""
    return make_request(
        "point",
        object=WORDS[index % len(WORDS)],
        image_url=make_image_url(COLORS[index // len(WORDS) % len(COLORS)]),
    )


def sft(index: int) -> dict[str, Any]:
    """The index-th supervised group."""
    answer = WORDS[index * 3 % len(WORDS)]
    return make_sft_group(request=question(index), target={"answer": answer})


def rl(answer: dict[str, Any]) -> dict[str, Any]:
    """What came back from rollouts, as a group with rewards that differ."""
    rewards = [index / len(answer["rollouts"]) for index in range(len(answer["rollouts"]))]
    return {
        "mode": "rl",
        "request": answer["request"]["request"],
        "rollouts": answer["rollouts"],
        "rewards": rewards,
    }
