"""Checks of the address: host, port, who could call, and what stands between."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

from contract.findings import Finding, fault, ok, warning
from server.config import DATABASE_FILE, ServerConfig
from server.data_lock import Holder
from server.db import api_keys
from server.db.connection import Database
from server.doctor.machine import Machine
from server.ready import base_url
from server.running import Caller, CallError

LARGE_BODY_BYTES = 2 << 20
"""Above the usual limit of a proxy, 1 MiB, and below what a picture takes."""
_LISTENING = "0A"
_CALL_SECONDS = 10.0
_MAKE_KEY = "moontune keys create --name NAME"


def check_address(machine: Machine, config: ServerConfig, holder: Holder | None) -> Finding:
    """Whether the host is ours and the port is free, or taken by the server of this directory."""
    host, port = config.host, config.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        return fault(
            "address",
            f"The host {host} is not known: {error.strerror}.",
            "moontune serve --host 127.0.0.1, or another name or address of this machine",
        )
    with closing(socket.socket(family, kind, protocol)) as trying:
        trying.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trying.bind(address)
            if port:
                trying.listen(1)  # two may be bound to a port of which none listens
        except OSError as error:
            return _refused(machine, config, holder, error)
    return ok("address", f"{host} port {port} can be used.")


def check_exposure(config: ServerConfig) -> Finding:
    """Whether others can call without a key."""
    if not config.is_exposed:
        return ok("exposure", "Only this machine can call.")
    if config.api_key is not None or _has_keys(config):
        return ok("exposure", "Callers need a key.")
    reach = f"{config.host} can be reached from other machines, and there is no key"
    instead = "--host 127.0.0.1"
    if config.is_loopback:
        reach = "MOONTUNE_PUBLIC_URL leads others here, and there is no key"
        instead = "unset MOONTUNE_PUBLIC_URL"
    if config.allow_open:
        return warning("exposure", f"{reach}: everybody who reaches it could call.", _MAKE_KEY)
    return fault("exposure", f"{reach}: serve refuses to start.", f"{_MAKE_KEY}, or {instead}")


def _has_keys(config: ServerConfig) -> bool:
    """Whether keys were ever made; a database that cannot be read is told of elsewhere."""
    if config.database_url is None and not (config.data_dir / DATABASE_FILE).is_file():
        return False
    with suppress(Exception), closing(Database(config.resolved_database_url)) as database:
        return database.read_blocking(api_keys.stamp)[0] > 0
    return False


def check_proxy(machine: Machine, config: ServerConfig) -> Finding:
    """Whether a proxy of the environment would take calls to ourselves, as it does the SDK's."""
    host = urlsplit(base_url(config.host, 1)).hostname or config.host
    names = {name.lower(): value for name, value in machine.environment.items()}
    if not names.get("http_proxy"):
        return ok("proxy", "No proxy is set.")
    if _is_exempt(host, names.get("no_proxy", "")):
        return ok("proxy", f"HTTP_PROXY is set, and NO_PROXY exempts {host}.")
    return fault(
        "proxy",
        f"HTTP_PROXY is set, and NO_PROXY does not exempt {host}: the SDK sends its calls to the"
        " proxy.",
        f'export NO_PROXY="{host},localhost${{NO_PROXY:+,$NO_PROXY}}"',
    )


def check_public_url(config: ServerConfig, holder: Holder | None) -> Finding | None:
    """Whether large bodies come through to a server that runs behind a proxy."""
    if config.public_url is None or holder is None:
        return None
    caller = Caller(config.public_url, seconds=_CALL_SECONDS)
    try:
        caller.call("/healthz")
    except CallError as error:
        return warning(
            "public-url",
            f"MOONTUNE_PUBLIC_URL does not lead to a server: {error}",
            "see to the proxy, or set MOONTUNE_PUBLIC_URL to what callers use",
        )
    try:
        # Nothing takes this; our own refusal shows that the body went through.
        caller.call("/healthz", method="POST", body=bytes(LARGE_BODY_BYTES))
    except CallError as error:
        if "request_id" not in error.body:
            status = f"with {error.status}" if error.status else "by closing the connection"
            return fault(
                "public-url",
                f"What stands at MOONTUNE_PUBLIC_URL refuses a body of {LARGE_BODY_BYTES >> 20} MiB"
                f" {status}; pictures do not come through.",
                "nginx: client_max_body_size 0; proxy_request_buffering off; proxy_buffering off;"
                " (docs/proxies.md has whole files)",
            )
    return ok("public-url", "MOONTUNE_PUBLIC_URL leads here, and lets large bodies through.")


def _is_exempt(host: str, no_proxy: str) -> bool:
    """Whether Python's `urllib`, which the SDK uses, goes past the proxy."""
    names = [name.strip().lstrip(".").lower() for name in no_proxy.split(",")]
    return no_proxy.strip() == "*" or any(
        name and (host.lower() == name or host.lower().endswith(f".{name}")) for name in names
    )


def _refused(
    machine: Machine, config: ServerConfig, holder: Holder | None, error: OSError
) -> Finding:
    host, port = config.host, config.port
    if error.errno == errno.EADDRNOTAVAIL:
        return fault(
            "address",
            f"{host} is no address of this machine.",
            "moontune serve --host 127.0.0.1 (`ip address` lists all)",
        )
    if error.errno != errno.EADDRINUSE:
        return fault(
            "address",
            f"{host} port {port} cannot be used: {error.strerror}.",
            "moontune serve --port 8000 (those below 1024 are for root)",
        )
    if holder is not None and holder.url and urlsplit(holder.url).port == port:
        return ok("address", f"The server of this data directory listens on port {port}.")
    pid = _listener(machine.proc, port)
    who = "another program" if pid is None else f"process {pid} ({_name(machine.proc, pid)})"
    end = "" if pid is None else f", or kill {pid}"
    return fault(
        "address",
        f"Port {port} is taken by {who}.",
        f"moontune serve --port 0 takes a free one{end}",
    )


def _listener(proc: Path, port: int) -> int | None:
    """The process that listens on a port, if we may see it."""
    sockets = {f"socket:[{inode}]" for inode in _inodes(proc, port)}
    for link in proc.glob("[0-9]*/fd/*") if sockets else ():
        try:
            if str(link.readlink()) in sockets:
                return int(link.parts[-3])
        except OSError:
            continue  # it ended, or is not ours to see
    return None


def _inodes(proc: Path, port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            local, state, inode = words[1], words[3], words[9]
            if state == _LISTENING and int(local.rpartition(":")[2], 16) == port:
                yield inode


def _name(proc: Path, pid: int) -> str:
    try:
        return (proc / str(pid) / "comm").read_text().strip()
    except OSError:
        return "?"
