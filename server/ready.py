"""The one line of `moontune serve` on stdout: written for people, read by `moontune demo`."""

from __future__ import annotations

from contract.engine import ModelInfo

PREFIX = "moontune ready: "

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}


def base_url(host: str, port: int) -> str:
    """The address to use from this machine; a wildcard is reached through the loopback."""
    name = _WILDCARDS.get(host) or (f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}"


def ready_line(url: str, model: ModelInfo) -> str:
    """Such as `moontune ready: http://127.0.0.1:8000 · model tiny (...) · SDK endpoint http://...`."""
    size = _count(model.num_parameters)
    facts = f"{model.family}, {size} parameters, {model.device} {model.dtype}"
    return f"{PREFIX}{url} · model {model.name} ({facts}) · SDK endpoint {url}/v1/tuning"


def read_url(line: str) -> str | None:
    """The URL of a ready line, None for any other line."""
    return line.removeprefix(PREFIX).split()[0] if line.startswith(PREFIX) else None


def _count(number: int) -> str:
    """2600000 -> `2.6M`."""
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.1f}{name}"
    return str(number)
