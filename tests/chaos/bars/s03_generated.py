"""S3: calls generated from the OpenAPI document, and bodies that are hardly JSON.

No answer of 5xx, none that the document does not have, none whose body is not as it says. Half of
the generated calls name a finetune and a picture that are there, so that they come further than the
first look. The service is whole and in this process: the trainer on a micro model, the decoder in
its child.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode

from server.api.examples import PICTURE
from server.app import create_app
from server.config import ServerConfig
from server.images.decoder import ImageDecoder
from tests.chaos.bench import Bench, Verdict
from tests.chaos.local import LocalEngine, copied_database
from tests.chaos.silence import silence
from tests.described import Described

ID = "S3"
TITLE = "generated calls and wrong bodies: no 5xx, nothing that is not described"

CASES_A_ROUND = 20
MAX_SHOWN = 10
DEEP = 100_000
NO_STATUSES = frozenset(range(500, 600)) - {501, 503}
"""501 is a skill that the model lacks; 503 is looked at by its code."""


def run(bench: Bench) -> Verdict:
    verdict = Verdict()
    with tempfile.TemporaryDirectory(prefix="s3-") as name, silence():
        num_cases = bench.count(commit=2_000, full=10_000)
        num_bodies = bench.count(commit=1_000, full=10_000)
        asyncio.run(_run(bench, Path(name) / "data", verdict, num_cases, num_bodies))
    return verdict


async def _run(
    bench: Bench, data_dir: Path, verdict: Verdict, num_cases: int, num_bodies: int
) -> None:
    copied_database(data_dir)
    config = ServerConfig(data_dir=data_dir, min_free_bytes=0, shutdown_grace_seconds=0.05)
    decoder = ImageDecoder(
        num_processes=1, max_bytes=config.max_image_bytes, max_pixels=config.max_image_pixels
    )
    app = create_app(config, engine=LocalEngine(), image_decoder=decoder)
    document = app.openapi()
    statuses: Counter[str] = Counter()
    await decoder.start()
    try:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as http,
        ):
            caller = _Caller(http, Described(document), verdict, statuses)
            finetune_id = await _prepared(http)
            requests = _Requests(document, bench.random, finetune_id, bench.seed)
            for request in requests.generated(num_cases):
                await caller.call(request)
            for request in requests.wrong_bodies(num_bodies):
                await caller.call(request)
            alive = await http.get("/healthz")
            verdict.demand(alive.status_code == 200, "the service does not answer any more")
    finally:
        await decoder.stop()
    verdict.figures |= {
        "generated": num_cases,
        "wrong_bodies": num_bodies,
        "statuses": dict(sorted(statuses.items())),
    }


async def _prepared(http: httpx.AsyncClient) -> str:
    """A finetune with a saved step."""
    made = await http.post("/v1/tuning/finetunes", json={"name": "s3", "rank": 8})
    finetune_id = made.json()["finetune_id"]
    group = {"request": {"skill": "query", "question": "?"}, "target": {"answer": "two"}}
    body = {"finetune_id": finetune_id, "groups": [group]}
    trained = await http.post("/v1/tuning/train_step", json=body)
    assert trained.status_code == 200, trained.text
    await http.post(f"/v1/tuning/finetunes/{finetune_id}/checkpoints/save")
    return finetune_id


class _Caller:
    """Makes calls and judges their answers."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        described: Described,
        verdict: Verdict,
        statuses: Counter[str],
    ):
        self._http = http
        self._described = described
        self._verdict = verdict
        self._statuses = statuses

    async def call(self, request: httpx.Request) -> None:
        answer = await self._http.send(request)
        status, path = answer.status_code, request.url.path
        self._statuses[str(status)] += 1
        if len(self._verdict.violations) > MAX_SHOWN:
            return
        sent = f"{request.method} {request.url.raw_path[:200]!r} {request.content[:300]!r}"
        is_overload = status == 503 and answer.json()["error"]["code"] != "starting"
        self._verdict.demand(
            status not in NO_STATUSES and not is_overload, f"{sent}: {status} {answer.text[:300]}"
        )
        try:
            self._described.check(
                request.method,
                path,
                status,
                answer.headers.get("content-type", ""),
                answer.content,
            )
        except AssertionError as error:
            self._verdict.violations.append(f"{sent}: {error}")


class _Requests:
    """Makes requests, generated ones and hardly readable ones."""

    def __init__(
        self, document: dict[str, Any], chance: random.Random, finetune_id: str, seed: int
    ):
        self._document = document
        self._schema = schemathesis.openapi.from_dict(document)
        self._chance = chance
        self._finetune_id = finetune_id
        self._seed = seed

    def generated(self, num: int) -> Iterator[httpx.Request]:
        """By the document, right and wrong ones, every operation as often as any other."""
        operations = [result.ok() for result in self._schema.get_all_operations()]
        pairs = [
            (operation, mode)
            for operation in operations
            if operation.path not in ("/metrics", "/healthz", "/readyz")
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        ]
        num_made = 0
        for number in range(num):
            for pair in list(pairs):
                cases = self._cases(*pair, self._seed + number)
                if not cases:
                    pairs.remove(pair)  # there is no wrong call of it
                for case in cases:
                    yield self._request(case)
                    num_made += 1
                    if num_made == num:
                        return

    def _cases(self, operation: Any, mode: GenerationMode, seed: int) -> list[Case]:
        cases: list[Case] = []

        @hypothesis_seed(seed)
        @settings(
            max_examples=CASES_A_ROUND,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        @given(operation.as_strategy(generation_mode=mode))
        def collect(case: Case) -> None:
            cases.append(case)

        try:
            collect()
        except Unsatisfiable:
            return []
        return cases

    def _request(self, case: Case) -> httpx.Request:
        path = case.path
        for name, value in (case.path_parameters or {}).items():
            is_ours = self._chance.random() < 0.6
            known = {"finetune_id": self._finetune_id, "step": "1"}.get(name)
            path = path.replace(f"{{{name}}}", known if known and is_ours else _segment(value))
        query = {name: _plain(value) for name, value in (case.query or {}).items()}
        headers = {
            name: value
            for name, value in dict(case.headers or {}).items()
            if _is_header(name) and _is_header(value)
        }
        url = f"http://localhost{path}"
        body: Any = case.body
        if case.media_type is None or not isinstance(body, dict | list | str | int | float | None):
            content = body if isinstance(body, bytes) else None
            return httpx.Request(case.method, url, params=query, headers=headers, content=content)
        text = json.dumps(self._with_known(body))
        return httpx.Request(case.method, url, params=query, headers=headers, content=text)

    def _with_known(self, value: Any) -> Any:
        """The same with a finetune and a picture that are there, here and there."""
        if isinstance(value, dict):
            known = {"finetune_id": self._finetune_id, "image_url": PICTURE}
            return {
                name: known[name]
                if name in known and self._chance.random() < 0.6
                else self._with_known(item)
                for name, item in cast("dict[str, Any]", value).items()
            }
        if isinstance(value, list):
            return [self._with_known(item) for item in cast("list[Any]", value)]
        return value

    def wrong_bodies(self, num: int) -> Iterator[httpx.Request]:
        """Bodies of every route that reads one, damaged in every way that we know."""
        texts = {
            path: json.dumps(self._with_known(_example(operation))).encode()
            for path, operations in self._document["paths"].items()
            for method, operation in operations.items()
            if method == "post" and _example(operation) is not None
        }
        for number in range(num):
            path = self._chance.choice(list(texts))
            content = _DAMAGES[number % len(_DAMAGES)](texts[path], self._chance)
            url = f"http://localhost{path.replace('{finetune_id}', self._finetune_id)}"
            yield httpx.Request("POST", url, content=content)


def _example(operation: dict[str, Any]) -> Any:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    return content.get("example")


def _segment(value: Any) -> str:
    return quote(str(value), safe="%") or "0"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _is_header(text: Any) -> bool:
    return isinstance(text, str) and text.isascii() and text.isprintable() and bool(text.strip())


def _cut(text: bytes, chance: random.Random) -> bytes:
    return text[: chance.randrange(len(text))]


def _flipped(text: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(text)
    for _ in range(chance.randint(1, 4)):
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    return bytes(damaged)


def _swapped(text: bytes, chance: random.Random) -> bytes:
    """A value somewhere becomes another."""
    odd = chance.choice(_ODD_VALUES)
    places = [at for at, byte in enumerate(text) if byte in b":,["]
    at = chance.choice(places)
    return text[: at + 1] + odd + b"," + text[at + 1 :]


def _replaced(text: bytes, chance: random.Random) -> bytes:
    """A value of the object becomes another."""
    value = json.loads(text)
    at = value
    while isinstance(at, dict | list) and at:
        names = list(at) if isinstance(at, dict) else range(len(at))
        name = chance.choice(list(names))
        if not isinstance(at[name], dict | list) or chance.random() < 0.3:
            at[name] = "\0odd\0"
            break
        at = at[name]
    return json.dumps(value).encode().replace(b'"\\u0000odd\\u0000"', chance.choice(_ODD_VALUES))


def _deep(text: bytes, chance: random.Random) -> bytes:
    depth = chance.choice([200, 5_000, DEEP])
    opening, closing = chance.choice([(b"[", b"]"), (b'{"a":', b"}")])
    inner = opening * depth + b"1" + closing * depth
    return chance.choice([inner, text[:-1] + b', "deep": ' + inner + b"}"])


def _twice(text: bytes, chance: random.Random) -> bytes:
    """A key comes twice; the last one holds."""
    value = json.loads(text)
    name = chance.choice(list(value))
    return (
        b"{"
        + json.dumps({name: chance.choice([None, 1, "x", []])})[1:-1].encode()
        + (b", " + text[1:])
    )


def _foreign(text: bytes, chance: random.Random) -> bytes:
    return chance.choice(
        [
            b"",
            b"null",
            b"[]",
            b"1",
            b'"text"',
            b"\xef\xbb\xbf" + text,
            text.decode().encode("utf-16"),
            b"\xff\xfe" + text,
            text + text,
            text + b"\0",
            b"a=1&b=2",
            b"<xml/>",
            b"{}",
        ]
    )


_ODD_VALUES = (
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1" * 5_000, b"0." + b"1" * 5_000,
    b"-0", b"1e-999", b'"\\ud800"', b'"\\u0000"', b'"\xff"', b'"\xed\xa0\x80"', b"true", b"null",
    b'"1.5"', b"9223372036854775808", b"-9223372036854775809", b"[]", b"{}", b'""', b"[[[[]]]]",
    b'"' + b"x" * 70_000 + b'"', b'"\xf0\x9f\x98\x80"', b"'single'", b"01", b"+1", b".5", b"1.",
)  # fmt: skip
_DAMAGES = (_cut, _flipped, _swapped, _replaced, _replaced, _deep, _twice, _foreign)
