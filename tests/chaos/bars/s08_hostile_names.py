"""S8: 500 names in every place where a text may be put: no crash, no path, no forged line.

The places come from the OpenAPI document (tests/hostile/surface.py). In the full tier a parameter
of a path or a query gets every name, a text of a body every fourth, since most of those make the
model work; which ones, changes from place to place. Beside them are requests that no client library
would send, byte by byte.
"""

from __future__ import annotations

import json
import re
import stat
import time
from collections import Counter
from pathlib import Path
from typing import Any

from contract.ids import parse_ulid
from tests.chaos import raw
from tests.chaos.bench import Bench, Verdict
from tests.chaos.service import Service
from tests.factories import make_sft_group
from tests.hostile.names import NUM_NAMES, names
from tests.hostile.surface import Known, missing_examples, slots

ID = "S8"
TITLE = "500 names in every parameter: no 5xx, no file elsewhere, one log line a request"

MAX_SERIES = 2_000
FINE = {200, 400, 403, 404, 405, 409, 410, 413, 422}
FILES = re.compile(
    r"lock|sweep\.lock|moontune\.db(-wal|-shm)?|logs/worker\.log(\.1)?|spool/\w+"
    r"|finetunes/[0-9A-Z]{26}/\d{8}-[0-9a-f]{12}\.(weights|optimizer)\.safetensors"
    r"|finetunes/[0-9A-Z]{26}/\d{8}-[0-9a-f]{12}\.exchange\.pt"
)
CONTROL = re.compile(rb"[\x00-\x09\x0b-\x1f\x7f-\xff]")
"""What no line of the log has; JSON escapes it."""

HOST = b"Host: localhost\r\n"
END = HOST + b"\r\n"
GET = b"GET /healthz HTTP/1.1\r\n"
POST = b"POST /v1/query HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
ODD = {
    "dots": b"GET /v1/tuning/finetunes/../../../etc/passwd HTTP/1.1\r\n" + END,
    "dots escaped": b"GET /v1/files/%2e%2e%2f%2e%2e%2fetc%2fpasswd HTTP/1.1\r\n" + END,
    "back slashes": b"GET /v1/files/..\\..\\a HTTP/1.1\r\n" + END,
    "whole address": b"GET http://192.0.2.1/healthz HTTP/1.1\r\n" + END,
    "no slash": b"GET healthz HTTP/1.1\r\n" + END,
    "line feed": b"GET /a%0d%0aX-Forged:%20yes HTTP/1.1\r\n" + END,
    "escape": b"GET /\x1b[2J HTTP/1.1\r\n" + END,
    "high bytes": b"GET /\xff\xfe HTTP/1.1\r\n" + END,
    "wrong escapes": b"GET /%ff%fe%zz% HTTP/1.1\r\n" + END,
    "long path": b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\n" + END,
    "too long a path": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n" + END,
    "many headers": GET + b"X: y\r\n" * 20_000 + END,
    "folded header": GET + b"X: a\r\n b\r\n" + END,
    "no host": GET + b"\r\n",
    "two hosts": GET + b"Host: evil.example\r\n" + END,
    "space in header": GET + b"Host : localhost\r\n\r\n",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 5\r\n\r\n{}   ",
    "length and chunks": POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    b"GET /forged HTTP/1.1\r\n" + END,
    "negative length": POST + b"Content-Length: -1\r\n\r\n",
    "length of digits": POST + b"Content-Length: " + b"9" * 4000 + b"\r\n\r\n",
    "unknown coding": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "bad chunk": CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n",
    "huge chunk": CHUNKED + b"fffffffffffffffffff\r\n",
    "wrong method": b"G\xc3\x89T / HTTP/1.1\r\n" + END,
    "connect": b"CONNECT 192.0.2.1:80 HTTP/1.1\r\n" + END,
    "trace": b"TRACE / HTTP/1.1\r\nX-Secret: forged\r\n" + END,
    "http 2": b"PRI * HTTP/2.0\r\n\r\n",
    "http 0.9": b"GET /healthz\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "upgrade": GET + b"Upgrade: websocket\r\nConnection: upgrade\r\n" + END,
}
"""Requests as no library sends them."""


def run(bench: Bench) -> Verdict:
    verdict = Verdict()
    with bench.service("s8") as service:
        service.start()
        num_ids_before = len(list(service.folder.parent.iterdir()))
        known = _known(service)
        num_sent = _names(service, known, bench, verdict)
        _odd(service, verdict)
        verdict.demand(service.get("/healthz")[0] == 200, "the server is not well")
        series = [line for line in service.metrics_text().splitlines() if line[:1] not in ("", "#")]
        verdict.demand(len(series) <= MAX_SERIES, f"{len(series)} metric series")
        verdict.demand(service.stop() == 0, "it did not stop in order")
        _log(service, num_sent, verdict)
        _files(service, verdict)
        verdict.demand(
            len(list(service.folder.parent.iterdir())) == num_ids_before, "a file lies beside it"
        )
    verdict.figures["metric_series"] = len(series)
    return verdict


def _known(service: Service) -> Known:
    caller = raw.Caller(service.port)
    made = caller.post("/v1/tuning/finetunes", {"name": "s8", "rank": 8}).json()["finetune_id"]
    caller.post("/v1/tuning/train_step", {"finetune_id": made, "groups": [make_sft_group()]})
    caller.call("POST", f"/v1/tuning/finetunes/{made}/checkpoints/save")
    link = caller.call("GET", f"/v1/tuning/finetunes/{made}/checkpoints/1/download").json()["url"]
    caller.close()
    return Known(finetune_id=made, step=1, token=link.rpartition("/")[2])


def _names(service: Service, known: Known, bench: Bench, verdict: Verdict) -> Counter[str]:
    """Send them; how often each request id was used is returned."""
    caller = raw.Caller(service.port)
    document = caller.call("GET", "/openapi.json").json()
    missing = missing_examples(document, known)
    verdict.demand(not missing, f"no example of {missing}")
    statuses: Counter[int] = Counter()
    sent: Counter[str] = Counter()
    every, places = names(), slots(document, known)
    for index, slot in enumerate(places):
        stride = bench.count(commit=250, full=4 if slot.place == "body" else 1)
        for number in range(index % stride, NUM_NAMES, stride):
            method, path, body = slot.request(every[number], known)
            request_id = f"s8-{index}-{number}"
            answer = caller.call(method, path, body, {"X-Request-Id": request_id})
            sent[request_id] += 1
            statuses[answer.status] += 1
            where = f"{slot} {every[number][:80]!r}"
            verdict.demand(answer.status in FINE, f"{where}: {answer.status} {answer.body[:200]}")
            injected = [name for name in answer.headers if "injected" in name or "forged" in name]
            verdict.demand(not injected, f"{where}: forged a header")
    caller.close()
    verdict.figures |= {
        "places": len(places),
        "requests": sent.total(),
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
    }
    return sent


def _odd(service: Service, verdict: Verdict) -> None:
    for name, request in ODD.items():
        began = time.monotonic()
        answer = raw.say(service.port, request)
        head = answer.split(b"\r\n", 1)[0]
        status = int(head.split()[1]) if head.startswith(b"HTTP/1.1 ") else 0
        verdict.demand(status < 500, f"{name}: {head!r}")
        verdict.demand(answer.count(b"HTTP/1.1 ") <= 1, f"{name}: more than one answer")
        verdict.demand(b"forged" not in answer.lower(), f"{name}: {answer[:200]!r}")
        verdict.demand(b"root:" not in answer, f"{name}: a file of the system was sent")
        verdict.demand(time.monotonic() - began < 30, f"{name}: it took long")
    verdict.figures["odd_requests"] = len(ODD)


def _log(service: Service, sent: Counter[str], verdict: Verdict) -> None:
    """Each request is one line, each line is JSON and has no character that a terminal obeys."""
    lines = service.log_path.read_bytes().split(b"\n")
    found: Counter[str] = Counter()
    for line in lines:
        verdict.demand(CONTROL.search(line) is None, f"the log has {line[:200]!r}")
        event = _event(line)
        if event is not None and event.get("event") == "request":
            found[str(event["request_id"])] += 1
        verdict.demand(event is None or event.get("event") != "forged", "a forged line")
    missing = {request_id for request_id in sent if found[request_id] != sent[request_id]}
    verdict.demand(not missing, f"not one line each: {sorted(missing)[:5]}")
    verdict.figures["log_lines"] = len(lines)


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def _files(service: Service, verdict: Verdict) -> None:
    """What lies in the data directory has our names and is readable by its owner alone."""
    num_files = 0
    for path in [service.data_dir, *service.data_dir.rglob("*")]:
        name = path.relative_to(service.data_dir).as_posix()
        mode = stat.S_IMODE(path.lstat().st_mode)
        verdict.demand(not mode & 0o077, f"{name} has the mode {mode:o}")
        if path.is_dir():
            continue
        num_files += 1
        verdict.demand(FILES.fullmatch(name) is not None, f"a file is called {name[:200]!r}")
        verdict.demand(not path.is_symlink(), f"{name} is a link")
        folder = Path(name).parts
        if folder[0] == "finetunes":
            verdict.demand(parse_ulid(folder[1]) == folder[1], f"{folder[1]} is no id")
    verdict.figures["files"] = num_files
