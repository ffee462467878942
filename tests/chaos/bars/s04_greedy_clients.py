"""S4: bodies over the limit, connections that do not go on, and too many of one address.

a   the SDK sends too much: one attempt, a clean 413; the same by length and chunked, over sockets
b   the API's memory for a body that is refused, and for one that is accepted
c   half-sent headers and stalled bodies from many addresses, with /healthz asked meanwhile
d   connections of one address beyond its number wait, those of another are served
"""

from __future__ import annotations

import asyncio
import socket
import time
import urllib.error
from pathlib import Path
from typing import Any

from tests.chaos import raw
from tests.chaos.bench import Bench, Verdict, new_run
from tests.chaos.flood import Bodies
from tests.chaos.flood import call as send_parts
from tests.chaos.sdk import Tuned, sft
from tests.chaos.service import Service
from tests.chaos.waiting import until
from tests.chaos.watching import Probe, quantile

ID = "S4"
TITLE = "too large bodies are refused once and cheaply; slow and many connections harm nobody"
IS_ALONE = True

MIB = 1 << 20
MAX_REFUSED_BYTES = 64 * MIB
MAX_ACCEPTED_SHARE = 1.2
PICTURE_BYTES = 48 * MIB
"""One of the largest pictures on its way from text to pixels: beside a small body it counts."""

MAX_HEALTHZ_SECONDS = 0.1
NUM_SLOW = 200
NUM_ADDRESSES = 10
MAX_PER_ADDRESS = 40
NUM_TOO_MANY = 12
INFERENCE_LIMIT = 64 * MIB
LATE_SECONDS = 2.0
"""How late a connection may be dropped on a busy machine."""

HEAD = b"POST /v1/query HTTP/1.1\r\nHost: localhost\r\n"
SLOW = (
    b"",
    b"GET /healthz HT",
    HEAD + b"X-Long: ",
    HEAD + b"Content-Length: 1000\r\n\r\n{",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
)


def run(bench: Bench) -> Verdict:
    verdict = Verdict()
    slow_seconds = 15.0 if bench.is_full else 3.0
    limit = bench.count(commit=24, full=256) * MIB
    options = {
        "max_train_body_bytes": limit,
        "slow_client_seconds": slow_seconds,
        "max_connections_per_address": MAX_PER_ADDRESS,
    }
    with bench.service("s4", options=options) as service:
        service.start()
        _, client = new_run(service)
        tuned = client.create("greedy")
        tuned.train([sft(0)])
        _refuse(service, tuned, limit, verdict)
        _accept(service, tuned.id, bench, verdict)
        _stall(service, slow_seconds, bench, verdict)
        _crowd(service, slow_seconds, verdict)
        verdict.demand(tuned.train([sft(1)])["step"] == 3, "a refused body counted as a step")
    return verdict


def _refuse(service: Service, tuned: Tuned, limit: int, verdict: Verdict) -> None:
    memory = Memory(service.api.pid)
    step = "/v1/tuning/train_step"
    try:
        tuned.train([sft(0)], may_fail=True, padding="x" * limit)
        verdict.violations.append("the SDK's body over the limit was accepted")
    except urllib.error.HTTPError as error:
        verdict.demand(error.code == 413, f"the SDK got {error.code}")
    attempts = _refused(service, step)
    verdict.demand(attempts == 1, f"the SDK sent a body over the limit {attempts} times")
    for path, size in ((step, limit + MIB), ("/v1/query", INFERENCE_LIMIT + MIB)):
        for is_chunked in (False, True):
            answer, num_sent = raw.upload(service.port, path, size, is_chunked=is_chunked)
            kind = "chunked" if is_chunked else "with its length"
            is_clean = (answer.status, answer.code) == (413, "body_too_large")
            verdict.demand(is_clean, f"{path} {kind}: {answer.status} {answer.code}")
            verdict.demand(num_sent == size, f"{path} {kind}: answered after {num_sent} bytes")
    more = memory.peak_more()
    verdict.demand(more <= MAX_REFUSED_BYTES, f"refused bodies took {more} bytes of memory")
    verdict.figures |= {"sdk_attempts": attempts, "refused_memory_mb": round(more / MIB)}


def _accept(service: Service, finetune_id: str, bench: Bench, verdict: Verdict) -> None:
    """A step of pictures of 7 megabytes."""
    num_bytes = bench.count(commit=20, full=200) * MIB
    parts = Bodies(num_bytes).train_step(finetune_id)
    memory = Memory(service.api.pid)
    outcome = asyncio.run(send_parts(service.port, "/v1/tuning/train_step", parts))
    more = memory.peak_more()
    verdict.demand(outcome.status == 200, f"a body within the limit: {outcome}")
    allowed = MAX_ACCEPTED_SHARE * outcome.num_bytes + (0 if bench.is_full else PICTURE_BYTES)
    verdict.demand(
        more <= allowed,
        f"a body of {outcome.num_bytes} bytes took {more} bytes of memory",
    )
    verdict.figures["accepted_memory_share"] = more / outcome.num_bytes


def _stall(service: Service, slow_seconds: float, bench: Bench, verdict: Verdict) -> None:
    opened: list[tuple[float, socket.socket]] = []
    with Probe(service.port, service.api.pid) as probe:
        for index in range(NUM_SLOW):
            address = f"127.0.0.{2 + index % NUM_ADDRESSES}"
            sock = raw.connect(service.port, SLOW[index % len(SLOW)], address=address)
            opened.append((time.monotonic(), sock))
        open_now = until(lambda: _open(service) >= NUM_SLOW, "all slow connections are open")
        verdict.demand(bool(open_now), "slow connections were not read")
        longest = 0.0
        for since, sock in opened:
            sock.settimeout(slow_seconds + 60.0)
            with sock:
                try:
                    taken = sock.recv(1 << 12)
                except ConnectionError:
                    taken = b""
            longest = max(longest, time.monotonic() - since)
            verdict.demand(taken == b"", f"a slow connection was answered: {taken[:60]!r}")
    verdict.demand(
        longest <= slow_seconds * 1.1 + LATE_SECONDS,
        f"a slow client was dropped in {longest:.1f} s",
    )
    latency = quantile(probe.latencies, 0.95 if bench.is_full else 0.5)
    verdict.demand(latency <= MAX_HEALTHZ_SECONDS, f"/healthz took {latency:.3f} s")
    verdict.demand(probe.num_failed == 0, f"{probe.num_failed} of /healthz failed")
    verdict.figures |= {
        "slow_clients": NUM_SLOW,
        "longest_s": longest,
        "healthz_median_ms": 1000 * quantile(probe.latencies, 0.5),
    }


def _crowd(service: Service, slow_seconds: float, verdict: Verdict) -> None:
    crowded, calm = "127.0.0.77", "127.0.0.78"
    get = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    idle = [raw.connect(service.port, b"G", address=crowded) for _ in range(MAX_PER_ADDRESS)]
    until(lambda: _open(service) >= MAX_PER_ADDRESS, "the address has all its connections")
    waiting = [raw.connect(service.port, get, address=crowded) for _ in range(NUM_TOO_MANY)]
    held = 'moontune_connections{state="held"}'
    until(lambda: service.metric(held) >= NUM_TOO_MANY, "those beyond the number are held")
    with raw.connect(service.port, get, address=calm) as other:
        is_served = other.recv(1 << 12).startswith(b"HTTP/1.1 200")
    verdict.demand(is_served, "another address was not served meanwhile")
    verdict.demand(service.metric(held) == NUM_TOO_MANY, "held connections were read")
    for sock in idle:
        sock.close()
    for sock in waiting:
        with sock:
            sock.settimeout(slow_seconds + 60.0)
            answered = sock.recv(1 << 12)
        verdict.demand(answered.startswith(b"HTTP/1.1 200"), "a held connection was not served")
    verdict.figures["held"] = NUM_TOO_MANY


def _open(service: Service) -> float:
    return service.metric('moontune_connections{state="open"}')


def _refused(service: Service, path: str) -> int:
    """How often the log has a request that was too large."""

    def matches(event: dict[str, Any]) -> bool:
        return (event.get("path"), event.get("status")) == (path, 413)

    return until(lambda: sum(map(matches, service.log_events())), "the refusal is logged")


class Memory:
    """The most memory that a process has had since this was made, above what it had then."""

    def __init__(self, pid: int):
        self._status = Path(f"/proc/{pid}/status")
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # forget the peak: proc(5)
        self._before = self._bytes("VmRSS")

    def peak_more(self) -> int:
        return self._bytes("VmHWM") - self._before

    def _bytes(self, name: str) -> int:
        lines = self._status.read_text().splitlines()
        (line,) = [line for line in lines if line.startswith(f"{name}:")]
        return int(line.split()[1]) << 10
