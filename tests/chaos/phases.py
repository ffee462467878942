"""In which phase of a train step somebody was killed, as far as it can be seen from outside.

    before the row   the call was made, no row of the ledger knows it
    computing        its row runs, no file of its step is there
    writing          some of its files are there, not all under their names
    before commit    both files have their names, the row still runs
    after commit     the row is done, the caller has no answer yet
    answering        the caller has the answer, its delivery is not recorded yet

The API is stopped for the moment of the look, and the worker is dead by then, so nothing moves.
"""

from __future__ import annotations

import os
import signal
import sqlite3
from dataclasses import dataclass
from enum import StrEnum

from tests.chaos.history import Call, History
from tests.chaos.service import Life, Service


class Phase(StrEnum):
    BEFORE_ROW = "before the row"
    COMPUTING = "computing"
    WRITING = "writing"
    BEFORE_COMMIT = "before commit"
    AFTER_COMMIT = "after commit"
    ANSWERING = "answering"


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One kill of a worker.

    Attributes:
        phase: Of the train step that was watched; None: no step was under way.
        others: The verbs of the other calls under way.
        hit: Every call under way.
    """

    phase: Phase | None
    others: tuple[str, ...]
    hit: tuple[Call, ...]


class Watch:
    """Looks at the train steps of one finetune, by row and by file name."""

    def __init__(self, service: Service, finetune_id: str):
        self._service = service
        self._finetune_id = finetune_id
        self._folder = service.data_dir / "finetunes" / finetune_id
        self._database = sqlite3.connect(
            service.database_path, isolation_level=None, check_same_thread=False
        )

    def close(self) -> None:
        self._database.close()

    def phase(self, call: Call) -> Phase | None:
        """Where a train step of this finetune is; its body is unlike any other."""
        has_answer = not call.is_running
        row = self._database.execute(
            "SELECT state, step FROM train_requests WHERE finetune_id = ? AND fingerprint = ?",
            (self._finetune_id, call.fingerprint),
        ).fetchone()
        if row is None:
            return None if has_answer else Phase.BEFORE_ROW
        if row[0] == "delivered":
            return None if has_answer else Phase.ANSWERING
        if row[0] == "done":
            return Phase.ANSWERING if has_answer else Phase.AFTER_COMMIT
        return self._phase_of_files()

    def _phase_of_files(self) -> Phase:
        (step,) = self._database.execute(
            "SELECT step FROM finetunes WHERE id = ?", (self._finetune_id,)
        ).fetchone()
        mark = f"{step + 1:08d}-"
        names = os.listdir(self._folder) if self._folder.is_dir() else []
        ours = [name for name in names if mark in name]
        complete = [name for name in ours if name.startswith(mark) and name.endswith("safetensors")]
        if len(complete) >= 2:
            return Phase.BEFORE_COMMIT
        return Phase.WRITING if ours else Phase.COMPUTING

    def kill(self, worker: Life, history: History, call: Call) -> Kill:
        """Kill a worker, and see what it was at."""
        self._service.signal(signal.SIGSTOP)
        try:
            worker.kill()
            phase = self.phase(call)
            hit = tuple(history.running())
        finally:
            self._service.signal(signal.SIGCONT)
        others = tuple(other.verb for other in hit if other is not call)
        return Kill(phase=phase, others=others, hit=hit)
