"""S6: pictures that are bombs, lies, cut off, changed at random: right or refused, nobody harmed.

a   the corpus of tests/unit/images through the decoding child, with its time and memory
b   files changed at random, for seconds or ten minutes: no child dies of one but by its limits
c   the corpus through a real server: a refusal names the group, and the next step counts
"""

from __future__ import annotations

import base64
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from contract.skills import Pixels
from server.domain.errors import ImageDecodeError, ImageTooLargeError
from server.images.decode_child import OUT_OF_TIME, DecodeChild
from server.images.decode_process import MAX_MEMORY_BYTES
from tests.chaos import raw
from tests.chaos.bench import Bench, Verdict, new_run
from tests.chaos.mutate_pictures import Mutator
from tests.chaos.sdk import sft
from tests.chaos.service import Service
from tests.factories import make_request, make_sft_group
from tests.unit.images.hostile import Case, Wanted, complaint, corpus

ID = "S6"
TITLE = "hostile pictures are decoded rightly or refused in time, within memory, and harm nobody"

MAX_BYTES, MAX_PIXELS, MAX_SECONDS = 32 << 20, 50_000_000, 15.0
MAX_REFUSAL_SECONDS, MAX_DECODE_SECONDS = 1.0, 3.0
MAX_SEED_BYTES = 100_000
TICK = os.sysconf("SC_CLK_TCK")


class WatchedChild(DecodeChild):
    """A decoding child that notes how those before it ended, and how long they worked."""

    def __init__(self) -> None:
        self.ends: list[int] = []
        super().__init__(max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS, max_seconds=MAX_SECONDS)

    def _bury(self) -> int:
        self.ends.append(super()._bury())
        return self.ends[-1]

    def cpu_seconds(self) -> float:
        """Of this child and all that have ended."""
        ended = os.times()
        total = ended.children_user + ended.children_system
        with suppress(OSError):
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / TICK
        return total

    def peak_bytes(self) -> int:
        with suppress(OSError):
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith("VmPeak:"):
                    return int(line.split()[1]) << 10
        return 0

    def outcome(self, data: bytes) -> Pixels | Exception:
        try:
            height, width, pixels = self.decode(base64.b64encode(data))
        except (ImageDecodeError, ImageTooLargeError) as refusal:
            return refusal
        return Pixels(height=height, width=width, digest="", data=pixels)


def run(bench: Bench) -> Verdict:
    verdict = Verdict()
    cases = corpus(side=bench.count(commit=2000, full=7000))
    child = WatchedChild()
    try:
        _corpus(child, cases if bench.is_full else cases[::4], verdict)
        _changed(child, cases, bench, verdict)
    finally:
        child.close()
    with bench.service("s6") as service:
        service.start()
        _through_the_api(service, cases[:: bench.count(commit=6, full=1)], verdict)
    return verdict


def _corpus(child: WatchedChild, cases: list[Case], verdict: Verdict) -> None:
    peak, slowest = 0, 0.0
    for case in cases:
        before = child.cpu_seconds()
        outcome = child.outcome(case.data)
        seconds = child.cpu_seconds() - before
        limit = MAX_REFUSAL_SECONDS if isinstance(outcome, Exception) else MAX_DECODE_SECONDS
        verdict.demand(seconds <= limit, f"{case.name}: {seconds:.2f} s of CPU")
        found = complaint(case, outcome)
        verdict.demand(not found, f"{case.name}: {found}")
        peak, slowest = max(peak, child.peak_bytes()), max(slowest, seconds)
    verdict.demand(peak <= MAX_MEMORY_BYTES, f"a child had {peak} bytes")
    deaths = [end for end in child.ends if end not in OUT_OF_TIME]
    verdict.demand(not deaths, f"children ended with {deaths}")
    verdict.figures |= {
        "pictures": len(cases),
        "peak_memory_mb": round(peak / 1e6),
        "slowest_cpu_s": slowest,
    }


def _changed(child: WatchedChild, cases: list[Case], bench: Bench, verdict: Verdict) -> None:
    seeds = [case.data for case in cases if 0 < len(case.data) <= MAX_SEED_BYTES]
    mutator = Mutator(seeds, bench.random)
    child.ends.clear()
    num_files = num_decoded = 0
    end = time.monotonic() + bench.count(commit=4, full=600)
    while time.monotonic() < end:
        data = mutator.next()
        num_ended = len(child.ends)
        outcome = child.outcome(data)
        num_files += 1
        if isinstance(outcome, Pixels):
            num_decoded += 1
            size = np.frombuffer(outcome.data, np.uint8).size
            verdict.demand(size == 3 * outcome.height * outcome.width, "pixels are missing")
        for status in child.ends[num_ended:]:
            name = signal.Signals(-status).name if status < 0 else status
            known = base64.b64encode(data[:2000]).decode()
            verdict.demand(status in OUT_OF_TIME, f"a child ended with {name} of {known}")
    verdict.figures |= {
        "changed_files": num_files,
        "of_them_decoded": num_decoded,
        "of_them_out_of_time": len(child.ends),
    }


def _through_the_api(service: Service, cases: list[Case], verdict: Verdict) -> None:
    """Each picture as that of the second group of a step; a refused step changes nothing."""
    _, client = new_run(service)
    tuned = client.create("pictures")
    caller = raw.Caller(service.port)
    refusals: dict[str, int] = {}
    num_steps = 0
    for case in cases:
        url = f"data:image/png;base64,{base64.b64encode(case.data).decode()}"
        group = make_sft_group(request=make_request("query", image_url=url))
        body = {"finetune_id": tuned.id, "groups": [sft(0), group], "lr": 0.0}
        answer = caller.post("/v1/tuning/train_step", body)
        if answer.status == 200:
            num_steps += 1
            verdict.demand(case.wanted is not Wanted.REFUSAL, f"{case.name} was trained on")
            continue
        verdict.demand(case.wanted is not Wanted.PIXELS, f"{case.name}: {answer.body[:300]}")
        _judge(case, answer, verdict)
        refusals[answer.code] = refusals.get(answer.code, 0) + 1
    caller.close()
    verdict.demand(service.get("/healthz")[0] == 200, "the server is not well")
    step = tuned.train([sft(0)])["step"]
    verdict.demand(step == num_steps + 1, f"step {step} after {num_steps} that were answered")
    verdict.figures |= {"through_the_api": len(cases), "refusals": refusals}


def _judge(case: Case, answer: raw.Answer, verdict: Verdict) -> None:
    """A refusal says which group it is, in one of two ways, and nothing of what came."""
    codes = {"image_decode_failed": 422, "image_too_large": 413}
    is_known = codes.get(answer.code) == answer.status
    verdict.demand(is_known, f"{case.name}: {answer.status} {answer.body[:200]}")
    said: Any = answer.json()
    parameter = said["error"]["param"]
    names_it = parameter is not None and parameter.startswith("groups.1.")
    verdict.demand(names_it, f"{case.name}: the refusal names {parameter}")
