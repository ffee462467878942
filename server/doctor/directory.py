"""Checks of the data directory: whose it is, who sees it, its disk, what lies in it, its lock."""

from __future__ import annotations

import fnmatch
import pwd
import stat
from pathlib import Path

from contract.findings import Finding, fault, ok, warning
from server.config import DATABASE_FILE, ServerConfig
from server.data_lock import LOCK_FILE, PRIVATE_FOLDER, Holder
from server.doctor.machine import Machine
from server.running import Caller, CallError
from server.sweep_lease import LEASE_FILE
from server.verification import FOLDERS
from server.words import quoted, readable_bytes

OURS = (
    f"{DATABASE_FILE}*",
    LOCK_FILE,
    LEASE_FILE,
    *FOLDERS,
    "logs",
    "spool",
)
"""Names that the service makes in the data directory."""

NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "lustre", "glusterfs", "afs", "gpfs"}
)
NETWORK_BY_FUSE = ("fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse")
COMFORTABLE = 4
"""Times `min_free_bytes`: with less free a warning is in place."""

_MAX_NAMED = 5
_CALL_SECONDS = 5.0


def check_writable(machine: Machine, config: ServerConfig) -> Finding:
    """Whether we may make files in it."""
    folder = config.data_dir
    if folder.exists() and not folder.is_dir():
        return fault(
            "data-directory",
            f"{folder} is a file, not a folder.",
            "moontune serve --data-dir ANOTHER",
        )
    there = folder
    while not there.exists():
        there = there.parent
    if not machine.may_write(there):
        made = "" if there == folder else f", where {folder.name} is to be made"
        return fault(
            "data-directory",
            f"No files can be made in {there}{made}.",
            f"sudo chown {machine.uid} {quoted(there)} && chmod u+rwx {quoted(there)}, or"
            " --data-dir somewhere else",
        )
    if there != folder:
        return ok("data-directory", f"{folder} is made at the first start.")
    return ok("data-directory", f"Files can be made in {folder}.")


def check_owner(machine: Machine, config: ServerConfig) -> Finding | None:
    """Whether it and what lies in it belong to our user."""
    folder = config.data_dir
    if not folder.is_dir():
        return None
    foreign: dict[int, list[str]] = {}
    for path in [folder, *_listed(folder), *_listed(folder / "finetunes")]:
        try:
            owner = machine.owner_of(path)
        except OSError:
            continue  # it went meanwhile
        if owner != machine.uid:
            foreign.setdefault(owner, []).append(str(path))
    if not foreign:
        return ok("owner", "All of it is ours.")
    owner, paths = next(iter(foreign.items()))
    return fault(
        "owner",
        f"{_some(paths)} belongs to user {_user(owner)}; we are {_user(machine.uid)}.",
        f"sudo chown -R {machine.uid} {quoted(folder)}, or run moontune as that user",
    )


def check_permissions(config: ServerConfig) -> Finding | None:
    """Whether others on this machine can read or change what lies in it."""
    folder = config.data_dir
    if not folder.is_dir():
        return None
    mode = folder.stat().st_mode & 0o777
    cure = f"chmod 700 {quoted(folder)}"
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        return fault(
            "permissions", f"Others may change {folder} (mode {mode:o}): weights and keys.", cure
        )
    if mode & ~PRIVATE_FOLDER:
        return warning("permissions", f"Others may look into {folder} (mode {mode:o}).", cure)
    return ok("permissions", "Nobody else can look into it.")


def check_disk(machine: Machine, config: ServerConfig) -> Finding:
    """Whether train steps have room."""
    free, least = machine.free_bytes(config.data_dir), config.min_free_bytes
    told = f"The disk of {config.data_dir} has {readable_bytes(free)} free"
    cure = (
        "make room there: `moontune finetunes delete` and `moontune checkpoints delete` remove what"
        " is not needed"
    )
    if free < least:
        return fault(
            "disk",
            f"{told}; train steps are refused below {readable_bytes(least)}"
            " (MOONTUNE_MIN_FREE_BYTES).",
            cure,
        )
    if free < COMFORTABLE * least:
        return warning(
            "disk", f"{told}; train steps are refused below {readable_bytes(least)}.", cure
        )
    return ok("disk", f"{told}.")


def check_file_system(machine: Machine, config: ServerConfig) -> Finding:
    """Whether the disk is one of this machine; others have no locks that hold."""
    kind = _file_system(machine.proc / "self" / "mountinfo", config.data_dir.resolve())
    if kind in NETWORK or kind in NETWORK_BY_FUSE:
        return fault(
            "file-system",
            f"{config.data_dir} lies on a network file system ({kind}), which has no locks that"
            " hold: databases break there.",
            "moontune serve --data-dir on a disk of this machine; `moontune backup` may write to"
            " the network",
        )
    return ok("file-system", f"{config.data_dir} lies on {kind or 'a file system'}.")


def check_strangers(config: ServerConfig) -> Finding | None:
    """Whether something lies in it that is not ours."""
    folder = config.data_dir
    if not folder.is_dir():
        return None
    others = [
        path.name
        for path in _listed(folder)
        if not any(fnmatch.fnmatch(path.name, pattern) for pattern in OURS)
    ]
    if others:
        return warning(
            "strangers",
            f"{_some(others)} in {folder} is not of this server; no backup holds it.",
            f"ls -la {quoted(folder)} and move it elsewhere",
        )
    return ok("strangers", "Nothing else lies in it.")


def check_lock(machine: Machine, config: ServerConfig, holder: Holder | None) -> Finding:
    """Whether a server could have it now."""
    if holder is None:
        return ok("lock", "No server has it.")
    if holder.pid is None:
        return warning("lock", "A server is just starting on it.", "moontune status")
    who = f"process {holder.pid} on {holder.host}, started {holder.started_at}"
    if holder.host != machine.hostname:
        return fault(
            "lock",
            f"{config.data_dir} belongs to a server on another machine ({who}).",
            f"stop it there (kill {holder.pid}), or --data-dir somewhere else",
        )
    if holder.url is None or not _answers(holder.url):
        return fault(
            "lock",
            f"{config.data_dir} belongs to {who}, which does not answer.",
            f"kill {holder.pid} (or wait, where it is `moontune import`), or --data-dir somewhere"
            " else",
        )
    is_ours = holder.url.endswith(f":{config.port}") or config.port == 0
    if is_ours:
        return ok("lock", f"A server runs on it: {holder.url}, {who}.")
    return warning(
        "lock",
        f"A server runs on it at {holder.url} ({who}); another cannot.",
        f"kill -INT {holder.pid} stops it, or --data-dir somewhere else",
    )


def _answers(url: str) -> bool:
    try:
        Caller(url, seconds=_CALL_SECONDS).call("/healthz")
    except CallError:
        return False
    return True


def _file_system(mounts: Path, path: Path) -> str | None:
    """The kind of the file system that a path is on: that of the longest mount point above it."""
    best, kind = -1, None
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        before, _, after = line.partition(" - ")
        point = before.split()[4].replace("\\040", " ")
        if path.is_relative_to(point) and len(point) >= best:  # the last one hides those before
            best, kind = len(point), after.split()[0]
    return kind


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} ({uid})"
    except KeyError:
        return str(uid)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more
