"""R11: who writes at once loses nothing; who finds the database locked waits or hears 503.

Three parts: two processes that count, an outsider that holds the write lock of a service under
load, and a reader that does not end beside a writer at full speed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.orm import Session

from server.config import ServerConfig
from server.db import migrate, write_ahead
from server.db.connection import Database
from server.db.models import Meta
from server.domain.errors import OverloadedError
from tests.chaos.bench import Bench, Verdict, crew
from tests.chaos.increments import count
from tests.chaos.service import Service

ID = "R11"
TITLE = "two processes write, an outsider locks, a reader does not end"
NUM_PROCESSES = 2
NUM_THREADS = 8
NUM_TIMES = 60
ANSWER_SECONDS = 10.0
CLIENT_SECONDS = 60.0
VALUE_BYTES = 1 << 20


def run(bench: Bench) -> Verdict:
    verdict = Verdict()
    folder = Path(tempfile.mkdtemp(prefix="chaos-r11-"))
    try:
        verdict.add(count_together(folder / "count"))
        verdict.add(read_for_ever(folder / "read"))
    finally:
        shutil.rmtree(folder)
    with bench.service("r11") as service:
        service.start()
        for seconds in (1, 5, 30) if bench.is_full else (1, 5):
            verdict.add(lock_out(service, seconds))
    return verdict


def count_together(data_dir: Path) -> Verdict:
    """Two processes with eight threads add to one number, by reading and writing it."""
    url = _migrated(data_dir)
    command = [sys.executable, "-m", "tests.chaos.increments", url]
    processes = [
        subprocess.Popen(
            [*command, str(NUM_THREADS), str(NUM_TIMES)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(NUM_PROCESSES)
    ]
    reports = [json.loads(process.communicate()[0]) for process in processes]
    database = Database(url)
    counted = database.read_blocking(count)
    database.close()
    wanted = NUM_PROCESSES * NUM_THREADS * NUM_TIMES
    refused = sum(report["refused"] for report in reports)
    verdict = Verdict(
        figures={
            "updates": counted,
            "refused": refused,
            "lost": wanted - refused - counted,
            "longest_wait_seconds": max(report["longest_seconds"] for report in reports),
        }
    )
    if counted != wanted:
        verdict.violations.append(f"{wanted} updates were made, {counted} are left")
    return verdict


def lock_out(service: Service, seconds: float) -> Verdict:
    """An outsider takes the write lock; eight callers write and read all the while."""
    statuses: Counter[str] = Counter()
    slowest = 0.0
    verdict = Verdict()
    with service.database() as outsider, crew() as callers:
        outsider.execute("BEGIN IMMEDIATE")
        locked_at = time.monotonic()

        def call(number: int) -> None:
            nonlocal slowest
            while not callers.stop.is_set():
                started = time.monotonic()
                body = {"name": f"r11-{seconds}-{number}-{started}", "rank": 8}
                status, answer = service.post("/v1/tuning/finetunes", body, timeout=CLIENT_SECONDS)
                statuses[f"written_{status}"] += 1
                slowest = max(slowest, time.monotonic() - started)
                if status not in (200, 503):
                    verdict.violations.append(f"a locked database gave {status}: {answer}")
                status, answer = service.get("/v1/tuning/finetunes", timeout=CLIENT_SECONDS)
                statuses[f"read_{status}"] += 1
                if status != 200:
                    verdict.violations.append(f"reading gave {status}: {answer}")

        for number in range(NUM_THREADS):
            callers.start(lambda number=number: call(number))
        time.sleep(max(0.0, seconds - (time.monotonic() - locked_at)))
        outsider.execute("ROLLBACK")
        before = statuses["written_200"]
        end = time.monotonic() + ANSWER_SECONDS
        while statuses["written_200"] < before + NUM_THREADS and time.monotonic() < end:
            time.sleep(0.01)
        if statuses["written_200"] < before + NUM_THREADS:
            verdict.violations.append(f"{seconds} s: writes do not go on after the lock is free")
    verdict.figures[f"locked_{seconds}_s"] = {**statuses, "slowest_seconds": slowest}
    if slowest > ANSWER_SECONDS + 1:  # the load of this machine
        verdict.violations.append(f"an answer took {slowest:.1f} s, more than {ANSWER_SECONDS}")
    return verdict


def read_for_ever(data_dir: Path) -> Verdict:
    """A reader begins and does not end; a writer writes until it is held back, and goes on."""
    database = Database(_migrated(data_dir))
    log = data_dir / "moontune.db-wal"
    largest, num_writes = 0, 0

    def write(session: Session) -> None:
        nonlocal num_writes
        num_writes += 1
        session.merge(Meta(key="chaos_large", value=os.urandom(VALUE_BYTES // 2).hex()))

    def read(session: Session) -> bool:
        nonlocal largest
        session.execute(text("SELECT count(*) FROM meta")).scalar_one()
        while num_writes < 2 * write_ahead.MAX_BYTES // VALUE_BYTES:
            try:
                database.write_blocking(write)
            except OverloadedError:
                return True
            finally:
                largest = max(largest, log.stat().st_size)
        return False

    verdict = Verdict()
    was_held = database.read_blocking(read)
    database.write_blocking(write)  # the reader has ended
    verdict.figures = {
        "log_largest_mib": largest / 2**20,
        "log_after_mib": log.stat().st_size / 2**20,
        "written_mib": num_writes * VALUE_BYTES / 2**20,
    }
    if not was_held:
        verdict.violations.append("the writer was never held back, so nothing was shown")
    if largest > write_ahead.MAX_BYTES:
        verdict.violations.append(f"the log came to {largest} bytes")
    database.close()
    return verdict


def _migrated(data_dir: Path) -> str:
    config = ServerConfig(data_dir=data_dir)
    migrate.upgrade(config)
    return config.resolved_database_url
