"""The one judge of all bars: what clients were told against what the database and the files say.

    answered is a subset of applied; each applied step belongs to one call; with no call abandoned
    applied equals answered; the order of a client is the order of its steps; nothing in the ledger
    still runs; every file that counts is there with its SHA-256; no file is there that does not
    count; the database finds itself sound; weights and optimizer are those of an undisturbed run.

It stops the service, starts it once more, since the start is what sweeps, and stops it again.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, RowMapping, text

from tests.chaos.history import Call, History
from tests.chaos.service import Service
from tests.chaos.state_files import file_digest
from tests.chaos.undisturbed import Run, Undisturbed, newest_state

NUM_STATES_KEPT = 2
OTHER_FILES = (
    "lock",
    "sweep.lock",
    "moontune.db",
    "moontune.db-wal",
    "moontune.db-shm",
    "logs/worker.log",
)
"""What lies in a data directory besides the files of states; backups are made by upgrades."""
OTHER_FOLDERS = ("backups/",)


@dataclass(kw_only=True)
class Verdict:
    """What was counted, and every sentence about what must not be; empty is what is wanted.

    Attributes:
        skipped: What was not tried, and why; a sentence each.
    """

    figures: dict[str, Any] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def add(self, other: Verdict) -> None:
        """Take another verdict in: numbers are summed."""
        self.violations += other.violations
        self.skipped += other.skipped
        for name, value in other.figures.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self.figures[name] = self.figures.get(name, 0) + value
            else:
                self.figures[name] = value

    def demand(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.violations.append(otherwise)


@dataclass(frozen=True, kw_only=True)
class _Finetune:
    """A living finetune with its rows by step."""

    ordinal: int
    id: str
    rank: int
    step: int
    rows: dict[int, RowMapping]
    requests: tuple[RowMapping, ...]


def check(
    service: Service,
    history: History,
    undisturbed: Undisturbed | None,
    *,
    may_merge: bool = False,
) -> Verdict:
    """Judge a run that is over.

    Args:
        undisturbed: Knows the states to compare with; None: they are not compared.
        may_merge: Whether equal steps that were asked for at the same time count as one.
    """
    assert not history.running(), "a run is judged when its calls have ended"
    verdict = Verdict()
    verdict.violations += history.unexpected_errors()
    if service.is_running:
        status = service.stop()
        verdict.demand(status == 0, f"the API stopped with status {status}")
    service.start(ready=False)
    service.until_healthy()
    verdict.demand(service.stop() == 0, "the API that swept stopped in disorder")
    with service.look() as database:
        _check_database(database, verdict)
        living = _living(database)
        runs = [
            Run(
                ordinal=finetune.ordinal,
                rank=finetune.rank,
                bodies=_check_steps(finetune, history, verdict, may_merge=may_merge),
            )
            for finetune in living
        ]
        _check_files(service.data_dir, _pinned(database, living), verdict)
    verdict.figures["finetunes"] = len(living)
    verdict.figures["calls"] = len(history.calls)
    if undisturbed is not None:
        _check_states(service, living, runs, undisturbed, verdict)
    return verdict


# --- the database

_CHECK_INDEXES = """
SELECT bt_index_parent_check(index.oid, heapallindexed => true)
FROM pg_class AS index JOIN pg_am AS method ON method.oid = index.relam
WHERE index.relkind = 'i' AND method.amname = 'btree'
    AND index.relnamespace = 'public'::regnamespace
"""
"""Of PostgreSQL: each index is whole, and has every row of its table."""


def _check_database(database: Connection, verdict: Verdict) -> None:
    if database.dialect.name == "sqlite":
        sound = database.execute(text("PRAGMA integrity_check")).scalars().all()
        verdict.demand(sound == ["ok"], f"integrity_check: {sound}")
        dangling = database.execute(text("PRAGMA foreign_key_check")).all()
        verdict.demand(not dangling, f"foreign_key_check: {len(dangling)} rows")
    else:
        database.execute(text("CREATE EXTENSION IF NOT EXISTS amcheck"))
        num_checked = len(database.execute(text(_CHECK_INDEXES)).all())  # raises at damage
        verdict.demand(num_checked > 0, "amcheck found no index to look at")
    running = database.execute(
        text("SELECT count(*) FROM train_requests WHERE state = 'running'")
    ).scalar_one()
    verdict.demand(running == 0, f"{running} rows of the ledger still run")


def _living(database: Connection) -> list[_Finetune]:
    found = _rows(
        database,
        "SELECT ordinal, id, rank, step FROM finetunes WHERE deleted_at_ms IS NULL"
        " ORDER BY ordinal",
    )
    steps = "SELECT * FROM train_steps WHERE finetune_id = :id"
    requests = "SELECT * FROM train_requests WHERE finetune_id = :id ORDER BY seq"
    return [
        _Finetune(
            ordinal=row["ordinal"],
            id=row["id"],
            rank=row["rank"],
            step=row["step"],
            rows={step["step"]: step for step in _rows(database, steps, id=row["id"])},
            requests=tuple(_rows(database, requests, id=row["id"])),
        )
        for row in found
    ]


def _rows(database: Connection, query: str, **values: Any) -> Sequence[RowMapping]:
    return database.execute(text(query), values).mappings().all()


# --- steps against calls


def _check_steps(
    finetune: _Finetune, history: History, verdict: Verdict, *, may_merge: bool
) -> tuple[bytes, ...]:
    """Compare the steps of a finetune with its calls; return the bodies that were applied."""
    name, rows = f"finetune {finetune.ordinal}", finetune.rows
    calls = history.of("train_step", finetune.id)
    answered = defaultdict[int, list[Call]](list)
    for call in calls:
        if call.is_ok:
            answered[call.step].append(call)
    verdict.demand(
        sorted(rows) == list(range(1, finetune.step + 1)),
        f"{name}: its step is {finetune.step}, its rows are {_short(sorted(rows))}",
    )
    lost = sorted(set(answered) - set(rows))
    verdict.demand(not lost, f"{name}: answered, not applied: steps {_short(lost)}")
    abandoned = [call for call in calls if not call.is_ok]
    extra = sorted(set(rows) - set(answered))
    verdict.demand(
        len(extra) <= len(abandoned),
        f"{name}: steps {_short(extra)} were applied, answered to nobody, and"
        f" {len(abandoned)} calls were abandoned",
    )
    for step, owners in answered.items():
        _check_owners(name, step, owners, rows, verdict, may_merge=may_merge)
    _check_order(name, [call for call in calls if call.is_ok], verdict)
    fingerprints = {row["step"]: row["fingerprint"] for row in finetune.requests}
    bodies: list[bytes] = []
    for step in sorted(rows):
        owner = answered[step][0] if answered[step] else _abandoned(abandoned, fingerprints, step)
        if owner is None:
            verdict.violations.append(f"{name}: step {step} belongs to no call")
            continue
        known = fingerprints.get(step, owner.identity)
        verdict.demand(
            known == owner.identity, f"{name}: the ledger has another body for step {step}"
        )
        bodies.append(owner.body)
    verdict.figures["applied"] = verdict.figures.get("applied", 0) + len(rows)
    verdict.figures["answered"] = verdict.figures.get("answered", 0) + sum(
        len(owners) for owners in answered.values()
    )
    return tuple(bodies)


def _check_owners(
    name: str,
    step: int,
    owners: list[Call],
    rows: dict[int, RowMapping],
    verdict: Verdict,
    *,
    may_merge: bool,
) -> None:
    verdict.demand(
        may_merge or len(owners) == 1, f"{name}: step {step} was answered to {len(owners)} calls"
    )
    bodies = {call.fingerprint for call in owners}
    verdict.demand(len(bodies) == 1, f"{name}: step {step} has {len(bodies)} different bodies")
    if step in rows:
        stored = json.loads(rows[step]["response"])
        same = all(call.result == stored for call in owners)
        verdict.demand(same, f"{name}: the answer of step {step} is not the stored one")


def _check_order(name: str, answered: Iterable[Call], verdict: Verdict) -> None:
    """What ended before another began has the smaller step."""
    newest = 0
    events = sorted(
        [(call.invoked_at, 0, call) for call in answered]
        + [(call.ended_at or 0.0, 1, call) for call in answered],
        key=lambda event: event[:2],
    )
    floor = dict[int, int]()
    for _, is_end, call in events:
        if is_end:
            newest = max(newest, call.step)
            verdict.demand(
                call.step > floor[call.number],
                f"{name}: call {call.number} began after step {floor[call.number]} was answered"
                f" and got step {call.step}",
            )
        else:
            floor[call.number] = newest


def _abandoned(calls: list[Call], fingerprints: dict[int, str], step: int) -> Call | None:
    """The abandoned call that a step was applied for; taken out of the list."""
    wanted = fingerprints.get(step)
    for call in calls:
        if wanted in (None, call.identity):
            calls.remove(call)
            return call
    return None


# --- files


def _pinned(database: Connection, living: list[_Finetune]) -> dict[str, str]:
    """Every file that counts, relative to the data directory, with its digest."""
    pinned: dict[str, str] = {}
    kinds = ("weights", "optimizer", "exchange", "origin_weights")

    def pin(row: RowMapping) -> None:
        for kind in kinds:
            path = row.get(f"{kind}_path")
            if path is not None:
                pinned[path] = row[f"{kind}_digest"]

    checkpoints = "SELECT * FROM checkpoints WHERE finetune_id = :id AND deleted_at_ms IS NULL"
    origins = "SELECT origin_weights_path, origin_weights_digest FROM finetunes WHERE id = :id"
    for finetune in living:
        for step, row in finetune.rows.items():
            if step > finetune.step - NUM_STATES_KEPT:
                pin(row)
        for row in _rows(database, checkpoints, id=finetune.id):
            pin(row)
        if finetune.step < NUM_STATES_KEPT:
            for row in _rows(database, origins, id=finetune.id):
                pin(row)
    for row in _rows(database, "SELECT path, digest FROM batch_files"):
        pinned[row["path"]] = row["digest"]
    return pinned


def _check_files(data_dir: Path, pinned: dict[str, str], verdict: Verdict) -> None:
    there = {str(path.relative_to(data_dir)) for path in data_dir.rglob("*") if path.is_file()}
    missing = sorted(set(pinned) - there)
    verdict.demand(not missing, f"files that rows name are missing: {_short(missing)}")
    damaged = [
        path
        for path, digest in pinned.items()
        if path in there and file_digest(data_dir / path) != digest
    ]
    verdict.demand(not damaged, f"files differ from the digest of their row: {_short(damaged)}")
    unaccounted = sorted(
        path
        for path in there - set(pinned)
        if path not in OTHER_FILES and not path.startswith(OTHER_FOLDERS)
    )
    verdict.demand(not unaccounted, f"files that nothing accounts for: {_short(unaccounted)}")
    verdict.figures["files_verified"] = len(pinned)


# --- states


def _check_states(
    service: Service,
    living: list[_Finetune],
    runs: list[Run],
    undisturbed: Undisturbed,
    verdict: Verdict,
) -> None:
    differing = Counter[str]()
    for finetune, run, wanted in zip(living, runs, undisturbed.states(runs), strict=True):
        state = newest_state(service, finetune.id)
        for what in ("weights", "optimizer"):
            if getattr(state, what) != getattr(wanted, what):
                differing[what] += 1
                verdict.violations.append(
                    f"finetune {finetune.ordinal}: after {len(run.bodies)} steps the {what} differ"
                    " from those of an undisturbed run"
                )
    verdict.figures["states_bit_identical"] = len(living) - max(differing.values(), default=0)


def _short(items: list[Any]) -> str:
    shown = ", ".join(map(str, items[:6]))
    return f"[{shown}{f', ... {len(items)} in all' if len(items) > 6 else ''}]"
