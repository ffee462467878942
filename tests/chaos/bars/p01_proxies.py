"""P1: nginx and HAProxy in front, with the files of deploy/; http-api.md 4.3 and 19.

a   time-outs drawn around a step's duration, byte-identical bodies, no key: no step is lost; those
    that are doubled are counted, since a proxy reads answers that its client never sees; the full
    tier judges their share, of which a sample says nothing
b   the same with `expected_step`, and with `idempotency_key`: none lost, none doubled
c   what has to pass does (through_proxy.py): streams piece by piece, large bodies, our own 413, the
    headers of the API; what must not does not: /metrics, and what a client says of its own address
"""

from __future__ import annotations

import os
import shutil
import statistics
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError, URLError

from sqlalchemy import text

from tests.chaos import through_proxy
from tests.chaos.bench import Bench, Verdict, new_run
from tests.chaos.checker import check
from tests.chaos.history import History
from tests.chaos.reverse_proxies import KINDS, Certificate, Kind, ReverseProxy
from tests.chaos.sdk import Client, Patience, Tuned, patience, set_patience, sft
from tests.chaos.service import Service
from tests.chaos.waiting import until

ID = "P1"
TITLE = "behind nginx and HAProxy: time-outs race the answer, and what has to pass does"
CALM = Patience(base_delay=0.01, max_delay=0.03)
NUM_CALM = 10
MIN_SECONDS = 0.002
MAX_DOUBLED_SHARE = 0.2
"""Of the calls, over the full count. Measured are a few in a hundred; behind a proxy that hides its
client's leaving 46 and 34 (docs/proxies.md)."""

OTHER_SETTINGS: dict[str, dict[str, dict[str, str]]] = {
    "nginx": {
        "proxy_ignore_client_abort on": {
            "proxy_ignore_client_abort off;": "proxy_ignore_client_abort on;"
        },
        "keepalive to moontune": {
            "server 127.0.0.1:8000;": "server 127.0.0.1:{upstream}; keepalive 8;",
            "proxy_set_header Connection close;": 'proxy_set_header Connection "";',
        },
        "buffering on": {
            "proxy_buffering off;": "proxy_buffering on;",
            "proxy_request_buffering off;": "proxy_request_buffering on;",
        },
    },
    "haproxy": {
        "without abortonclose": {"option abortonclose\n": "\n"},
        "without httpclose": {"option httpclose\n": "\n"},
    },
}
"""What the lines of the files spare: raced in the full tier, judged by nobody."""

OPTIONS = {"trusted_proxies": "127.0.0.1"}
"""As docs/proxies.md has it."""


def run(bench: Bench) -> Verdict:
    verdict = Verdict()
    kinds = [kind for kind in KINDS if kind.program]
    for kind in KINDS:
        if kind not in kinds:
            verdict.skipped.append(f"{kind.name}: not installed; `make chaos-programs` does it")
    if not kinds:
        return verdict
    if shutil.which("openssl") is None:
        verdict.skipped.append("openssl, which makes the certificate: not installed")
        return verdict
    certificate = Certificate(bench.forge.new_folder("p01-certificate"))
    figures = {kind.name: {"version": kind.version()} for kind in kinds}
    with trusted(certificate):
        _race(bench, kinds, certificate, figures, verdict)
        _race_exactly(bench, kinds, certificate, figures, verdict)
        through_proxy.look(bench, kinds, certificate, figures, verdict)
    verdict.figures |= figures
    return verdict


@contextmanager
def trusted(certificate: Certificate) -> Iterator[None]:
    """Have this process's clients, the SDK among them, trust it; they read the variable each
    time."""
    before = os.environ.get("SSL_CERT_FILE")
    os.environ["SSL_CERT_FILE"] = str(certificate.path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["SSL_CERT_FILE"]
        else:
            os.environ["SSL_CERT_FILE"] = before


class Racer:
    """Trains through a proxy with a patience of 0.6 to 1.3 times what a step usually takes.

    Attributes:
        num_gave_up: Calls whose eleven attempts were all in vain; the script is started again and
            makes the same call once more, without hurry.
    """

    def __init__(self, bench: Bench, tuned: Tuned, history: History):
        self.num_gave_up = 0
        self._history = history
        self._random = bench.random
        self._tuned = tuned
        self._usual = deque[float](maxlen=2 * NUM_CALM)

    @property
    def usual_seconds(self) -> float:
        return statistics.median(self._usual)

    def train(self, *, in_haste: bool, **fields: Any) -> int:
        """One call, and the step that it was answered."""
        seconds = CALM.train
        if in_haste:
            share = self._random.uniform(0.6, 1.3)
            seconds = max(MIN_SECONDS, share * self.usual_seconds)
        set_patience(Patience(train=seconds, base_delay=0.01, max_delay=0.03))
        try:
            answer = self._tuned.train([sft(0)], may_fail=in_haste, **fields)
        except HTTPError:
            raise
        except (URLError, TimeoutError):
            self.num_gave_up += 1
            set_patience(CALM)
            answer = self._tuned.train([sft(0)], **fields)
        else:
            taken = self._history.calls[-1].seconds
            if taken < seconds:
                self._usual.append(taken)
        return answer["step"]


def _race(
    bench: Bench,
    kinds: list[Kind],
    certificate: Certificate,
    figures: dict[str, Any],
    verdict: Verdict,
) -> None:
    """The files as they are; in the full tier also what their lines spare."""
    num_calls = bench.count(commit=20, full=200)
    num_others = bench.count(commit=0, full=100)
    with bench.service("p01", options=OPTIONS) as service, patience(CALM):
        service.start()
        for kind in kinds:
            racing = Racing(bench=bench, service=service, certificate=certificate, kind=kind)
            seen = racing.run(num_calls, {})
            doubled = seen["doubled"]
            verdict.demand(seen["lost"] == 0, f"{kind.name}: {seen['lost']} steps were lost")
            verdict.demand(
                not bench.is_full or doubled <= MAX_DOUBLED_SHARE * num_calls,
                f"{kind.name}: {doubled} of {num_calls} steps were doubled",
            )
            abandoned = seen["abandoned_attempts"]
            verdict.demand(abandoned > 0, f"{kind.name}: no attempt was abandoned")
            figures[kind.name] |= seen
            for name, changes in OTHER_SETTINGS[kind.name].items() if num_others else ():
                figures[f"{kind.name}, {name}"] = racing.run(num_others, changes)


@dataclass(kw_only=True)
class Racing:
    """Races through one proxy, each on a finetune of its own."""

    bench: Bench
    service: Service
    certificate: Certificate
    kind: Kind

    def run(self, num_calls: int, changes: Mapping[str, str]) -> dict[str, Any]:
        """One race; what was seen. `changes` are of the proxy's file."""
        history, _ = new_run(self.service)
        folder = self.bench.forge.new_folder(self.kind.name)
        port = self.service.port
        with ReverseProxy(self.kind, folder, port, self.certificate, changes) as proxy:
            client = Client(history, f"{proxy.url}/v1/tuning")
            tuned = client.create(f"behind-{folder.name}")
            racer = Racer(self.bench, tuned, history)
            for _ in range(NUM_CALM):
                racer.train(in_haste=False)
            before = _Seen(self.service)
            answered = [racer.train(in_haste=True) for _ in range(num_calls)]
            num_applied = _steps_at_rest(self.service, tuned.id) - NUM_CALM
        after = _Seen(self.service)
        lost, doubled = _compare(answered, num_applied)
        return {
            "raced_calls": num_calls,
            "abandoned_attempts": after.num_attempts - before.num_attempts - num_calls,
            "joined": after.num_joined - before.num_joined,
            "replayed": after.num_replayed - before.num_replayed,
            "gave_up": racer.num_gave_up,
            "lost": lost,
            "doubled": doubled,
            "usual_ms": 1000 * racer.usual_seconds,
        }


def _compare(answered: list[int], num_applied: int) -> tuple[int, int]:
    """How many steps were lost, and how many doubled.

    All bodies are alike. A step that was answered to two calls stands for both: one of them is
    lost. One that was answered to none was made of a call that has another.
    """
    num_different = len(set(answered))
    return len(answered) - num_different, num_applied - num_different


class _Seen:
    """What the service counted so far."""

    def __init__(self, service: Service):
        events = service.log_events()
        path = "/v1/tuning/train_step"
        self.num_attempts = sum(event.get("path") == path for event in events)
        self.num_joined = sum(event.get("event") == "step_joined" for event in events)
        self.num_replayed = sum(event.get("event") == "step_replayed" for event in events)


def _steps_at_rest(service: Service, finetune_id: str) -> int:
    """The step of a finetune of which nothing runs any more."""
    with service.look() as database:

        def running() -> int:
            query = text("SELECT count(*) FROM train_requests WHERE state = 'running'")
            return database.execute(query).scalar_one()

        until(lambda: running() == 0, "no step runs")
        query = text("SELECT step FROM finetunes WHERE id = :id")
        return database.execute(query, {"id": finetune_id}).scalar_one()


def _race_exactly(
    bench: Bench,
    kinds: list[Kind],
    certificate: Certificate,
    figures: dict[str, Any],
    verdict: Verdict,
) -> None:
    """Both ways that need no evidence of who took what; judged by the checker of all bars."""
    num_calls = bench.count(commit=10, full=100)
    with bench.service("p01-exact", options=OPTIONS) as service, patience(CALM):
        service.start()
        history, _ = new_run(service)
        for kind in kinds:
            folder = service.folder / kind.name
            with ReverseProxy(kind, folder, service.port, certificate) as proxy:
                client = Client(history, f"{proxy.url}/v1/tuning", kind.name)
                for way in ("expected_step", "idempotency_key"):
                    racer = Racer(bench, client.create(f"{kind.name}-{way}"), history)
                    steps = list[int]()
                    for step in range(NUM_CALM + num_calls):
                        field = step if way == "expected_step" else f"{kind.name}-{step}"
                        in_haste = step >= NUM_CALM
                        steps.append(racer.train(in_haste=in_haste, **{way: field}))
                    wanted = list(range(1, 1 + len(steps)))
                    verdict.demand(steps == wanted, f"{kind.name}, {way}: answered {steps}")
                    figures[kind.name][f"{way}_calls"] = num_calls
        exact = check(service, history, None)
    doubled = exact.figures["applied"] - exact.figures["answered"]
    verdict.demand(doubled == 0, f"{doubled} steps were doubled although their calls had keys")
    verdict.violations += exact.violations
