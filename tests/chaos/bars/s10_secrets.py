"""S10: a key, a token, a prompt and a picture that can be recognised, in a run with every trouble.

At `info` none of them is in a log; at `debug` no key and no token is. Neither is in the database,
in the metrics, in a traceback, in an answer, or in the environment of a child.
"""

from __future__ import annotations

import base64
import io
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from tests.chaos import raw
from tests.chaos.bench import Bench, Verdict
from tests.chaos.service import Service
from tests.chaos.waiting import until
from tests.factories import make_request, make_sft_group

ID = "S10"
TITLE = "keys, tokens, prompts and pictures stay out of logs, metrics and the database"

KEY = "canary-key-7d1f9b2c4e"
WRONG_KEY = "canary-wrong-key-5a6b"
TOKEN = "hf_canaryTokenQ8w2Zk"
PROMPT = "canary prompt ninth zebra"
SECRETS = {"key": KEY, "wrong key": WRONG_KEY, "token": TOKEN}
LEVELS = ("info", "debug")


def picture() -> tuple[str, str]:
    """A data URL, and a part of its text that no other picture has."""
    text = PngImagePlugin.PngInfo()
    text.add_text("canary", "picture " * 40)
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (1, 2, 3)).save(file, "PNG", pnginfo=text)
    payload = base64.b64encode(file.getvalue()).decode()
    return f"data:image/png;base64,{payload}", payload[60:120]


def run(bench: Bench) -> Verdict:
    verdict = Verdict()
    for level in LEVELS:
        _run(level, bench, verdict)
    return verdict


def _run(level: str, bench: Bench, verdict: Verdict) -> None:
    url, part = picture()
    options = {"api_key": KEY, "log_level": level, "max_body_bytes": 100_000}
    environment = {"HF_TOKEN": TOKEN, "HUGGING_FACE_HUB_TOKEN": TOKEN}
    answers: list[bytes] = []
    with bench.service(f"s10-{level}", options=options, environment=environment) as service:
        service.start(fault="file.write=eio@4,rollouts.begin=exit@2,answer.begin=exit@2")
        _environments(service, verdict)
        answers += _story(service, url, verdict)
        metrics = service.metrics_text()
        core = Path(f"/proc/{service.api.pid}/limits").read_text()
        soft = next(line for line in core.splitlines() if line.startswith("Max core file size"))
        verdict.demand(soft.split()[4] == "0", f"a crash would leave a core: {soft}")
        verdict.demand(service.stop() == 0, "it did not stop in order")
        events = {event.get("event") for event in service.log_events()}
        for wanted in ("request", "worker_died_under_call"):
            verdict.demand(wanted in events, f"{level}: nothing was logged as {wanted}: {events}")
        texts = dict(_texts(service))
    texts |= {"/metrics": metrics.encode(), "answers": b"\n".join(answers)}
    logs = [name for name in texts if name.endswith(".log") or name == "/metrics"]
    for name, content in texts.items():
        for kind, secret in SECRETS.items():
            verdict.demand(secret.encode() not in content, f"{level}: a {kind} is in {name}")
    for name in logs if level == "info" else []:
        for kind, secret in (("prompt", PROMPT), ("picture", part)):
            verdict.demand(secret.encode() not in texts[name], f"{level}: a {kind} is in {name}")
    key = f"searched_at_{level}"
    verdict.figures[key] = {"texts": len(texts), "bytes": sum(map(len, texts.values()))}


def _story(service: Service, url: str, verdict: Verdict) -> Iterator[bytes]:
    """Every call, well, wrongly, and while workers die; the bodies of the answers."""
    caller = raw.Caller(service.port, {"X-Moondream-Auth": KEY})
    stranger = raw.Caller(service.port, {"X-Moondream-Auth": WRONG_KEY})
    bearer = raw.Caller(service.port, {"Authorization": f"Bearer {WRONG_KEY}"})
    query = make_request("query", question=PROMPT, image_url=url)
    group = make_sft_group(request=query, target={"answer": PROMPT})
    made = caller.post("/v1/tuning/finetunes", {"name": "s10", "rank": 8}).json()["finetune_id"]
    step = {"finetune_id": made, "groups": [group], "lr": 1e-3}
    rollouts = {"finetune_id": made, "request": query, "num_rollouts": 2}
    good: list[tuple[str, Any]] = [
        ("/v1/tuning/train_step", step),
        ("/v1/tuning/train_step", {**step, "lr": 2e-3}),  # a write fails
        ("/v1/tuning/train_step", {**step, "lr": 3e-3}),
        ("/v1/tuning/rollouts", rollouts),
        ("/v1/tuning/rollouts", {**rollouts, "num_rollouts": 1}),  # the worker dies
        ("/v1/query", query),
        ("/v1/query", {**query, "question": f"{PROMPT}?"}),  # and once more
        ("/v1/detect", {"object": PROMPT, "image_url": url}),
        ("/v1/caption", {"image_url": url}),
        (f"/v1/tuning/finetunes/{made}/checkpoints/save", {}),
    ]
    statuses = []
    for path, body in good:
        answer = caller.post(path, body)
        statuses.append(answer.status)
        if answer.status != 200:
            yield answer.body
    verdict.demand(500 in statuses, f"no call met a trouble: {statuses}")
    verdict.demand(statuses.count(200) >= len(good) - 2, f"calls failed: {statuses}")
    bad: list[tuple[str, bytes]] = [
        ("/v1/tuning/rollouts", json.dumps({**rollouts, "request": {"skill": PROMPT}}).encode()),
        ("/v1/tuning/rollouts", json.dumps({**rollouts, "num_rollouts": PROMPT}).encode()),
        ("/v1/tuning/rollouts", json.dumps({**rollouts, "finetune_id": PROMPT}).encode()),
        ("/v1/query", json.dumps({**query, "image_url": url[:200] + "*"}).encode()),
        ("/v1/query", json.dumps({**query, "image_url": f"http://x/{PROMPT}"}).encode()),
        ("/v1/query", f'{{"question": "{PROMPT}", {url}'.encode()),
        ("/v1/query", json.dumps({"question": PROMPT, "model": PROMPT}).encode()),
        ("/v1/query", f'{{"question": "{PROMPT}"'.encode() + b" " * 200_000),
        (
            f"/v1/tuning/finetunes/{made}/metrics",
            json.dumps({"step": 0, "metrics": PROMPT}).encode(),
        ),
    ]
    for path, body in bad:
        answer = caller.call("POST", path, body)
        verdict.demand(400 <= answer.status < 500, f"{path}: {answer.status} {answer.body[:200]}")
        verdict.demand(PROMPT.encode() not in answer.body, f"{path} echoes: {answer.body[:300]}")
        yield answer.body
    for other in (stranger, bearer):
        for path, body in good[:4]:
            answer = other.post(path, body)
            verdict.demand(answer.status == 401, f"another key got {answer.status}")
            yield answer.body
        other.close()
    caller.close()


def _environments(service: Service, verdict: Verdict) -> None:
    """The children that decode pictures; the workers here are forked for tests."""

    def children() -> list[Path]:
        tasks = Path(f"/proc/{service.api.pid}/task").glob("*/children")
        found = [Path(f"/proc/{number}") for task in tasks for number in task.read_text().split()]
        return [path for path in found if b"decode_process" in (path / "cmdline").read_bytes()]

    for child in until(children, "a decoding child lives"):
        environment = (child / "environ").read_bytes()
        for kind, secret in SECRETS.items():
            verdict.demand(secret.encode() not in environment, f"a decoding child has the {kind}")


def _texts(service: Service) -> Iterator[tuple[str, bytes]]:
    """All files of the server, and all values of its database, which its pages might split."""
    for path in [service.log_path, *service.folder.rglob("*")]:
        if path.is_file():
            yield str(path.relative_to(service.folder)), path.read_bytes()
    with closing(sqlite3.connect(service.database_path)) as connection:
        yield "rows of the database", "\n".join(connection.iterdump()).encode()
