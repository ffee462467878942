"""R23: backups beside eight clients that train; each restores to an answered step and verifies."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from server.backup import BackupError, back_up
from server.config import DATABASE_FILE, ServerConfig
from server.restore import restore
from server.verification import verify
from tests.chaos.bench import Bench, Crew, Verdict, crew, new_run
from tests.chaos.history import History
from tests.chaos.sdk import Client, Patience, Tuned, patience, sft
from tests.chaos.service import Service
from tests.chaos.waiting import until

ID = "R23"
TITLE = "backups beside eight clients that train"
NUM_CLIENTS = 8


def run(bench: Bench) -> Verdict:
    num_backups = bench.count(commit=3, full=50)
    verdict = Verdict()
    unlike = 0
    with bench.service("r23") as service, patience(Patience()):
        service.start()
        history, client = new_run(service)
        trained = [client.create(f"trained-{number}") for number in range(NUM_CLIENTS)]
        with crew() as clients:
            for tuned in trained:
                clients.start(lambda tuned=tuned: _train(tuned, clients))
            for number in range(num_backups):
                unlike += _back_up(service, trained, number, verdict)
                until(lambda: not clients.errors, "no client met an error", seconds=1)
        last = _steps(service.data_dir / DATABASE_FILE)
        verdict.add(bench.check(service, history))
        _go_on(bench, service, trained, num_backups - 1, verdict)
    verdict.figures |= {
        "backups": num_backups,
        "steps_meanwhile": sum(last.values()),
        "backups_beside_later_steps": unlike,
    }
    if unlike == 0:
        verdict.violations.append("nobody trained beside any backup, so nothing was shown")
    return verdict


def _train(tuned: Tuned, clients: Crew) -> None:
    number = 0
    while not clients.stop.is_set():
        number += 1
        tuned.train([sft(number)])
        if number % 5 == 0:
            tuned.save()


def _back_up(service: Service, trained: list[Tuned], number: int, verdict: Verdict) -> int:
    """Make one, restore it, verify it; 1 if steps were answered while it was made."""
    before = _answered(service, trained)
    backup, restored = (service.folder / f"{name}-{number}" for name in ("backup", "restored"))
    try:
        if number == 0:  # as an operator does it; the others without three starts of Python
            _moontune("backup", str(backup), "--data-dir", str(service.data_dir))
            after = _answered(service, trained)
            _moontune("restore", str(backup), "--data-dir", str(restored))
            _moontune("verify", "--data-dir", str(restored))
        else:
            back_up(ServerConfig(data_dir=service.data_dir), backup)
            after = _answered(service, trained)
            restore(backup, ServerConfig(data_dir=restored))
        findings = verify(ServerConfig(data_dir=restored))
    except (BackupError, subprocess.CalledProcessError) as error:
        verdict.violations.append(f"backup {number}: {error} {getattr(error, 'stderr', '')}")
        return 0
    if not findings.is_good or findings.unnamed:
        verdict.violations.append(f"backup {number}: {findings}")
    steps = _steps(restored / DATABASE_FILE)
    for tuned in trained:
        step = steps.get(tuned.id, -1)
        if not before[tuned.id] <= step <= after[tuned.id]:
            verdict.violations.append(
                f"backup {number} holds step {step}; {before[tuned.id]} was answered before it,"
                f" {after[tuned.id]} after it"
            )
    return int(before != after)


def _go_on(
    bench: Bench, service: Service, trained: list[Tuned], number: int, verdict: Verdict
) -> None:
    """A service on the last restored directory takes the next step."""
    data_dir = service.folder / f"restored-{number}"
    steps = _steps(data_dir / DATABASE_FILE)
    with bench.service("r23-restored", data_dir=data_dir) as second:
        second.start()
        history = History()
        client = Client(history, second.tuning)
        tuned = client.create("trained-0")
        answer = tuned.train([sft(0)])
        if answer["step"] != steps[trained[0].id] + 1:
            verdict.violations.append(f"the restored service answered {answer['step']}")


def _answered(service: Service, trained: list[Tuned]) -> dict[str, int]:
    steps = _steps(service.data_dir / DATABASE_FILE)
    return {tuned.id: steps[tuned.id] for tuned in trained}


def _steps(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path, timeout=10)) as database:
        return dict(database.execute("SELECT id, step FROM finetunes").fetchall())


def _moontune(*words: str) -> None:
    command = [sys.executable, "-c", "from server.cli import main; main()", *words]
    subprocess.run(command, capture_output=True, text=True, check=True)
