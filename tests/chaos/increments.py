"""`python -m tests.chaos.increments URL THREADS TIMES`: read-modify-writes of one number.

Prints how many failed, as JSON: {"done": 480, "refused": 0, "longest_seconds": 0.3}.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from sqlalchemy.orm import Session

from server.db.connection import Database
from server.db.models import Meta
from server.domain.errors import ServiceError

KEY = "chaos_count"


def increment(session: Session) -> None:
    row = session.get(Meta, KEY)
    if row is None:
        session.add(Meta(key=KEY, value="1"))
    else:
        row.value = str(int(row.value) + 1)


def count(session: Session) -> int:
    row = session.get(Meta, KEY)
    return 0 if row is None else int(row.value)


def main() -> None:
    url, num_threads, num_times = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    database = Database(url)
    seconds: list[float] = []
    refusals: list[ServiceError] = []

    def work() -> None:
        for _ in range(num_times):
            started = time.monotonic()
            try:
                database.write_blocking(increment)
            except ServiceError as error:
                refusals.append(error)
            seconds.append(time.monotonic() - started)

    threads = [threading.Thread(target=work) for _ in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    database.close()
    report = {
        "done": len(seconds) - len(refusals),
        "refused": len(refusals),
        "longest_seconds": max(seconds),
    }
    print(json.dumps(report))  # noqa: T201 - for who started us


if __name__ == "__main__":
    main()
