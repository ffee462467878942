"""R12: on PostgreSQL all is as on SQLite, and a call outlives the loss of every connection.

Three clients train, roll out and save while an operator ends all connections of the database, and
while the database server is stopped and started; then the whole suite runs on PostgreSQL alone.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from dataclasses import dataclass, field

import psycopg

from server.db.ownership import OWNER_LOCK
from tests import postgres
from tests.chaos.bench import Bench, Verdict, crew, new_run
from tests.chaos.history import History
from tests.chaos.load import Load
from tests.chaos.sdk import Patience, patience
from tests.chaos.service import Service
from tests.chaos.suite import run_tests
from tests.chaos.waiting import until

ID = "R12"
TITLE = "PostgreSQL ends all connections and restarts under load; the suite on it"
NUM_CLIENTS = 3
HEALTHY_SECONDS = 5.0
MAX_AWAY_SECONDS = 2.0
RESTART_SIGNALS = (signal.SIGINT, signal.SIGQUIT)
"""As an operator stops it, and as a crash does, in turn."""
TRANSACTION_SECONDS = 10.0
ENDURING = Patience(base_delay=0.1, max_delay=4.0)
SUITE = ("--database", "postgresql", "-n", "2", "--dist", "loadgroup", "tests")

_END = """
SELECT CASE WHEN query = 'COMMIT' AND state = 'active' THEN 'committing' ELSE state END,
    pg_terminate_backend(pid)
FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_IS_WRITING = """
AND EXISTS (
    SELECT FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_xid IS NOT NULL
)
"""


def run(bench: Bench) -> Verdict:
    if reason := postgres.why_not():
        return Verdict(skipped=[f"all of it: {reason}"])
    verdict = _disturb(bench)
    if bench.is_full:
        tests, _ = run_tests(*SUITE)
        verdict.violations += tests.violations
        verdict.skipped += tests.skipped
        verdict.figures["suite_on_postgresql"] = tests.figures
    else:
        verdict.skipped.append("the suite on PostgreSQL: `make test` has run what needs a database")
    return verdict


def _disturb(bench: Bench) -> Verdict:
    num_kills, num_restarts = bench.count(commit=3, full=20), bench.count(commit=1, full=5)
    server = postgres.start_server()
    name = server.create()
    options = {"database_url": server.url(name)}
    with bench.service("r12", options=options) as service, patience(ENDURING):
        service.start()  # migrates
        history, _ = new_run(service)
        with crew() as clients:
            load = Load(history=history, tuning=service.tuning, crew=clients)
            for number in range(NUM_CLIENTS):
                load.add(f"client-{number}")
            until(lambda: len(history.created) == NUM_CLIENTS, "all clients have begun")
            events = [*["kill"] * num_kills, *["restart"] * num_restarts]
            bench.random.shuffle(events)
            nemesis = _Nemesis(bench, server, name, service, history)
            for event in events:
                until(lambda: not clients.errors, "no client met an error", seconds=1)
                time.sleep(bench.random.uniform(0.0, 0.5))
                nemesis.kill() if event == "kill" else nemesis.restart()
                nemesis.until_well(event)
        verdict = bench.check(service, history)
    server.remove()
    verdict.violations += [f"a client gave up: {error!r}" for error in clients.errors]
    verdict.violations += nemesis.violations
    verdict.figures |= {
        "kills_of_all_connections": num_kills,
        "restarts": num_restarts,
        "connections_killed": dict(nemesis.killed),
        "slowest_seconds_until_well_after": nemesis.slowest,
    }
    return verdict


@dataclass
class _Nemesis:
    """What an operator does to a database server that is in use.

    Attributes:
        killed: Connections by what they did.
        slowest: Longest time until all was well again, by what had happened.
    """

    bench: Bench
    server: postgres.PostgresServer
    name: str
    service: Service
    history: History
    killed: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, float] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    _num_kills: int = 0
    _num_restarts: int = 0

    def kill(self) -> None:
        """End all connections; every second time at an instant when one of them writes."""
        self._num_kills += 1
        query = _END if self._num_kills % 2 else _END + _IS_WRITING
        with self.server.connect(self.name) as connection:
            found = until(
                lambda: connection.execute(query).fetchall(),
                "somebody writes",
                seconds=TRANSACTION_SECONDS,
            )
        self.killed.update(state for state, _ in found)

    def restart(self) -> None:
        """Stop the server, be away for a while, start it."""
        self.server.stop(RESTART_SIGNALS[self._num_restarts % len(RESTART_SIGNALS)])
        self._num_restarts += 1
        said = self.service.get("/healthz")[0], self.service.get("/readyz")[0]
        if said != (200, 503):
            self.violations.append(f"without a database /healthz and /readyz said {said}")
        time.sleep(self.bench.random.uniform(0.0, MAX_AWAY_SECONDS))
        self.server.start()

    def until_well(self, event: str) -> None:
        """Wait until calls that read and write are answered and the database has its owner."""
        started = time.monotonic()
        until(lambda: self.service.get("/readyz")[0] == 200, "/readyz answers")
        finetune_id = self.bench.random.choice(list(self.history.created))
        body = {"step": 1, "metrics": {"written": 1.0}}
        path = f"/v1/tuning/finetunes/{finetune_id}/metrics"
        until(lambda: self.service.post(path, body)[0] == 200, "a call that writes is answered")
        with self.server.connect(self.name) as connection:
            until(lambda: _has_owner(connection), "the database has its owner")
        seconds = time.monotonic() - started
        self.slowest[event] = max(seconds, self.slowest.get(event, 0.0))
        if seconds > HEALTHY_SECONDS:
            self.violations.append(f"after a {event} it took {seconds:.1f} s until all was well")


def _has_owner(connection: psycopg.Connection) -> bool:
    query = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid::bigint = %s AND granted"
    return bool(connection.execute(query, (OWNER_LOCK & 0xFFFFFFFF,)).fetchall())
