"""B1: a batch over the tiny model, while its server is killed, stopped and loses its worker.

Every line is answered once and in order, bad lines are reported alone, the usage is the sum of what
the lines cost, and nothing but the results is left on the disk.
"""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from typing import Any

from PIL import Image

from server.config import ServerConfig
from server.verification import verify
from tests.chaos import batches
from tests.chaos.bench import Bench, Verdict
from tests.chaos.service import Service
from tests.chaos.waiting import until

ID = "B1"
TITLE = "a batch whose server and worker are killed"
MAX_SECONDS = 1800.0
SHORT = {"max_tokens": 8, "max_objects": 2}
NUM_ENDS = 3
"""The API is killed, then stopped; then its worker is killed."""

BAD_LINES = {
    b"{no json": "invalid_request",
    b"": "invalid_request",
    b'{"id": 1, "skill": "segment", "object": "circle"}': "unknown_skill",
    b'{"id": 2, "skill": "caption", "image": "aGVsbG8="}': "image_decode_failed",
}


def run(bench: Bench) -> Verdict:
    num_lines = bench.count(commit=100, full=1000)
    lines = [_line(bench, number) for number in range(num_lines)]
    options = {"model": "tiny", "batch_chunk_lines": 20, "max_batch_output_lines": num_lines // 3}
    verdict = Verdict()
    with bench.service("b01", options=options) as service:
        service.start()
        batch = batches.submit(service, _in_three(b"\n".join(text for text, _ in lines)))
        at_ends = [_end(service, batch, number, num_lines) for number in range(NUM_ENDS)]
        shown = batches.until_ended(service, batch, seconds=MAX_SECONDS)
        if shown["status"] == "completed":
            _judge(shown, [code for _, code in lines], verdict)
        else:
            verdict.violations.append(f"the batch ended so: {shown}")
        service.stop()
        verdict.demand(
            service.num_starts == 3 and len(service.lives()) == 4,
            f"{service.num_starts} starts, {len(service.lives())} workers",
        )
        service.start()  # which sweeps
        service.stop()
        _look_at_files(service, verdict)
    verdict.demand(
        len(set(at_ends)) == NUM_ENDS and at_ends[0] > 0 and at_ends[-1] < num_lines,
        f"it was not ended in the middle: after {at_ends} of {num_lines} lines",
    )
    verdict.figures |= {"lines": num_lines, "answered_at_each_end": str(at_ends)}
    return verdict


def _line(bench: Bench, number: int) -> tuple[bytes, str | None]:
    """A line, and the code of its error if it is a bad one."""
    if number % 9 == 4:
        return bench.random.choice(list(BAD_LINES.items()))
    skill = bench.random.choice(["caption", "query", "detect", "point"])
    line: dict[str, Any] = {"id": number, "skill": skill, "image": _picture(bench)}
    line["settings"] = SHORT
    if skill == "query":
        line |= {"question": "what shape is it?", "reasoning": number % 2 == 0}
    elif skill != "caption":
        line["object"] = "circle"
    return json.dumps(line).encode(), None


def _picture(bench: Bench) -> str:
    buffer = io.BytesIO()
    color = tuple(bench.random.randrange(256) for _ in range(3))
    Image.new("RGB", (32, 24), color).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _in_three(content: bytes) -> list[bytes]:
    """Parts, cut anywhere."""
    size = len(content) // 3 + 1
    return [content[number * size : (number + 1) * size] for number in range(3)]


def _end(service: Service, batch: str, number: int, num_lines: int) -> int:
    """End somebody when some more lines are answered; return how many were."""
    wanted = (number + 1) * num_lines // (NUM_ENDS + 1)

    def see() -> int | None:
        num_answered = _num_answered(service, batch)
        return num_answered if num_answered >= wanted else None

    seen = until(see, f"{wanted} lines are answered", seconds=MAX_SECONDS)
    if number == 0:
        service.kill()
        service.start()
    elif number == 1:
        service.stop()
        service.start()
    else:
        service.worker().kill()
    return seen


def _num_answered(service: Service, batch: str) -> int:
    status, shown = service.get(batch)
    assert status == 200, shown
    return shown["progress"]["completed"] + shown["progress"]["failed"]


def _judge(shown: dict[str, Any], wanted: list[str | None], verdict: Verdict) -> None:
    """Compare the results with the lines."""
    rows = batches.results(shown)
    verdict.demand(
        [row["line_index"] for row in rows] == list(range(len(wanted))),
        f"{len(rows)} rows, or not in order, for {len(wanted)} lines",
    )
    got = [row.get("error", {}).get("code") for row in rows]
    wrong = [row for row, code, want in zip(rows, got, wanted, strict=False) if code != want]
    verdict.demand(not wrong, f"{len(wrong)} lines ended otherwise than they should: {wrong[:2]}")
    strays = [r for r in rows if r["status"] == "ok" and r["id"] != r["line_index"]]
    verdict.demand(not strays, f"ids went astray: {strays[:2]}")
    cost = Counter[str]()
    for row in rows:
        cost.update(row.get("usage", {}))
    verdict.demand(dict(cost) == shown["usage"], f"usage {shown['usage']}, the lines have {cost}")
    num_bad = sum(code is not None for code in wanted)
    progress = {"total": len(wanted), "completed": len(wanted) - num_bad, "failed": num_bad}
    verdict.demand(shown["progress"] == progress, f"progress {shown['progress']}")
    verdict.figures |= {"bad_lines": num_bad, "outputs": len(shown["outputs"])}


def _look_at_files(service: Service, verdict: Verdict) -> None:
    findings = verify(ServerConfig(data_dir=service.data_dir))
    verdict.demand(findings.is_good, f"{findings.problems}")
    verdict.demand(not findings.unnamed, f"files that no row names: {findings.unnamed}")
    kinds = Counter(
        path.name.partition("-")[0] for path in (service.data_dir / "batches").rglob("*.jsonl")
    )
    verdict.demand(set(kinds) == {"output"}, f"left on the disk: {dict(kinds)}")
