"""How a running server is: what it says of itself, and what its machine says of it.

For `moontune status`. Nothing here changes anything.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from contract import disk
from server.config import ServerConfig
from server.data_lock import Holder, find_holder
from server.running import Caller, CallError

PROC = Path("/proc")
_STATUS_OF_REFUSED_KEY = (401, 403)
_KIB = 1024


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """What is known of a server.

    Attributes:
        url: Where it was asked.
        holder: The process that has the data directory, if one has.
        is_up: Whether it answers at all.
        is_ready: Whether it would work on a call now.
        detail: Why it would not; empty where it would.
        model: The name of what is loaded.
        waiting, running: Calls by class of work; None where the numbers are not for us.
        num_worker_starts: All but the first replace a worker that ended.
        num_finetunes: None where our key was refused.
        api_bytes, worker_bytes: Resident memory, where it runs on this machine.
        free_bytes: Of the disk of the data directory.
    """

    url: str
    holder: Holder | None = None
    is_up: bool = False
    is_ready: bool = False
    detail: str = ""
    model: str | None = None
    waiting: dict[str, int] | None = None
    running: dict[str, int] | None = None
    num_worker_starts: int | None = None
    num_finetunes: int | None = None
    api_bytes: int | None = None
    worker_bytes: int | None = None
    free_bytes: int | None = None
    notes: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def look_at(config: ServerConfig, server: Caller, *, proc: Path = PROC) -> ServerState:
    """Ask a server how it is.

    Args:
        config: Its data directory, where it is ours.
        proc: The process file system.
    """
    holder = find_holder(config.data_dir)
    if holder is not None and holder.url != server.url:
        holder = None  # another server than the one that was asked for
    facts: dict[str, Any] = {"url": server.url, "holder": holder}
    if holder is not None:
        facts["free_bytes"] = disk.free_bytes(config.data_dir)
        if holder.is_here and holder.pid is not None:
            facts["api_bytes"], facts["worker_bytes"] = _memory(holder.pid, proc)
    try:
        server.call("/healthz")
    except CallError as error:
        return ServerState(**facts, detail=str(error))
    facts["is_up"] = True
    try:
        facts["model"] = server.call("/readyz").get("model")
        facts["is_ready"] = True
    except CallError as error:
        facts["detail"] = str(error)
    notes: list[str] = []
    try:
        facts |= _numbers(server.text("/metrics"))
        facts["num_finetunes"] = sum(1 for _ in server.pages("/v1/tuning/finetunes", "finetunes"))
    except CallError as error:
        is_refused = error.status in _STATUS_OF_REFUSED_KEY
        notes.append("Set MOONTUNE_API_KEY to see more." if is_refused else str(error))
    return ServerState(**facts, notes=tuple(notes))


def _numbers(text: str) -> dict[str, Any]:
    """Read the few numbers of `/metrics` that are shown."""
    from prometheus_client.parser import text_string_to_metric_families as families

    waiting: dict[str, int] = {}
    running: dict[str, int] = {}
    starts: int | None = None
    for family in families(text):
        for sample in family.samples:
            match sample.name:
                case "moontune_calls_waiting":
                    waiting[sample.labels["work_class"]] = int(sample.value)
                case "moontune_calls_running":
                    running[sample.labels["work_class"]] = int(sample.value)
                case "moontune_worker_starts_total":
                    starts = int(sample.value)
                case _:
                    pass
    return {"waiting": waiting, "running": running, "num_worker_starts": starts}


def _memory(pid: int, proc: Path) -> tuple[int | None, int | None]:
    """Resident bytes of the API and of its worker, the one of its children that is a trainer."""
    children: list[int] = []
    for listed in proc.glob(f"{pid}/task/*/children"):
        children += map(int, _read(listed).split())
    workers = [child for child in children if b"trainer" in _words(proc, child)]
    return _resident(proc, pid), _resident(proc, workers[0]) if workers else None


def _resident(proc: Path, pid: int) -> int | None:
    for line in _read(proc / str(pid) / "status").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * _KIB
    return None


def _words(proc: Path, pid: int) -> list[bytes]:
    try:
        return (proc / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
