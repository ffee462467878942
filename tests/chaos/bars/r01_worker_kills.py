"""R1: the worker is killed at random instants, and nobody notices.

Half of the kills come after a delay drawn over the whole length of a step. The others wait until a
phase that was met too seldom begins, as seen from outside, and come a random moment later.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos.bench import Bench, Crew, Verdict, crew, new_run
from tests.chaos.history import Call, History
from tests.chaos.phases import Kill, Phase, Watch
from tests.chaos.sdk import Patience, Tuned, patience, rl, sft
from tests.chaos.service import Service
from tests.chaos.waiting import until

ID = "R1"
TITLE = "the worker is killed in steps, saves and rollouts"
MIN_PER_PHASE = {"commit": 2, "full": 20}
MAX_KILLS_PER_WANTED = 3
"""How many times the wanted number the kills may become until every phase has its share."""
LOOK_SECONDS = 0.0003
MAX_LATER_SECONDS = 0.002


def run(bench: Bench) -> Verdict:
    num_kills = bench.count(commit=24, full=210)
    with bench.service("r01") as service, patience(Patience()):
        service.start()
        history, client = new_run(service)
        tuned, other = client.create("trained"), client.create("asked")
        other.train([sft(0)])
        watch = Watch(service, tuned.id)
        with crew() as clients:
            clients.start(lambda: _train(tuned, clients))
            clients.start(lambda: _ask(other, clients))
            killer = _Killer(
                bench=bench,
                service=service,
                history=history,
                watch=watch,
                finetune_id=tuned.id,
                clients=clients,
            )
            killer.kill_until_enough(num_kills)
        watch.close()
        verdict = bench.check(service, history)
    kills = killer.kills
    phases = Counter(kill.phase for kill in kills)
    others = Counter(verb for kill in kills for verb in set(kill.others))
    verdict.figures |= {
        "kills": len(kills),
        "kills_by_phase": {phase.value: phases[phase] for phase in Phase},
        "kills_between_steps": phases[None],
        "kills_during_rollouts": others["rollouts"],
        "kills_during_saves": others["save"],
        "lives": len(service.lives()),
    }
    verdict.violations += [f"a client gave up: {error!r}" for error in clients.errors]
    verdict.demand(len(kills) >= num_kills, f"{len(kills)} kills, wanted are {num_kills}")
    for phase in Phase:
        verdict.demand(
            phases[phase] >= MIN_PER_PHASE[bench.tier],
            f"{phases[phase]} kills {phase.value}, wanted are {MIN_PER_PHASE[bench.tier]}",
        )
    verdict.demand(others["rollouts"] > 0, "no kill met rollouts")
    return verdict


def _train(tuned: Tuned, clients: Crew) -> None:
    """Rollouts, a step on them, now and then a save; no two bodies are alike."""
    number = 0
    while not clients.stop.is_set():
        answer = tuned.rollouts(number)
        lr = 1e-2 * (1 + number * 1e-6)
        tuned.train([rl(answer), sft(number)], lr=lr)
        if number % 4 == 3:
            tuned.save()
        number += 1


def _ask(tuned: Tuned, clients: Crew) -> None:
    number = 0
    while not clients.stop.is_set():
        tuned.rollouts(number)
        tuned.save()
        number += 1


@dataclass(kw_only=True)
class _Killer:
    """Kills workers while clients work, and remembers in which phase."""

    bench: Bench
    service: Service
    history: History
    watch: Watch
    finetune_id: str
    clients: Crew
    kills: list[Kill] = field(default_factory=list)

    def kill_until_enough(self, num_kills: int) -> None:
        """Kill until the number is reached and every phase has its share."""
        while not self.clients.errors and len(self.kills) < MAX_KILLS_PER_WANTED * num_kills:
            phases = Counter(kill.phase for kill in self.kills)
            rarest = min(Phase, key=lambda phase: phases[phase])
            is_enough = phases[rarest] >= MIN_PER_PHASE[self.bench.tier]
            if len(self.kills) >= num_kills and is_enough:
                return
            self._kill_once(None if len(self.kills) % 2 == 0 else rarest)

    def _kill_once(self, phase: Phase | None) -> None:
        """Kill at any moment of a step, or soon after a phase has begun. No call is hit twice,
        since a request that two workers died of is refused for good."""
        after = len(self.history.calls)
        self._until(lambda: self._new_step(after), "a train step begins")
        call = self._new_step(after)
        if call is None:
            return
        worker = self.service.worker()
        if phase is None:
            delay = self.bench.random.uniform(0.0, 1.2 * self._usual_seconds())
            time.sleep(max(0.0, call.invoked_at + delay - time.monotonic()))
        else:
            _await_phase(self.watch, call, phase)
            time.sleep(self.bench.random.uniform(0.0, MAX_LATER_SECONDS))
        kill = self.watch.kill(worker, self.history, call)
        self.kills.append(kill)
        self.service.worker_after(worker.index)
        self._until(
            lambda: not any(hit.is_running for hit in kill.hit),
            "the calls that were hit are answered",
        )

    def _usual_seconds(self) -> float:
        """How long steps take that nobody disturbs."""
        hit = {call.number for kill in self.kills for call in kill.hit}
        steps = self.history.of("train_step", self.finetune_id)[-20:]
        calm = [step.seconds for step in steps if step.is_ok and step.number not in hit]
        return statistics.median(calm) if calm else 0.1

    def _new_step(self, after: int) -> Call | None:
        for call in self.history.calls[after:]:
            if call.verb == "train_step" and call.finetune_id == self.finetune_id:
                return call
        return None

    def _until(self, see: Callable[[], object], what: str) -> None:
        until(lambda: self.clients.errors or see(), what, seconds=120.0)


def _await_phase(watch: Watch, call: Call, wanted: Phase) -> None:
    """Look until the phase has come, or is over."""
    order = list(Phase)
    while (phase := watch.phase(call)) is not None and order.index(phase) < order.index(wanted):
        time.sleep(LOOK_SECONDS)
