"""What has to pass a reverse proxy, and what must not: shown with the files of deploy/."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import HTTPError
from urllib.parse import urlsplit

from tests.chaos.bench import Bench, Verdict, new_run
from tests.chaos.raw import Answer
from tests.chaos.reverse_proxies import Certificate, Kind, ReverseProxy
from tests.chaos.sdk import Client, sft
from tests.chaos.service import Service
from tests.chaos.waiting import until
from tests.factories import make_image_url

MIB = 1 << 20
BELOW_LIMIT = 3 * MIB
"""How much less than the limit the large body has that is to be taken."""

KEY = "k"
"""The one that the SDK of the bars has."""

_HEADERS = {"X-Moondream-Auth": KEY, "Content-Type": "application/json"}

HANG = "rollouts.tick=hang@12!"
"""In each worker: after its canary, in the middle of an answer."""

STREAM_TOKENS = 40
LEAST_EVENTS = 12
"""Of an answer that says something soon and is long: several tokens may be one event."""

MOST_QUESTIONS = 200

KEPT = {
    "X-Moondream-Auth": "a-key",
    "Authorization": "Bearer a-key",
    "Idempotency-Key": "once",
    "X-Request-Id": "mine",
    "User-Agent": "moondream-python/2.6.1",
}
SAID = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "gopher",
    "X-Forwarded-Port": "1",
    "X-Real-IP": "203.0.113.9",
    "Forwarded": "for=203.0.113.9",
    "Via": "1.1 evil.example",
}
TOKEN, LOGGED = "a-token-to-hide", "what-is-logged"
METRICS = ("/metrics", "//metrics", "/metrics/", "/%6detrics", "/v1/../metrics")


def look(
    bench: Bench,
    kinds: list[Kind],
    certificate: Certificate,
    figures: dict[str, Any],
    verdict: Verdict,
) -> None:
    """Try all of it behind each of these; what is wrong goes into the verdict."""
    limit = bench.count(commit=24, full=104) * MIB
    options = {
        "trusted_proxies": "127.0.0.1",
        "max_train_body_bytes": limit,
        "api_key": KEY,
        "max_generation_tokens": STREAM_TOKENS,
    }
    with bench.service("p01-passing", options=options) as service:
        service.start()
        questions = _answered_at_length(service, len(kinds))
        service.stop()
        service.start(fault=HANG)
        for kind, question in zip(kinds, questions, strict=True):
            folder = service.folder / kind.name
            with ReverseProxy(kind, folder, service.port, certificate) as proxy:
                user = _User(proxy, certificate, verdict)
                _headers(kind, folder / "echo", certificate, verdict)
                _logs(kind, folder / "logs", certificate, verdict)
                _metrics(user)
                _large_bodies(user, service, limit)
                _streams(user, service, question)
            figures[kind.name]["large_body_mb"] = (limit - BELOW_LIMIT) // MIB


class _User:
    """Somebody on the far side of a proxy."""

    def __init__(self, proxy: ReverseProxy, certificate: Certificate, verdict: Verdict):
        self.name = proxy.kind.name
        self.tuning = f"{proxy.url}/v1/tuning"
        self._verdict = verdict
        self._context = certificate.context()
        self._port = proxy.port

    def demand(self, holds: bool, otherwise: str) -> None:
        self._verdict.demand(holds, f"{self.name}: {otherwise}")

    def connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(
            "localhost", self._port, timeout=60.0, context=self._context
        )

    def call(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request on a connection of its own."""
        connection = self.connect()
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            named = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(status=answer.status, headers=named, body=answer.read())
        finally:
            connection.close()


# --- headers


class _Echo:
    """Remembers the headers of the last request; a context manager."""

    def __init__(self) -> None:
        self.headers: list[tuple[str, str]] = []
        echo = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                echo.headers = [(name.lower(), value) for name, value in self.headers.items()]
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def of(self, name: str) -> list[str]:
        return [value for told, value in self.headers if told == name.lower()]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _headers(kind: Kind, folder: Any, certificate: Certificate, verdict: Verdict) -> None:
    """What the server is told: what the client sent, but of its address what the proxy knows."""
    with _Echo() as echo, ReverseProxy(kind, folder, echo.port, certificate) as proxy:
        user = _User(proxy, certificate, verdict)
        answer = user.call("GET", "/v1/models", headers={**KEPT, **SAID})
        user.demand(answer.status == 200, f"the echo was answered {answer.status}")
        told = {
            **KEPT,
            "Host": f"localhost:{proxy.port}",
            "X-Forwarded-For": "127.0.0.1",
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Host": f"localhost:{proxy.port}",
        }
        for name, value in told.items():
            user.demand(echo.of(name) == [value], f"{name} arrives as {echo.of(name)}")
        for name in SAID.keys() - told.keys():
            user.demand(echo.of(name) == [], f"{name} of the client arrives: {echo.of(name)}")


def _logs(kind: Kind, folder: Path, certificate: Certificate, verdict: Verdict) -> None:
    """No log has the token of a file, not even where the server is away; other addresses it has."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        port = nobody.getsockname()[1]
        with ReverseProxy(kind, folder, port, certificate) as proxy:
            user = _User(proxy, certificate, verdict)
            for path in (f"/v1/files/{TOKEN}", f"/v1/{LOGGED}"):
                answer = user.call("GET", path)
                user.demand(answer.status in (502, 503), f"{path} is answered {answer.status}")
            # A call is logged after its answer; all that is, once the proxy has ended.
            until(lambda: LOGGED in _logged(folder), "the address of a call is logged")
    user.demand(TOKEN not in _logged(folder), "the token of a file is logged")


def _logged(folder: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in folder.glob("*.log"))


def _metrics(user: _User) -> None:
    """Closed, however it is spelled, even for who has the key."""
    for path in METRICS:
        answer = user.call("GET", path, headers={"X-Moondream-Auth": KEY})
        is_closed = answer.status in (400, 403, 404) and b"moontune_" not in answer.body
        user.demand(is_closed, f"{path} is answered {answer.status}")
    for headers in ({"X-Moondream-Auth": KEY}, {"Authorization": f"Bearer {KEY}"}):
        answer = user.call("GET", "/v1/models", headers={**headers, "X-Request-Id": "mine"})
        is_right = answer.status == 200 and answer.headers["x-request-id"] == "mine"
        user.demand(is_right, f"with {list(headers)}: {answer.status} {answer.headers}")
    answer = user.call("GET", "//v1//models/", headers={"X-Moondream-Auth": KEY})
    user.demand(answer.status == 200, f"slashes as md.vl doubles them: {answer.status}")
    answer = user.call("GET", "/v1/models")
    user.demand(answer.code == "invalid_api_key", f"without a key: {answer.status}")


# --- bodies


def _large_bodies(user: _User, service: Service, limit: int) -> None:
    history, _ = new_run(service)
    tuned = Client(history, user.tuning).create(f"large-{user.name}")
    step = {"finetune_id": tuned.id, "groups": [sft(0)], "lr": 1e-2}
    content = json.dumps(step).encode()
    headers = {"X-Moondream-Auth": KEY}
    path = "/v1/tuning/train_step"
    answer = user.call("POST", path, content.ljust(limit - BELOW_LIMIT), headers)
    user.demand(answer.status == 200, f"a large body: {answer.status} {answer.code}")
    answer = user.call("POST", path, _pieces(content, 16), headers)
    user.demand(answer.status == 200, f"a chunked body: {answer.status} {answer.code}")
    num_before = _num_refused(service)
    try:
        tuned.train([sft(0)], may_fail=True, padding="x" * limit)
        user.demand(False, "a body over the limit was accepted")
    except HTTPError as error:
        user.demand(error.code == 413, f"the SDK got {error.code}")
    until(lambda: _num_refused(service) > num_before, "the refusal is logged")
    num_refused = _num_refused(service) - num_before
    user.demand(num_refused == 1, f"the SDK sent a body over the limit {num_refused} times")
    spoofed = user.call("POST", path, content, {**headers, **SAID, "Idempotency-Key": user.name})
    again = user.call("POST", path, content, {**headers, "Idempotency-Key": user.name})
    is_replayed = again.headers.get("idempotent-replayed") == "true"
    user.demand(is_replayed and again.body == spoofed.body, "the key of a header does not pass")
    saved = tuned.save()["checkpoint"]["step"]
    link = user.call(
        "GET",
        f"/v1/tuning/finetunes/{tuned.id}/checkpoints/{saved}/download",
        headers={**headers, **SAID},
    ).json()["url"]
    host = urlsplit(user.tuning).netloc
    user.demand(link.startswith(f"https://{host}/v1/files/"), f"a link leads to {link[:60]}")
    taken = user.call("GET", urlsplit(link).path)
    user.demand(taken.status == 200 and len(taken.body) > 1000, f"a download: {taken.status}")


def _pieces(content: bytes, num: int) -> Iterator[bytes]:
    size = len(content) // num + 1
    yield from (content[at : at + size] for at in range(0, len(content), size))


def _num_refused(service: Service) -> int:
    events = service.log_events()
    return sum(event.get("event") == "request" and event.get("status") == 413 for event in events)


# --- streams, and who leaves


def _answered_at_length(service: Service, num: int) -> list[str]:
    """Questions to which the random model says something soon and goes on for long.

    The same call is answered with the same words after a restart.
    """
    found: list[str] = []
    for number in range(MOST_QUESTIONS):
        question = f"what is number {number}?"
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60.0)
        ask = json.dumps({**_ask(question), "stream": True})
        connection.request("POST", "/v1/query", ask, _HEADERS)
        if connection.getresponse().read().count(b"data: ") >= LEAST_EVENTS:
            found.append(question)
        connection.close()
        if len(found) == num:
            return found
    raise AssertionError(f"{len(found)} of {MOST_QUESTIONS} questions are answered at length")


def _ask(question: str) -> dict[str, Any]:
    settings = {"temperature": 1.0, "max_tokens": STREAM_TOKENS}
    return {"image_url": make_image_url((200, 30, 30)), "question": question, "settings": settings}


def _streams(user: _User, service: Service, question: str) -> None:
    """The worker hangs in the middle: what arrives had no later token to wait for."""
    worker = service.worker()
    stream, waiting = user.connect(), user.connect()
    stream.request("POST", "/v1/query", json.dumps({**_ask(question), "stream": True}), _HEADERS)
    answer = stream.getresponse()
    first = answer.readline()
    user.demand(first.startswith(b"data: {"), f"a stream begins with {first[:80]!r}")
    user.demand(worker.is_alive, "the worker that hangs ended before its stream began")

    num_before = _num_left(service)
    waiting.request("POST", "/v1/query", json.dumps(_ask("and now?")), _HEADERS)
    until(lambda: _num_at_work(service) >= 2, "a second call waits for the worker")
    waiting.close()
    until(lambda: _num_left(service) > num_before, f"{user.name} lets go of a client that left")

    worker.kill()
    rest = answer.read()
    user.demand(b"[ERROR]" in rest, f"a stream that breaks ends with {rest[-80:]!r}")
    stream.close()
    service.worker_after(worker.index)
    until(lambda: service.get("/readyz")[0] == 200, "another worker is ready")


def _num_left(service: Service) -> int:
    return sum(event.get("code") == "caller_left" for event in service.log_events())


def _num_at_work(service: Service) -> float:
    kinds = ("running", "waiting")
    return sum(service.metric(f'moontune_calls_{kind}{{work_class="inference"}}') for kind in kinds)
