"""The loop of the worker: who has the device next, one unit of work at a time.

A unit is some prompts, one position for all growing answers, or one part of a train step. Between
two units anything may join, leave or change: new weights are taken up at a token boundary, because
every request names the version that it is answered by, and keeps it to its end.

Train steps are generators: each `next` is one part of bounded length. They run one after another,
in the order in which they came.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from contract.work import WorkClass
from trainer.counters import Counters
from trainer.decoder import Ticket
from trainer.device_memory import OUT_OF_MEMORY, forget_frames
from trainer.sample_job import Sampled, SampleRequest
from trainer.sampler import Sampler
from trainer.shares import Shares

WAIT_SECONDS = 0.02
"""How long the loop waits for a train step's files before it looks for other work."""

R = TypeVar("R")

Part = Future[Any] | None
"""What a train step yields: nothing, or what it waits for without needing the device."""


@dataclass(eq=False, kw_only=True)
class _Training:
    """A train step under way."""

    parts: Generator[Part, None, Any]
    begin_again: Callable[[BaseException], Generator[Part, None, Any] | None]
    outcome: Future[Any]
    waits_for: Part = None

    @property
    def is_waiting(self) -> bool:
        return self.waits_for is not None and not self.waits_for.done()


@dataclass(eq=False, kw_only=True)
class _Sampling:
    finish: Callable[[Sampled], Any]
    outcome: Future[Any]


class DeviceLoop:
    """Everything that one device has to do."""

    def __init__(self, sampler: Sampler, shares: Shares, counters: Counters, device: torch.device):
        self._sampler = sampler
        self._device = device
        self._shares = shares
        self._counters = counters
        self._sampling: dict[Ticket, _Sampling] = {}
        self._training: deque[_Training] = deque()

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._sampling and not self._training

    def sample(self, wanted: SampleRequest, finish: Callable[[Sampled], R]) -> Future[R]:
        """Take a request; `finish` makes its result of the answers.

        Raises:
            RequestRefused: The prompt leaves no room for an answer.
        """
        outcome: Future[R] = Future()
        self._sampling[self._sampler.add(wanted)] = _Sampling(finish=finish, outcome=outcome)
        return outcome

    def train(
        self,
        begin: Callable[[], Generator[Part, None, R]],
        begin_again: Callable[[BaseException], Generator[Part, None, R] | None] | None = None,
    ) -> Future[R]:
        """Take a train step.

        Args:
            begin_again: How it is begun once more after it met the end of the memory; it gives None
                when there is nothing left to try. Absent: as before, once.
        """
        outcome: Future[R] = Future()
        again = begin_again or _once(begin)
        self._training.append(_Training(parts=begin(), begin_again=again, outcome=outcome))
        return outcome

    def cancel(self, outcome: Future[Any]) -> None:
        """Give up answers that nobody waits for; a train step runs to its end."""
        for ticket, sampling in list(self._sampling.items()):
            if sampling.outcome is outcome:
                self._sampler.cancel(ticket)
                del self._sampling[ticket]
                outcome.cancel()

    def turn(self) -> bool:
        """Do one unit of work; whether there was any."""
        if self.is_idle:
            return False
        work = self._sampler.work()
        training = self._training[0] if self._training else None
        if training is not None and not (training.is_waiting and work):
            work.add(WorkClass.TRAINING)
        if not work:  # all that was to do has ended between two units
            self._deliver()
            return True
        kind = self._shares.next(work)
        started = time.perf_counter()
        if kind is WorkClass.TRAINING and training is not None:
            self._train(training)
            parts = {kind: 1.0}
        else:
            parts = self._sampler.advance(kind)
            self._deliver()
        seconds = time.perf_counter() - started
        used = {kind: part * seconds for kind, part in parts.items()}
        self._shares.charge(used)
        for kind, spent in used.items():
            self._counters.count("moontune_device_seconds_total", kind, by=spent)
        return True

    def run(self, outcome: Future[R]) -> R:
        """Work until this has ended, and give its result.

        Raises:
            Exception: Whatever became of it.
        """
        while not outcome.done():
            self.turn()
        return outcome.result()

    def _train(self, training: _Training) -> None:
        """One part; or, when nothing else is to do, some waiting for what the step waits for."""
        if training.waits_for is not None:
            wait([training.waits_for], timeout=WAIT_SECONDS)
            if training.is_waiting:
                return  # somebody may have come meanwhile
        try:
            training.waits_for = next(training.parts)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)  # or the next unit would be charged for it
            self._counters.count("moontune_train_micro_steps_total")
        except StopIteration as end:
            self._training.popleft()
            training.outcome.set_result(end.value)
        except torch.AcceleratorError:
            raise  # the device is lost, and with it all that could be tried
        except OUT_OF_MEMORY as error:
            forget_frames(error)  # they hold what was computed with
            self._sampler.give_up_memory()
            parts = training.begin_again(error)
            if parts is None:
                self._training.popleft()
                training.outcome.set_exception(error)
                return
            training.parts, training.waits_for = parts, None
        except Exception as error:
            self._training.popleft()
            forget_frames(error)
            training.outcome.set_exception(error)

    def _deliver(self) -> None:
        for ticket, ended in self._sampler.take_ended():
            sampling = self._sampling.pop(ticket, None)
            if sampling is None:
                continue  # given up in the same unit
            if isinstance(ended, Exception):
                sampling.outcome.set_exception(ended)
                continue
            try:
                sampling.outcome.set_result(sampling.finish(ended))
            except Exception as error:
                sampling.outcome.set_exception(error)


def _once(
    begin: Callable[[], Generator[Part, None, R]],
) -> Callable[[BaseException], Generator[Part, None, R] | None]:
    attempts = iter([begin])
    return lambda _error: next((begin() for begin in attempts), None)
