"""Checks of the process that would serve: Python, its limits, its clock, what it prints to."""

from __future__ import annotations

from contract import python
from contract.findings import Finding, fault, ok, warning
from server.config import ServerConfig
from server.doctor.machine import Machine
from server.ready import PREFIX
from server.words import readable_bytes

RELEASED_AT_MS = 1_790_000_000_000
"""A day of 2026, before this release: no clock that is right shows an earlier one."""

FILES_PER_CONNECTION = 5
"""One that is read from and four that are held, for each of `max_connections`."""
OTHER_FILES = 256
LEAST_TEMPORARY_BYTES = 64 << 20
_MARKS = f"{PREFIX}·"


def check_python(machine: Machine) -> Finding:
    """Whether Python is new enough."""
    complaint = python.complaint(machine.python)
    if complaint is None:
        return ok("python", f"Python {machine.python[0]}.{machine.python[1]}.")
    oldest = ".".join(map(str, python.OLDEST))
    return fault(
        "python",
        complaint,
        f"python{oldest} -m venv .venv && .venv/bin/pip install moontune",
    )


def check_output(machine: Machine) -> Finding:
    """Whether the ready line can be printed."""
    try:
        _MARKS.encode(machine.encoding)
    except (UnicodeEncodeError, LookupError):
        return fault(
            "output",
            f"What is printed is encoded as {machine.encoding}, which lacks characters that the"
            " server prints.",
            "export PYTHONUTF8=1 (or LC_ALL=C.UTF-8)",
        )
    return ok("output", f"Text is printed as {machine.encoding}.")


def check_open_files(machine: Machine, config: ServerConfig) -> Finding:
    """Whether so many connections as are allowed can be open files."""
    wanted = FILES_PER_CONNECTION * config.max_connections + OTHER_FILES
    least = config.max_connections + OTHER_FILES
    limit = machine.max_open_files
    if limit < 0 or limit >= wanted:  # -1: no limit
        return ok("open-files", f"{'Any number of' if limit < 0 else limit} files may be open.")
    tell = fault if limit < least else warning
    return tell(
        "open-files",
        f"{limit} files may be open; {config.max_connections} connections"
        f" (MOONTUNE_MAX_CONNECTIONS) and those that wait want {wanted}.",
        f"ulimit -Hn {wanted} as root (systemd: LimitNOFILE={wanted}), or"
        f" export MOONTUNE_MAX_CONNECTIONS={max(1, (limit - OTHER_FILES) // FILES_PER_CONNECTION)}",
    )


def check_temporary(machine: Machine) -> Finding:
    """Whether temporary files have room."""
    folder = machine.temporary
    if not folder.is_dir() or not machine.may_write(folder):
        return fault(
            "temporary",
            f"No files can be made in {folder}, the folder for temporary ones.",
            f"mkdir -p {folder} && chmod 1777 {folder} as root, or export TMPDIR=FOLDER",
        )
    free = machine.free_bytes(folder)
    if free < LEAST_TEMPORARY_BYTES:
        return fault(
            "temporary",
            f"{folder} has {readable_bytes(free)} free; torch and pulls need some room there.",
            f"remove files from {folder}, or export TMPDIR=FOLDER on another disk",
        )
    return ok("temporary", f"{folder} has {readable_bytes(free)} free.")


def check_clock(machine: Machine) -> Finding:
    """Whether the clock shows a time that can be."""
    if machine.now_ms() < RELEASED_AT_MS:
        return fault(
            "clock",
            "The clock of this machine shows a time before this release was made; stamps and links"
            " would be wrong.",
            "sudo timedatectl set-ntp true",
        )
    return ok("clock", "The clock shows a time that can be.")
