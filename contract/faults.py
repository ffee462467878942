"""Fault points: places where a test may have a process die, hang, slow down or fail.

    faults.point("train.written")      does nothing, unless armed

    faults.arm("train.written=exit@3")   in `__main__`, from the configuration, never by itself

A spec is a comma-separated list of `point=action@k`: at the k-th visit of that point (1 when left
out) the action happens once. A trailing `!` makes it happen in every process that is started with
the spec; without it the supervisor hands it to the first worker only, so that a replaced one lives.

    exit      end at once, as after SIGKILL: no clean-up, no flush
    segv      end by SIGSEGV, as after a fault in native code
    hang      never return
    oom       raise MemoryError, which the trainer turns into its device's own
    nan       `spoiled` says so once; the caller spoils its number
    eio       raise OSError(EIO);   enospc: raise OSError(ENOSPC)
    slow:MS   sleep that many milliseconds, at every visit from the k-th on

`python -m contract.faults` lists the points. Off, a visit costs one look at an empty dictionary.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass

POINTS: dict[str, str] = {
    # --- trainer: one train step, in order
    "train.begin": "a train step has its turn on the device",
    "train.plan": "its groups were validated and planned",
    "train.forward": "before the passes over a pack",
    "train.backward": "before the gradient of a pack",
    "train.loss": "where the loss of a pack is known (nan)",
    "train.gradient": "where the gradient norm is known (nan)",
    "train.update": "before the new weights are computed",
    "train.state": "the new state is in memory, nothing is written",
    "train.written": "both files are durable, nobody knows yet",
    "train.answer": "before the result is told",
    # --- trainer: other verbs
    "rollouts.begin": "a rollouts call was taken",
    "rollouts.tick": "before a token is drawn for all rows",
    "rollouts.answer": "before its result is told",
    "answer.begin": "an inference call was taken",
    "export.begin": "before an exchange file is made",
    "export.written": "the exchange file is durable, nobody knows yet",
    "adapter.load": "before a state file is read",
    "worker.start": "before the model is loaded",
    "worker.load": "while the model is loaded",
    "worker.ready": "before readiness is told",
    # --- both: the one module that writes files
    "file.create": "before a file is created",
    "file.write": "before a file's bytes are written",
    "file.sync": "before a file is flushed to the disk",
    "file.rename": "before a file gets its name",
    "file.sync_directory": "before its directory is flushed",
    "file.remove": "before a file is removed",
    # --- API: a train step
    "step.received": "a body was read and validated",
    "step.admitted": "the step has its place",
    "step.recorded": "its row stands in the ledger",
    "step.computed": "the worker has answered",
    "step.commit": "inside the transaction that makes it count",
    "step.committed": "after that transaction, before the answer",
    "step.deliver": "the verdict on the answer is known, not recorded",
    # --- API: other calls
    "finetune.create": "inside the transaction that makes a finetune",
    "finetune.created": "after it",
    "finetune.delete": "inside the transaction that deletes a finetune",
    "finetune.deleted": "after it, before its files go",
    "checkpoint.save": "inside the transaction that saves a checkpoint",
    "checkpoint.saved": "after it",
    "checkpoint.delete": "inside the transaction that deletes one",
    "export.commit": "inside the transaction that names an exchange file",
    "metrics.log": "inside the transaction that logs metrics",
    "rollouts.received": "a rollouts body was read and validated",
    "rollouts.made": "the worker has answered a rollouts call",
    # --- API: a batch
    "batch.part": "inside the transaction that names a part of an upload",
    "batch.complete": "inside the transaction that makes a batch of an upload",
    "batch.chunked": "inside the transaction that says how many lines a batch has",
    "batch.answered": "inside the transaction that makes the answers of some lines count",
    "batch.finish": "inside the transaction that names the outputs of a batch",
    "batch.remove": "inside the transaction after which nothing of a batch counts",
}
"""Every point by name, and where it lies."""

ACTIONS = ("exit", "segv", "hang", "oom", "nan", "eio", "enospc", "slow")
EXIT_STATUS = 137
_SPEC = re.compile(r"(?P<point>[a-z_.]+)=(?P<action>[a-z]+)(:(?P<ms>\d+))?(@(?P<visit>\d+))?!?")


@dataclass(frozen=True, kw_only=True)
class _Fault:
    action: str
    visit: int
    milliseconds: int = 0


_armed: dict[str, _Fault] = {}
_visits: Counter[str] = Counter()
_lock = threading.Lock()


def arm(spec: str) -> None:
    """Arm the faults of a spec in this process, replacing what was armed; an empty one disarms.

    Raises:
        ValueError: A point or an action is unknown.
    """
    parts = _parts(spec)
    faults = {part.partition("=")[0]: _parse(part) for part in parts}
    if len(faults) < len(parts):
        raise ValueError(f"{spec!r} names a point twice; one fault a point")
    with _lock:
        _armed.clear()
        _visits.clear()
        _armed.update(faults)


def for_later_lives(spec: str) -> str:
    """What of a spec a process gets that replaces another one: the parts that end with `!`."""
    return ",".join(part for part in _parts(spec) if part.endswith("!"))


def point(name: str) -> None:
    """Visit a point; what is armed there happens.

    Raises:
        OSError: `eio` or `enospc`.
        MemoryError: `oom`.
    """
    if _armed and (fault := _due(name)) is not None:
        _happen(name, fault)


def spoiled(name: str) -> bool:
    """Visit a point where a number may turn into NaN; say whether it does."""
    if not _armed:
        return False
    fault = _due(name)
    if fault is not None and fault.action != "nan":
        _happen(name, fault)
    return fault is not None and fault.action == "nan"


def _due(name: str) -> _Fault | None:
    assert name in POINTS, f"{name} is not a fault point"
    with _lock:
        fault = _armed.get(name)
        if fault is None:
            return None
        _visits[name] += 1
        is_due = _visits[name] == fault.visit
        if fault.action == "slow":
            is_due = _visits[name] >= fault.visit
    return fault if is_due else None


def _happen(name: str, fault: _Fault) -> None:
    match fault.action:
        case "exit":
            os._exit(EXIT_STATUS)
        case "segv":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hang":
            threading.Event().wait()
        case "slow":
            time.sleep(fault.milliseconds / 1000)
        case "oom":
            raise MemoryError(f"fault point {name}")
        case "eio":
            raise OSError(errno.EIO, os.strerror(errno.EIO), name)
        case "enospc":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        case _:
            return


def _parts(spec: str) -> list[str]:
    return [part.strip() for part in spec.split(",") if part.strip()]


def _parse(part: str) -> _Fault:
    match = _SPEC.fullmatch(part)
    if match is None:
        raise ValueError(f"{part!r} is no fault; wanted is point=action@k, such as a.b=exit@1")
    if match["point"] not in POINTS:
        raise ValueError(
            f"{match['point']!r} is no fault point; python -m contract.faults lists all"
        )
    if match["action"] not in ACTIONS:
        raise ValueError(f"{match['action']!r} is no fault; there are {', '.join(ACTIONS)}")
    if match["action"] == "nan" and "(nan)" not in POINTS[match["point"]]:
        raise ValueError(f"no number is spoiled at {match['point']!r}")
    return _Fault(
        action=match["action"],
        visit=int(match["visit"] or 1),
        milliseconds=int(match["ms"] or 0),
    )


def main() -> None:
    """List the points."""
    for name, meaning in POINTS.items():
        sys.stdout.write(f"{name:20} {meaning}\n")


if __name__ == "__main__":
    main()
