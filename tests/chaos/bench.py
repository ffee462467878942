"""What a bar is given: processes, counts, randomness with a printed seed, and the judge."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.chaos.checker import Verdict, check
from tests.chaos.forge import Forge
from tests.chaos.history import History
from tests.chaos.sdk import Client
from tests.chaos.service import SEED, Service
from tests.chaos.undisturbed import Undisturbed

TIERS = ("commit", "full")


@dataclass(kw_only=True)
class Bench:
    """One run of one bar.

    Attributes:
        tier: `commit` takes a sample, `full` all of it.
        seed: Of `random`; the same seed draws the same instants, which the machine may meet
            differently.
    """

    forge: Forge
    undisturbed: Undisturbed
    tier: str
    seed: int

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    @property
    def is_full(self) -> bool:
        return self.tier == "full"

    def count(self, *, commit: int, full: int) -> int:
        """How often, in this tier."""
        return full if self.is_full else commit

    def service(self, name: str, **arguments: Any) -> Service:
        """A service that is not started yet; close it, or use it as a context."""
        return Service(self.forge, name, **arguments)

    def check(self, service: Service, history: History, *, may_merge: bool = False) -> Verdict:
        """Judge a run that is over, states included."""
        return check(service, history, self.undisturbed, may_merge=may_merge)


class Crew:
    """Clients in threads; the first unforeseen error of any is raised at the end."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def start(self, work: Callable[[], object]) -> None:
        """Run `work` in a thread."""

        def run() -> None:
            try:
                work()
            except BaseException as error:
                self.errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    @property
    def is_working(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def join(self, seconds: float = 60.0) -> None:
        """Wait until all have ended.

        Raises:
            AssertionError: One did not.
        """
        for thread in self._threads:
            thread.join(seconds)
            assert not thread.is_alive(), "a client still waits for its call"

    def dismiss(self) -> None:
        """Ask them to stop after their call, and wait."""
        self.stop.set()
        self.join()


@contextmanager
def crew() -> Iterator[Crew]:
    """A crew that is dismissed at the end, whatever happened."""
    made = Crew()
    try:
        yield made
    finally:
        made.stop.set()
    made.join()


def new_run(service: Service) -> tuple[History, Client]:
    """A history, and a client of a service that writes into it."""
    history = History()
    return history, Client(history, service.tuning)


def default_seed() -> int:
    return random.SystemRandom().randrange(1 << 32)


__all__ = ["SEED", "TIERS", "Bench", "Crew", "Verdict", "crew", "default_seed", "new_run"]
