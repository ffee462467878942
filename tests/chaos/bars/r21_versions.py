"""R21: finetunes do not touch one another, and a saved step means the same weights for ever."""

from __future__ import annotations

import json
import signal
import urllib.request
from typing import Any

from tests.chaos.bench import Bench, Verdict, crew, new_run
from tests.chaos.load import unlike
from tests.chaos.sdk import Patience, Tuned, patience, question, rl, sft, thing
from tests.chaos.service import Service
from tests.chaos.waiting import until

ID = "R21"
TITLE = "finetunes and versions side by side"
NUM_FINETUNES = 4
GREEDY = {"temperature": 0.0, "max_tokens": 6, "max_objects": 2}


def run(bench: Bench) -> Verdict:
    num_steps = bench.count(commit=10, full=60)
    verdict = Verdict()
    with bench.service("r21") as service, patience(Patience()):
        service.start()
        history, client = new_run(service)
        tuned = [client.create(f"beside-{number}") for number in range(NUM_FINETUNES)]
        tuned[0].train([sft(0)])
        tuned[0].save()
        first = _ask(service, tuned[0].id, 1)
        asked: list[dict[str, Any]] = []
        with crew() as clients:
            for number, one in enumerate(tuned):
                clients.start(lambda one=one, number=number: _train(one, number, num_steps))
            while clients.is_working:
                asked.append(_ask(service, tuned[0].id, 1))
        verdict.violations += [f"a client gave up: {error!r}" for error in clients.errors]
        changed = sum(answer != first for answer in asked)
        verdict.demand(not changed, f"{changed} of {len(asked)} answers of @1 had changed")
        verdict.demand(
            _ask(service, tuned[0].id, 1) == first, "after training, @1 answers otherwise"
        )
        _delete_during_a_step(service, tuned, history, verdict)
        verdict.add(bench.check(service, history))
    verdict.figures |= {"answers_of_a_saved_step": len(asked), "interleaved": NUM_FINETUNES}
    return verdict


def _train(tuned: Tuned, number: int, num_steps: int) -> None:
    for step in range(num_steps):
        groups = [sft(step + 7 * number)]
        if step % 3 == 0:
            groups.append(rl(tuned.rollouts(step)))
        tuned.train(groups, lr=unlike(100 * number + step))


def _delete_during_a_step(
    service: Service, tuned: list[Tuned], history: Any, verdict: Verdict
) -> None:
    """One is deleted while another's step is computed, and the other way round."""
    doomed, other = tuned[1], tuned[2]
    doomed.train([sft(1)])
    before = len(history.of("train_step", other.id))
    worker = service.worker()
    with crew() as clients:
        worker.signal(signal.SIGSTOP)
        try:
            clients.start(lambda: other.train([sft(2)]))
            until(
                lambda: len(history.of("train_step", other.id)) > before, "the other's step begins"
            )
            doomed.delete()
        finally:
            worker.signal(signal.SIGCONT)
    verdict.violations += [f"beside a delete: {error!r}" for error in clients.errors]


def _ask(service: Service, finetune_id: str, step: int) -> dict[str, Any]:
    """What a saved step answers, greedily: exact coordinates and text."""
    answers = {}
    for path, request in (("point", thing(3)), ("query", question(5))):
        body = {**request, "model": f"moondream3-preview/{finetune_id}@{step}", "settings": GREEDY}
        body.pop("skill")
        asked = urllib.request.Request(
            f"{service.url}/v1/{path}", json.dumps(body).encode(), {"X-Moondream-Auth": "k"}
        )
        with urllib.request.urlopen(asked, timeout=60.0) as answer:
            said = json.load(answer)
        answers[path] = {name: said.get(name) for name in ("points", "answer", "finish_reason")}
    return answers
